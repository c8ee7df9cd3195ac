"""Show the page Health. `static/health.js` draws it from /api/health."""

from __future__ import annotations

from nicegui import ui

from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.pages.layout import page_frame


def add_health_page(context: PageContext) -> None:
    """Add the page."""

    @ui.page("/health")
    def show_health() -> None:
        with page_frame(context, "/health", scripts=("health.js",), styles=("health.css",)):
            ui.html("<h1 class='visually-hidden'>Health</h1><div id='health'></div>", sanitize=False)
