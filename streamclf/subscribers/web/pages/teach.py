"""Show the page Teach. `static/teach.js` draws it from /api/teach."""

from __future__ import annotations

from nicegui import ui

from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.pages.layout import page_frame


def add_teach_page(context: PageContext) -> None:
    """Add the page."""

    @ui.page("/teach")
    def show_teach() -> None:
        with page_frame(context, "/teach", scripts=("teach.js",), styles=("settings.css", "teach.css")):
            ui.html("<h1 class='visually-hidden'>Teach</h1><div id='teach'></div>", sanitize=False)
