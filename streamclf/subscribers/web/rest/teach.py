"""Answer /api/teach: examples, training, and models that go live."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Final, TypeVar

from fastapi import APIRouter, HTTPException, Path, Query
from fastapi.responses import Response

from streamclf.client.stream_views import StreamState
from streamclf.config.views import MODEL_KEY
from streamclf.errors import BusError, ClipError, ConfigError, UsageError
from streamclf.events.example_request import MAX_STRETCH_S, MIN_STRETCH_S, PROJECT_PATTERN, ExampleRequest
from streamclf.net.names import STREAM_NAME_PATTERN
from streamclf.redact import redact
from streamclf.subscribers.web.context import PageContext
from streamclf.subscribers.web.file_response import FileResponse
from streamclf.subscribers.web.rest.settings import QuietRoute
from streamclf.subscribers.web.rest.teach_bodies import (
    Change,
    ExampleEntry,
    LabelEntry,
    Labelled,
    LiveChoice,
    ModelPrediction,
    ModelVersion,
    NewLabel,
    OneFile,
    OneVersion,
    ProjectState,
    Saved,
    Stretch,
    TeachState,
    TeachStream,
    TrainingState,
)
from streamclf.subscribers.web.settings.config_editor import Applied, ConfigConflictError
from streamclf.subscribers.web.teach.advice import advise, can_train
from streamclf.subscribers.web.teach.example_paths import MissingExampleError
from streamclf.subscribers.web.teach.library import ExampleFilm
from streamclf.subscribers.web.teach.service import NoExamplesError
from streamclf.teach.libraries import require_libraries

MAX_LISTED: Final = 500
"""Examples without a label that the page lists."""
_MEDIA_TYPES: Final = {"mp4": "video/mp4", "m4v": "video/mp4", "mov": "video/quicktime", "webm": "video/webm"}

_ResultT = TypeVar("_ResultT")
Project = Annotated[str, Path(pattern=PROJECT_PATTERN)]
Stream = Annotated[str, Path(pattern=STREAM_NAME_PATTERN)]


def make_teach_router(context: PageContext) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/teach", tags=["teach"], route_class=QuietRoute)
    teach = context.teach

    @router.get("")
    def get_state() -> TeachState:
        """Return what can be taught, and the training that goes on."""
        current = teach.runner.current
        training = None if current is None else TrainingState.of(current)
        try:
            config, examples = teach.config()
            library = teach.library()
        except UsageError as error:
            return TeachState(
                available=False,
                reason=redact(str(error)),
                can_enable=_or_error(lambda: teach.can_enable),
                now=time.time(),
                training=training,
            )
        names = context.service.display_names()
        streams = [
            TeachStream(
                stream=name,
                name=names.get(name),
                models={
                    view.region or "": [model or MODEL_KEY for model in view.models] for view in config.views_of(name)
                },
                regions={region: part.region for region, part in stream.regions.items()},
            )
            for name, stream in config.streams.items()
            if stream.enabled and teach.shows(name)
        ]
        return TeachState(
            available=True,
            missing=_missing(),
            now=time.time(),
            last_s=examples.last_s,
            uncertain=examples.uncertain,
            unlabelled=len(_or_error(library.unlabelled)),
            streams=streams,
            projects=_or_error(library.projects),
            training=training,
        )

    @router.post("/enable")
    def enable() -> list[Change]:
        """Add the section `examples` to the configuration."""
        return change(lambda: [teach.enable()])

    @router.get("/projects/{project}")
    def get_project(project: Project) -> ProjectState:
        """Return the examples and the models of one name; a name without any is a new one."""
        library = _or_error(teach.library)
        examples = _or_error(lambda: library.examples(project))
        by_label: defaultdict[str, list[ExampleFilm]] = defaultdict(list)
        for label in _or_error(lambda: library.labels(project)):
            by_label[label] = []
        for each in examples:
            by_label[each.label or ""].append(each)
        versions = [
            ModelVersion(
                name=each.name,
                made=each.made_s,
                is_live=each.is_live,
                views=list(each.views),
                has_report=_has_report(project, each.name),
                result=each.result,
            )
            for each in _or_error(lambda: teach.versions(project))
        ]
        return ProjectState(
            project=project,
            labels=[
                LabelEntry(label=label, count=len(found), seconds=sum(each.seconds for each in found))
                for label, found in by_label.items()
            ],
            examples=[_entry(each) for each in examples],
            advice=advise(by_label),
            can_train=can_train(by_label),
            undo=library.undoable(project),
            versions=versions,
        )

    @router.post("/projects/{project}/labels")
    def add_label(project: Project, new: NewLabel) -> None:
        """Add a label."""
        _or_error(lambda: teach.library().add_label(project, new.label))

    @router.delete("/projects/{project}/labels")
    def remove_label(project: Project, label: Annotated[str, Query(max_length=256)]) -> None:
        """Remove a label that has no examples."""
        _or_error(lambda: teach.library().remove_label(project, label))

    @router.post("/projects/{project}/save")
    def save(project: Project, stretch: Stretch) -> Saved:
        """Save a stretch of the last minute of a stream as an example."""
        if not MIN_STRETCH_S <= stretch.end - stretch.begin <= MAX_STRETCH_S:
            length = f"the stretch has {stretch.end - stretch.begin:.1f} s"
            raise HTTPException(422, f"{length}; it must have {MIN_STRETCH_S:g} to {MAX_STRETCH_S:g} s; mark it again")
        request = ExampleRequest(project=project, **stretch.model_dump())
        result = _or_error(lambda: teach.save(request))
        return Saved(file=result.file or "", seconds=result.seconds)

    @router.post("/projects/{project}/label")
    def give_label(project: Project, wanted: Labelled) -> Saved:
        """Give an example another label, or a first one."""
        file = _or_error(lambda: teach.library().move(wanted.file, project, wanted.label))
        return Saved(file=file, seconds=0.0)

    @router.post("/projects/{project}/clip")
    def label_clip(project: Project, wanted: Labelled) -> Saved:
        """Copy a clip of an event into the examples of a label; `file` is its path in the folder of the clips."""
        folder = context.archive.folder
        if folder is None:
            raise HTTPException(404, "the page has no folder of clips; set `clips` in the configuration")
        file = _or_error(lambda: teach.add_clip(folder, wanted.file, project, wanted.label, wanted.region))
        return Saved(file=file, seconds=0.0)

    @router.post("/projects/{project}/delete")
    def delete(project: Project, one: OneFile) -> None:
        """Delete an example; `undo` restores it."""
        _or_error(lambda: teach.library().delete(one.file, project=project))

    @router.post("/projects/{project}/undo")
    def undo(project: Project) -> dict[str, str]:
        """Take the last change of the examples back."""
        return {"description": _or_error(lambda: teach.library().undo(project))}

    @router.get("/predictions/{stream}")
    def get_predictions(
        stream: Stream, region: Annotated[str | None, Query(max_length=64)] = None
    ) -> list[ModelPrediction]:
        """Return the last prediction of each model of a stream, or of one of its regions."""
        if stream not in context.service.names():
            raise HTTPException(404, f"no stream {stream}; it was removed or renamed")

        def read(view: StreamState) -> list[ModelPrediction]:
            return [
                ModelPrediction(model=key.model_name or MODEL_KEY, top=list(each.top[:3]))
                for key, each in view.ordered_views()
                if key.region == region
            ]

        return context.service.read(stream, read) or []

    @router.get("/unlabelled")
    def list_unlabelled() -> list[ExampleEntry]:
        """Return the examples without a label, the least certain first."""
        library = _or_error(teach.library)
        return [_entry(each) for each in _or_error(library.unlabelled)[:MAX_LISTED]]

    @router.get("/film", response_class=Response, responses={200: {"content": {"video/mp4": {}}}})
    def get_film(file: Annotated[str, Query(max_length=1024)]) -> Response:
        """Return an example film."""
        film = _or_error(lambda: teach.library().open(file))
        media_type = _MEDIA_TYPES.get(file.rpartition(".")[2].lower(), "application/octet-stream")
        return FileResponse(film, media_type)

    @router.post("/projects/{project}/train")
    def train(project: Project) -> TrainingState:
        """Train the next version of a model with its examples."""
        training = _or_error(lambda: teach.train(project))
        context.report.notice(f"teach: {training.version} is being trained")
        return TrainingState.of(training)

    @router.post("/cancel")
    def cancel() -> None:
        """Cancel the training that goes on."""
        _or_error(teach.runner.cancel)

    @router.get("/projects/{project}/report/{version}", response_class=Response)
    def get_report(project: Project, version: Annotated[str, Path(pattern=PROJECT_PATTERN)]) -> Response:
        """Return the report of a training. A browser stores it: the page's policy forbids its scripts."""
        path = _or_error(lambda: teach.report(project, version))
        return FileResponse(path.open("rb"), "text/html", download=f"{version}.html")

    @router.post("/projects/{project}/live")
    def go_live(project: Project, choice: LiveChoice) -> list[Change]:
        """Serve a version beside the models that are there."""
        return change(lambda: [teach.go_live(project, choice.version, choice.stream, choice.region)])

    @router.post("/projects/{project}/keep")
    def keep(project: Project, one: OneVersion) -> list[Change]:
        """Keep a live version, and stop serving the older ones."""
        return change(lambda: teach.keep(project, one.version))

    @router.post("/projects/{project}/back")
    def go_back(project: Project, one: OneVersion) -> list[Change]:
        """Stop serving a version; the models that were there before go on."""
        return change(lambda: [teach.back(project, one.version)])

    def change(make: Callable[[], list[Applied]]) -> list[Change]:
        applied = _or_error(make)
        for each in applied:
            context.report.notice(f"teach: {redact(each.description)}")
        return [
            Change(description=each.description, difference=each.difference, saved=each.now.saved) for each in applied
        ]

    def _has_report(project: str, version: str) -> bool:
        with contextlib.suppress(UsageError):
            return teach.report(project, version).is_file()
        return False

    return router


def _entry(example: ExampleFilm) -> ExampleEntry:
    info = example.info
    return ExampleEntry(
        file=example.file,
        label=example.label,
        stream=None if info is None else info.stream,
        region=None if info is None else info.region,
        seconds=example.seconds,
        bytes=example.bytes,
        began=example.began_s,
        top=[] if info is None else list(info.top),
        plays=example.file.rpartition(".")[2].lower() in _MEDIA_TYPES,
    )


def _or_error(make: Callable[[], _ResultT]) -> _ResultT:
    """Return `make()`; an error becomes an answer with its reason."""
    try:
        return make()
    except (MissingExampleError, NoExamplesError) as error:
        raise HTTPException(404, redact(str(error))) from None
    except ConfigConflictError as error:
        raise HTTPException(409, redact(str(error))) from None
    except (ClipError, ConfigError, UsageError) as error:
        raise HTTPException(422, redact(str(error))) from None
    except BusError as error:
        raise HTTPException(503, redact(str(error)), {"Retry-After": "5"}) from None


def _missing() -> str | None:
    try:
        require_libraries()
    except UsageError as error:
        return str(error)
    return None
