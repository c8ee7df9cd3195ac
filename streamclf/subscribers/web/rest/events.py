"""Answer /api/events and /api/clips: actions, and their films and pictures."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Path, Query
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, Field
from starlette.requests import Request

from streamclf.clips.folder import MissingClipError, StarredClipError
from streamclf.clips.links import clip_link, linked_path
from streamclf.errors import ClipError, JournalError, UsageError
from streamclf.events.types import MAX_OFFSET, Epoch
from streamclf.subscribers.web.archive import EventArchive
from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.file_response import MEDIA_TYPES, FileResponse
from streamclf.subscribers.web.history.records import (
    MAX_TEXT_CHARS,
    ActionFilter,
    ActionRecord,
    ActionState,
    ClipRecord,
)
from streamclf.subscribers.web.history.search import MAX_LIMIT

SHARE_S: Final = 7 * 86400.0
"""Longest time that a shared link is valid, as long as clips are kept by default."""

_WORDS: Final = "Words in stream, name, region, model or label."
_ONLY_REGIONS: Final = "Only these regions; an empty text is the whole picture."
_ONLY_MODELS: Final = "Only models with these names; an empty text is the model without a name."
ViewName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$")]
"""The name of a region or a model, or an empty text."""
_NO_CLIP: Final = "no such clip; it was deleted or has expired"

EventOffset = Annotated[int, Path(ge=-(2**53), le=MAX_OFFSET, description="`offset` of the event in the list.")]
EventEpoch = Annotated[
    Epoch | None, Query(description="`epoch` of the event; without it, the present journal comes first.")
]


class ClipFiles(BaseModel):
    """One film of an event. The URLs are paths on this page."""

    part: int
    last: bool
    began: datetime
    seconds: float
    start_s: float
    end_s: float
    bytes: int
    starred: bool
    film: str
    still: str | None
    drawn: str | None


class EventEntry(BaseModel):
    """One action. Labels and names are any text: escape them before you show them."""

    offset: int
    epoch: str
    stream: str
    name: str
    """Name of the stream for people."""
    label: str
    region: str | None
    """Region of the stream's picture; null for the whole picture."""
    model_name: str | None
    """Name of the model in the configuration; null for the model without a name."""
    state: ActionState
    began: datetime
    ended: datetime | None
    duration_s: float
    probability: float
    """Peak of the smoothed probability."""
    reason: str | None
    """Why it ended."""
    starred: bool
    clips: list[ClipFiles]
    page: str
    """Path of the page that shows this event."""


class EventList(BaseModel):
    """Some events, newest first."""

    events: list[EventEntry]
    next_cursor: str | None
    """Give it as `cursor` to get the events after these; null at the end."""
    version: int
    """Grows with each change. Give it as `version` to get an answer only after a change."""
    loading: bool
    """Whether older events are still being read from the journal."""
    has_clips: bool
    """Whether the page has a folder of clips."""
    fault: str
    """Why the page cannot store events now; empty if it can."""


class Choices(BaseModel):
    """The values that filters can have."""

    streams: dict[str, str]
    """Name for people by stream."""
    labels: list[str]
    regions: list[str]
    """An empty text stands for the whole picture."""
    models: list[str]
    """An empty text stands for the model without a name."""


class Star(BaseModel):
    """Whether the clips of an event are kept for ever."""

    starred: bool


class Share(BaseModel):
    """How to share a clip."""

    part: Annotated[int, Field(ge=1)] = 1
    hours: Annotated[float, Field(gt=0, le=SHARE_S / 3600)] = 24.0


class SharedLink(BaseModel):
    """Paths on this page that need no login until they expire. Each gives access to one file only."""

    film: str
    still: str | None
    expires: datetime


