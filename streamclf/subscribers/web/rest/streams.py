"""Answer /api/service and /api/streams: the service's state, its streams, and their latest pictures."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, HTTPException, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, StringConstraints

from streamclf.events.views import ViewKey
from streamclf.net.names import STREAM_NAME_PATTERN
from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.service_view import LiveService, Picture
from streamclf.subscribers.web.summaries import StreamSummary, service_summary, summarize
from streamclf.subscribers.web.timeline import Timeline, TimelineReader

PICTURE_WAIT_S: Final = 5.0
"""Wait this long for a new picture of a stream."""
_FRESH_S: Final = 2.0
_MAX_WAITING: Final = 32
"""Requests for pictures that wait at the same time."""
_MAX_READING: Final = 8

Name = Annotated[str, Path(pattern=STREAM_NAME_PATTERN)]
ViewName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,64}$")]
"""The name of a region or a model, or an empty text."""


class ServiceState(BaseModel):
    """The service that the page shows."""

    away_since: datetime | None
    """When the last message arrived of a service that is silent now; null while it sends."""
    endpoint: str
    journal_fault: str | None
    streams: list[str]
    outlets: dict[str, str]
    """State of each outlet of the service, by name."""
    browsers: int
    """Browsers that are connected now."""
    pictures_left_out: int
    """Pictures that browsers did not get because they were slow."""


def make_streams_router(context: PageContext) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["streams"])
    service = context.service
    timelines = TimelineReader(service.address)
    waiting, reading = asyncio.Semaphore(_MAX_WAITING), asyncio.Semaphore(_MAX_READING)

    @router.get("/service")
    async def get_service() -> ServiceState:
        """Return the state of the service."""
        wall = context.wall
        return ServiceState(**service_summary(service), browsers=wall.browsers, pictures_left_out=wall.left_out)

    @router.get("/streams")
    async def list_streams() -> list[StreamSummary]:
        """Return the present state of every stream."""
        found = [summarize(service, name) for name in service.names()]
        return [each for each in found if each is not None]

    @router.get("/streams/{name}")
    async def get_stream(name: Name) -> StreamSummary:
        """Return the present state of one stream."""
        found = summarize(service, name)
        if found is None:
            raise HTTPException(404, f"no stream {name}; it was removed or renamed")
        return found

    @router.get("/streams/{name}/timeline")
    async def get_timeline(
        name: Name,
        region: Annotated[ViewName | None, Query(description="A region; without it, the whole picture.")] = None,
        model: Annotated[ViewName | None, Query(description="A model's name; without it, the unnamed model.")] = None,
    ) -> Timeline:
        """Return the probabilities of one view of the stream over the last hour, from the journal.

        Without `region` and `model`, it is the first view.
        """
        heartbeat = service.heartbeat
        if name not in service.names():
            raise HTTPException(404, f"no stream {name}; it was removed or renamed")
        if heartbeat is None:
            raise HTTPException(503, "the service has sent nothing yet; try again in a few seconds")
        if reading.locked():
            raise HTTPException(503, f"{_MAX_READING} requests for timelines are waiting, the limit; try again")
        async with reading:
            view = ViewKey(region or None, model or None)
            if region is None and model is None:
                view = service.read(name, lambda state: state.ordered_views()[0][0]) or view
            return await asyncio.to_thread(timelines.read, name, view, heartbeat)

    @router.get("/streams/{name}/picture", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
    async def get_picture(name: Name) -> Response:
        """Return the stream's picture as JPEG, at most 2 s old; the service makes one if there is none."""
        if name not in service.names():
            raise HTTPException(404, f"no stream {name}; it was removed or renamed")
        if waiting.locked():
            raise HTTPException(503, f"{_MAX_WAITING} requests for pictures are waiting, the limit; try again")
        async with waiting:
            picture = await wait_for_picture(service, name)
        if picture is None:
            raise HTTPException(504, f"{name} sent no picture within {PICTURE_WAIT_S:g} s; check that it is live")
        return Response(picture.jpeg, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    return router


async def wait_for_picture(service: LiveService, name: str) -> Picture | None:
    """Return a picture of the stream that is at most 2 s old; wait up to 5 s for one."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    owner = object()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(changed.set)

    end_s = time.monotonic() + PICTURE_WAIT_S
    remove = service.add_waker(wake)
    try:
        while True:
            picture = service.picture(name)
            if picture is not None and time.monotonic() - picture.received_at_s < _FRESH_S:
                return picture
            service.interest.set(owner, seen=(name,))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), max(0.0, end_s - time.monotonic()))
            changed.clear()
            if time.monotonic() >= end_s:
                return None
    finally:
        remove()
        service.interest.remove(owner)
