"""Show the page Settings. `static/settings.js` draws it."""

from __future__ import annotations

from nicegui import ui

from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.pages.layout import page_frame


def add_settings_page(context: PageContext) -> None:
    """Add the page."""

    @ui.page("/settings")
    def show_settings() -> None:
        with page_frame(context, "/settings", scripts=("settings.js",), styles=("settings.css",)):
            ui.html("<h1>Settings</h1><div id='settings'></div>", sanitize=False)
