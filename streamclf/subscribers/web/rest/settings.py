"""Answer /api/settings: the configuration, edits of it, previews of thresholds, and tests of sources.

The routes are functions without `async`, so that they run in threads: they read files, and wait for other processes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Query
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from streamclf.config.actions import SCENE_LOST, ActionConfig, Off, On, StreamActions, UpToADay, UpToAnHour
from streamclf.config.stream import StreamName
from streamclf.errors import BusError, ConfigError, SourceError, UsageError, plain_fault
from streamclf.events.views import Label, ViewKey
from streamclf.redact import redact
from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.settings.area_edit import SetArea
from streamclf.subscribers.web.settings.config_editor import Applied, ConfigConflictError, ConfigEditor
from streamclf.subscribers.web.settings.edits import AddStream, Edit
from streamclf.subscribers.web.settings.overview import ReloadResult, Settings, describe_settings, reload_result
from streamclf.subscribers.web.settings.recent_predictions import Recent, RecentPredictions
from streamclf.subscribers.web.settings.source_test import Found, test_source
from streamclf.subscribers.web.settings.threshold_preview import Firing, curve, find_model_of, recount

MAX_PREVIEWS: Final = 4
"""Previews that are computed or wait at the same time: each holds a thread, of which the page has few."""
MAX_FIRINGS: Final = 500
"""Actions that a preview lists; it counts all of them."""
_NO_FILE: Final = (
    "This page does not have the configuration's file, so it cannot change it. Run the page on the machine of the "
    "service as outlets.web, or with streamclf web ENDPOINT --config FILE."
)


class EditResult(BaseModel):
    """An edit that was written to the file. The service reads the file within about two seconds."""

    description: str
    difference: str = Field(description="The changed lines, as a unified diff.")
    settings: Settings


class EditRequest(BaseModel):
    """An edit, and the version of the content that it was made for."""

    version: str = Field(max_length=64)
    edit: Annotated[Edit | SetArea, Field(discriminator="change")]


class UndoRequest(BaseModel):
    """The version of the content whose last edit is taken back."""

    version: str = Field(max_length=64)


class PreviewRequest(BaseModel):
    """Thresholds to try on the last hour of one stream, or of one of its regions."""

    stream: StreamName
    region: StreamName | None = Field(None, description="A region of the stream; null for a stream without regions.")
    label: Label = Field(description="The key of the action: a label, or MODEL/LABEL.")
    on: On
    off: Off
    min_s: UpToAnHour
    cooldown_s: UpToADay


class Preview(BaseModel):
    """The actions of the last hour with the present thresholds, and with others. Times are seconds since 1970."""

    begin: float = Field(description="Where the predictions begin: an hour ago, or later where there are none before.")
    end: float
    predictions: int
    partial: bool = Field(description="The model has more labels than an event; a label that is missing counts as 0.")
    present: list[Firing] | None = Field(description="With the present thresholds; null if the label is no action.")
    present_count: int
    tried: list[Firing]
    tried_count: int
    curve: list[tuple[float, float]] = Field(description="(time, probability) of the label before smoothing.")


class QuietRoute(APIRoute):
    """A route whose answer to a wrong body does not repeat the body, which may hold a password."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request."""
        handle = super().get_route_handler()

        async def handle_quietly(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                place = ".".join(str(part) for part in first["loc"][-2:])
                message = plain_fault(str(first["msg"]))
                raise HTTPException(422, redact(f"{place}: {message}")[:500]) from None

        return handle_quietly


def make_settings_router(context: PageContext) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/settings", tags=["settings"], route_class=QuietRoute)
    service = context.service
    editor = context.editor
    recent = RecentPredictions(service.address, lambda: service.heartbeat)
    previews = threading.BoundedSemaphore(MAX_PREVIEWS)

    def need_editor() -> ConfigEditor:
        if editor is None:
            raise HTTPException(404, _NO_FILE)
        return editor

    @router.get("")
    def get_settings() -> Settings:
        """Return the configuration, as far as the page changes it."""
        if editor is None:
            return Settings(available=False, reason=_NO_FILE)
        try:
            return describe_settings(editor, editor.read(), service)
        except UsageError as error:
            return Settings(available=False, file=str(editor.path), reason=redact(str(error)))

    @router.post("/edits", responses={409: {"description": "The file was edited by hand meanwhile."}})
    def make_edit(request: EditRequest) -> EditResult:
        """Check an edit, and write it to the file."""
        return finish(lambda editor: editor.apply(request.edit, request.version))

    @router.post("/undo", responses={409: {"description": "The file was edited by hand meanwhile."}})
    def undo(request: UndoRequest) -> EditResult:
        """Take the last edit of this page back."""
        return finish(lambda editor: editor.undo(request.version))

    def finish(edit: Any) -> EditResult:
        editor = need_editor()
        try:
            applied: Applied = edit(editor)
        except ConfigConflictError as error:
            detail = {"message": redact(str(error)), "theirs": error.theirs, "ours": error.ours}
            raise HTTPException(409, detail) from None
        except UsageError as error:
            raise HTTPException(422, redact(str(error))) from None
        context.report.notice(f"settings: {redact(applied.description)}")
        settings = describe_settings(editor, applied.now, service)
        return EditResult(description=applied.description, difference=applied.difference, settings=settings)

    @router.get("/result")
    def get_result(saved: Annotated[str, Query(max_length=128)]) -> ReloadResult:
        """Return how the service received a save of the file: applied, refused, or not read yet."""
        return reload_result(service, saved)

    @router.post("/preview")
    def preview(request: PreviewRequest) -> Preview:
        """Compute which actions the last hour would have had with other thresholds."""
        chosen = _thresholds(need_editor(), request)
        now_s = time.time()
        if not previews.acquire(blocking=False):
            raise HTTPException(
                503, f"{MAX_PREVIEWS} previews are being computed, the limit; try again", {"Retry-After": "5"}
            )
        try:
            return _preview(recent.read(request.stream, now_s, chosen.view), now_s, chosen)
        except BusError as error:
            raise HTTPException(503, redact(str(error))) from None
        finally:
            previews.release()

    @router.post("/test")
    def test(edit: AddStream) -> Found:
        """Open the source of a new stream, and return its properties and its first picture."""
        path = need_editor().path
        try:
            return test_source(edit, path)
        except (ConfigError, SourceError) as error:
            raise HTTPException(422, redact(str(error))) from None

    return router


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """The action of a preview: its view, its label there, and its present and its tried configuration."""

    view: ViewKey
    label: str
    present: StreamActions | None
    tried: StreamActions


def _thresholds(editor: ConfigEditor, request: PreviewRequest) -> _Chosen:
    """Find the action that a request means. Raises `HTTPException`."""
    try:
        now = editor.read()
    except UsageError as error:
        raise HTTPException(422, redact(str(error))) from None
    config = now.config
    if config is None:
        raise HTTPException(422, "the configuration has an error; correct it first")
    if request.stream not in config.streams:
        raise HTTPException(404, f"the configuration has no stream {request.stream}; it was removed or renamed")
    view = next((each for each in config.views_of(request.stream) if each.region == request.region), None)
    if view is None:
        raise HTTPException(
            404,
            f"stream {request.stream} has no region {request.region or 'without a name'}; it was removed or renamed",
        )
    actions = view.actions.with_thresholds(now.thresholds)
    action = actions.labels.get(request.label)
    values = request.model_dump(include={"on", "off", "min_s", "cooldown_s"})
    try:
        tried = ActionConfig.model_validate({**(action.model_dump() if action else {}), **values})
        if request.label.rpartition("/")[2] == SCENE_LOST:
            tried = tried.for_scene()
    except ValidationError as error:
        raise HTTPException(422, plain_fault(error.errors()[0]["msg"])) from None
    except ValueError as error:
        raise HTTPException(422, plain_fault(str(error))) from None
    bundles = now.bundles or {}
    model, label = find_model_of(view, bundles, request.label)
    hides_scene = bundles[model].spec.hides_scene if model in bundles else ()
    return _Chosen(
        view=ViewKey(view.region, model or None),
        label=label,
        present=None if action is None else _only(actions, label, action, hides_scene),
        tried=_only(actions, label, tried, hides_scene),
    )


def _only(actions: StreamActions, label: str, action: ActionConfig, hides_scene: Sequence[str]) -> StreamActions:
    """Return `actions` with one action alone."""
    return actions.model_copy(update={"labels": {label: action}}).with_hold(hides_scene)


def _preview(recent: Recent, now_s: float, chosen: _Chosen) -> Preview:
    begin_s = recent.begin_s
    before = None if chosen.present is None else recount(recent.samples, chosen.present, begin_s)
    after = recount(recent.samples, chosen.tried, begin_s)
    first_s = recent.samples[0].time_s if recent.samples else begin_s
    return Preview(
        begin=max(begin_s, first_s),
        end=now_s,
        predictions=sum(sample.time_s >= begin_s for sample in recent.samples),
        partial=recent.is_partial,
        present=None if before is None else before[-MAX_FIRINGS:],
        present_count=len(before or ()),
        tried=after[-MAX_FIRINGS:],
        tried_count=len(after),
        curve=curve(recent.samples, chosen.label, begin_s, now_s),
    )