def make_events_router(context: PageContext) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["events"])
    archive = context.archive

    answers: dict[int | str, dict[str, Any]] = {
        200: {"model": EventList},
        204: {"description": "Nothing has changed since `version`."},
    }

    @router.get("/events", responses=answers, response_model=None)
    def list_events(
        stream: Annotated[list[str], Query(max_length=64, description="Only these streams.")] = [],  # noqa: B006
        label: Annotated[list[str], Query(max_length=64, description="Only these labels.")] = [],  # noqa: B006
        region: Annotated[list[ViewName], Query(max_length=64, description=_ONLY_REGIONS)] = [],  # noqa: B006
        model: Annotated[list[ViewName], Query(max_length=64, description=_ONLY_MODELS)] = [],  # noqa: B006
        since: Annotated[AwareDatetime | None, Query(description="Only events that went on at or after it.")] = None,
        until: Annotated[AwareDatetime | None, Query(description="Only events that began before it.")] = None,
        text: Annotated[
            str, Query(max_length=MAX_TEXT_CHARS, description="Words in stream, name, region, model or label.")
        ] = "",
        starred: Annotated[bool, Query(description="Only events with a starred clip.")] = False,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
        cursor: Annotated[str | None, Query(max_length=64)] = None,
        version: Annotated[int | None, Query(description="Answer 204 if nothing has changed since it.")] = None,
    ) -> EventList | Response:
        """Return events, newest first, a page at a time."""
        if version is not None and version == context.history.version:
            return Response(status_code=204)
        with _translated():
            chosen = ActionFilter(
                streams=tuple(stream), labels=tuple(label), regions=tuple(region), models=tuple(model),
                since=since, until=until, text=text, starred=starred,
            )  # fmt: skip
            page = archive.find(chosen, limit=limit, cursor=cursor)
            names = archive.names()
        return EventList(
            events=[_entry(action, names) for action in page.actions],
            next_cursor=page.next_cursor,
            version=page.version,
            loading=context.follower.is_loading,
            has_clips=archive.folder is not None,
            fault=context.follower.fault,
        )

    @router.get("/events/choices")
    def list_choices() -> Choices:
        """Return the streams, labels, regions and models that events have."""
        names = archive.names()
        streams = sorted({*context.history.known_streams(), *context.service.names()})
        return Choices(
            streams={stream: names.get(stream, stream) for stream in streams},
            labels=context.history.known_labels(),
            regions=context.history.known_regions(),
            models=context.history.known_models(),
        )

    @router.get("/events/{offset}")
    def get_event(offset: EventOffset, epoch: EventEpoch = None) -> EventEntry:
        """Return one event."""
        return _entry(_find(archive, offset, epoch), archive.names())

    @router.post("/events/{offset}/star")
    def star_event(offset: EventOffset, star: Star, epoch: EventEpoch = None) -> EventEntry:
        """Keep the clips of an event for ever, or not any more."""
        with _translated():
            archive.star(_find(archive, offset, epoch), starred=star.starred)
        return _entry(_find(archive, offset, epoch), archive.names())

    @router.delete("/events/{offset}", status_code=204)
    def delete_event(offset: EventOffset, epoch: EventEpoch = None) -> None:
        """Delete the clips of an event, and hide it for ever. The service's journal is not changed."""
        with _translated():
            archive.delete(_find(archive, offset, epoch))

    @router.post("/events/{offset}/share")
    def share_event(offset: EventOffset, share: Share, epoch: EventEpoch = None) -> SharedLink:
        """Make links to a clip that need no login until they expire."""
        action = _find(archive, offset, epoch)
        clip = next((clip for clip in action.clips if clip.part == share.part), None)
        if clip is None:
            raise HTTPException(404, f"the event has no clip with part {share.part}; it was deleted or has expired")
        valid_s = share.hours * 3600
        signer = context.access.signer
        still = clip.drawn or clip.still
        return SharedLink(
            film=clip_link(signer, clip.file, valid_s),
            still=None if still is None else clip_link(signer, still, valid_s),
            expires=datetime.fromtimestamp(datetime.now(timezone.utc).timestamp() + valid_s, timezone.utc),
        )

    @router.api_route("/clips/{path:path}", methods=["GET", "HEAD"], response_class=Response)
    def get_clip(path: str, download: bool = False) -> Response:
        """Return a film or a picture. A Range header gets a part of it."""
        return send_clip(archive, path, download=download)

    return router


def make_shared_router(context: PageContext) -> APIRouter:
    """Make the route of shared links. Each link is signed, and opens one file until it expires."""
    router = APIRouter(tags=["events"])

    @router.api_route("/shared/clip/{link:path}", methods=["GET", "HEAD"], response_class=Response)
    def get_shared(link: str, request: Request) -> Response:
        """Return the film or picture of a shared link."""
        path = linked_path(context.access.signer, link)
        if path is None:
            raise HTTPException(404, "the link is wrong or has expired; ask for a new one")
        return send_clip(context.archive, path, download="download" in request.query_params)

    return router


def send_clip(archive: EventArchive, path: str, *, download: bool) -> Response:
    """Answer with a file of the clips' folder. Raises `HTTPException` if there is none."""
    name = PurePosixPath(path)
    media_type = MEDIA_TYPES.get(name.suffix)
    if media_type is None:
        raise HTTPException(404, _NO_CLIP)
    with _translated():
        file = archive.open(path)
    return FileResponse(file, media_type, download=path.replace("/", "_") if download else None)


class _translated:  # noqa: N801 - used like a function
    """Answer with the status of an error that a request caused."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        match error:
            case MissingClipError():
                raise HTTPException(404, _NO_CLIP) from None  # its text names the folder on this machine
            case StarredClipError():
                raise HTTPException(409, str(error)) from None
            case UsageError():
                raise HTTPException(422, str(error)) from None
            case ClipError() | JournalError():
                raise HTTPException(503, str(error)) from None


def _find(archive: EventArchive, offset: int, epoch: str | None) -> ActionRecord:
    found = archive.get(offset, epoch)
    if found is None:
        raise HTTPException(404, f"no event {offset}; it was deleted, or the journal no longer has it")
    return found


def _entry(action: ActionRecord, names: dict[str, str]) -> EventEntry:
    fields = {key: value for key, value in asdict(action).items() if key != "clips"}
    query = f"?epoch={action.epoch}" if action.epoch else ""
    return EventEntry(
        **fields,
        name=names.get(action.stream, action.stream),
        starred=any(clip.starred for clip in action.clips),
        clips=[_files(clip) for clip in action.clips],
        page=f"/events/{action.offset}{query}",
    )


def _files(clip: ClipRecord) -> ClipFiles:
    return ClipFiles(
        part=clip.part,
        last=clip.last,
        began=clip.began,
        seconds=max(0.0, clip.end_s - clip.start_s),
        start_s=clip.start_s,
        end_s=clip.end_s,
        bytes=clip.bytes,
        starred=clip.starred,
        film=_url(clip.file),
        still=None if clip.still is None else _url(clip.still),
        drawn=None if clip.drawn is None else _url(clip.drawn),
    )


def _url(path: str) -> str:
    """Return the path of a clip's file on the page. Names of clips need no quoting."""
    return f"/api/clips/{path}"
