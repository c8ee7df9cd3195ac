"""Show the wall of streams, and one stream large. `static/live.js` draws both."""

from __future__ import annotations

from nicegui import ui

from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.pages.layout import page_frame


def add_live_page(context: PageContext) -> None:
    """Add the page, which has a path for each stream, too."""

    @ui.page("/live")
    @ui.page("/live/{stream}")
    def show_live(stream: str = "") -> None:
        with page_frame(context, "/live", scripts=("live.js",), styles=("live.css",)):
            ui.html("<h1 class='visually-hidden'>Live</h1><div id='live'></div>", sanitize=False)
