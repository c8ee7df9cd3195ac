"""Show the page Events. `static/events.js` draws it from /api/events."""

from __future__ import annotations

from nicegui import ui

from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.pages.layout import page_frame


def add_events_page(context: PageContext) -> None:
    """Add the page, which has a path for each event, too."""

    @ui.page("/events")
    @ui.page("/events/{offset}")
    def show_events(offset: str = "") -> None:
        with page_frame(context, "/events", scripts=("events.js",), styles=("events.css",)):
            ui.html("<h1 class='visually-hidden'>Events</h1><div id='events'></div>", sanitize=False)
