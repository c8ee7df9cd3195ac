"""The REST routes under /api/. Each module has a function that makes its router, given the `PageContext`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastapi import APIRouter

from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.rest.events import make_events_router
from streamclf.subscribers.web.rest.health import make_health_router
from streamclf.subscribers.web.rest.settings import make_settings_router
from streamclf.subscribers.web.rest.streams import make_streams_router
from streamclf.subscribers.web.rest.teach import make_teach_router

ROUTERS: Final[tuple[Callable[[PageContext], APIRouter], ...]] = (
    make_streams_router,
    make_events_router,
    make_settings_router,
    make_health_router,
    make_teach_router,
)
