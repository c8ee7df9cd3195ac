"""Answer /api/health: how the service is."""

from __future__ import annotations

from fastapi import APIRouter

from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.health.report import HealthReport


def make_health_router(context: PageContext) -> APIRouter:
    """Make the route."""
    router = APIRouter(tags=["health"])

    @router.get("/health")
    def get_health() -> HealthReport:
        """Return the state of streams, outlets, journal, disks and processes, and the last lines of the log."""
        return context.health.report()

    return router
