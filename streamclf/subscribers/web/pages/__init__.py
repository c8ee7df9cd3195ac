"""The pages. Each module has a function that adds its page to NiceGUI, given the `PageContext`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.pages.events import add_events_page
from streamclf.subscribers.web.pages.health import add_health_page
from streamclf.subscribers.web.pages.live import add_live_page
from streamclf.subscribers.web.pages.settings import add_settings_page
from streamclf.subscribers.web.pages.teach import add_teach_page

PAGES: Final[tuple[Callable[[PageContext], None], ...]] = (
    add_live_page,
    add_events_page,
    add_teach_page,
    add_health_page,
    add_settings_page,
)
