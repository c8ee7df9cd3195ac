"""Show the page Events."""

from __future__ import annotations

from nicegui import ui

from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.pages.layout import page_frame


def add_events_page(context: PageContext) -> None:
    """Add the page."""

    @ui.page("/events")
    def show_events() -> None:
        with page_frame(context, "/events"):
            ui.html("<h1>Events</h1>", sanitize=False)
