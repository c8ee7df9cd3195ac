"""Join the parts of teaching for one page: the configuration, the examples, the training, and the live service."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from engines.bundle import load_bundle
from engines.errors import EngineError
from streamclf.client.examples import save_example
from streamclf.clips.folder import ClipFolder
from streamclf.config.examples import ExamplesConfig
from streamclf.config.service import ServiceConfig
from streamclf.errors import BusError, ConfigError, UsageError
from streamclf.events.example_request import ExampleRequest, ExampleResult
from streamclf.net.endpoints import reachable_endpoint
from streamclf.subscribers.web.service_view import LiveService
from streamclf.subscribers.web.settings.config_editor import Applied, ConfigEditor
from streamclf.subscribers.web.teach.clip_copy import copy_clip
from streamclf.subscribers.web.teach.library import ExampleLibrary
from streamclf.subscribers.web.teach.live_edits import EnableExamples, GoLive, RemoveModel, bundle_text
from streamclf.subscribers.web.teach.training import TeachRunner, Training

MAX_SAVING: Final = 4
"""Examples that are saved at the same time: each has threads of libzmq, and a page has little memory for stacks."""
MAX_VERSIONS: Final = 1000
RESULT_FILE: Final = "page.json"
"""File in a bundle's folder with the figures that the page shows again after a restart."""
MAX_RESULT_BYTES: Final = 4 << 20
NO_FILE: Final = (
    "Teaching needs the configuration's file. Run the page on the machine of the service as outlets.web, or with "
    "streamclf web ENDPOINT --config FILE."
)
NO_SECTION: Final = (
    "To teach a model, each stream must hold its last minute in memory, up to 64 MB. Add the section `examples` to "
    "the configuration."
)


class NoExamplesError(UsageError):
    """A page or a service that cannot keep examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One model that was taught, newest first in a list. `views` are the streams and regions that it serves."""

    name: str
    made_s: float
    views: tuple[tuple[str, str | None], ...]
    is_live: bool
    result: dict[str, Any] | None


class TeachService:
    """Everything that the page Teach does. Methods may be called in any thread."""

    def __init__(self, editor: ConfigEditor | None, service: LiveService, runner: TeachRunner | None = None) -> None:
        self._editor, self._service = editor, service
        self.runner = runner or TeachRunner()
        self._saving = threading.BoundedSemaphore(MAX_SAVING)
        self._lock = threading.Lock()
        self._library: ExampleLibrary | None = None

    def config(self) -> tuple[ServiceConfig, ExamplesConfig]:
        """Return the present configuration and its section `examples`. Raises `UsageError`."""
        if self._editor is None:
            raise NoExamplesError(NO_FILE)
        now = self._editor.read()
        if now.config is None:
            raise UsageError(f"The configuration has an error: {now.error}")
        if now.config.examples is None:
            raise NoExamplesError(NO_SECTION)
        return now.config, now.config.examples

    def library(self) -> ExampleLibrary:
        """Return the examples. Raises `UsageError`."""
        _, examples = self.config()
        with self._lock:
            if self._library is None or self._library.root != examples.folder:
                self._library = ExampleLibrary(examples.folder)
            return self._library

    def enable(self) -> Applied:
        """Add the section `examples` to the configuration."""
        editor = self._need_editor()
        return editor.apply(EnableExamples(), editor.read().version)

    def shows(self, stream: str) -> bool:
        """Return whether the page shows a stream."""
        return self._service.shows(stream)

    @property
    def can_enable(self) -> bool:
        """Whether the section `examples` is all that is missing."""
        if self._editor is None or self._editor.read_only is not None:
            return False
        config = self._editor.read().config
        return config is not None and config.examples is None

    def save(self, request: ExampleRequest) -> ExampleResult:
        """Save a stretch of a stream. Raises `ClipError` with the reason, `BusError`, and `UsageError`."""
        config, _ = self.config()
        heartbeat = self._service.heartbeat
        if heartbeat is None or self._service.away_since is not None:
            raise BusError("the service sends no events now; try again once it runs")
        if not self.shows(request.stream):
            raise ConfigError(f"streams.{request.stream}: this page does not show it (streams of outlets.web)")
        request = request.model_copy(update={"area": _area_of(config, request.stream, request.region)})
        if not self._saving.acquire(blocking=False):
            raise BusError(f"{MAX_SAVING} examples are being saved, the limit; try again in a few seconds")
        try:
            replay = reachable_endpoint(heartbeat.replay, self._service.address.endpoint)
            result = save_example(self._service.address, replay, request)
        finally:
            self._saving.release()
        if request.project is not None and request.label is not None and result.file is not None:
            self.library().note_saved(request.project, result.file, request.label)
        return result

    def add_clip(self, clips: ClipFolder, file: str, project: str, label: str, region: str | None) -> str:
        """Copy the clip of an event into the examples; return the path of the new example."""
        config, examples = self.config()
        library, stream = self.library(), file.partition("/")[0]
        clips.open(file).close()  # a clip that is not there must not leave an empty label
        area = _area_of(config, stream, region) if stream in config.streams else None
        library.add_label(project, label)
        path = copy_clip(clips, file, examples.folder / project, label, region, area)
        name = path.relative_to(examples.folder).as_posix()
        library.note_saved(project, name, label)
        return name

    def train(self, project: str) -> Training:
        """Train the next version of a model. Raises `UsageError`, and `ClipError` for a wrong name."""
        config, examples = self.config()
        if project not in self.library().projects():
            raise UsageError(f"{project}: has no examples yet; add some first")
        version = self._next_version(project, config, examples)
        bundle = examples.models / version
        return self.runner.start(
            project, version, examples.folder / project, bundle, lambda training: _keep_result(bundle, training)
        )

    def versions(self, project: str) -> list[Version]:
        """Return the models that were taught from the examples of a project, newest first."""
        config, examples = self.config()
        views = {
            name: tuple(
                (stream, view.region)
                for stream in config.streams
                for view in config.views_of(stream)
                if name in view.models
            )
            for name in config.models
        }
        names = [name for name in _folder_names(examples.models) if _number_of(project, name) is not None]
        found = []
        for name in sorted(names, key=lambda name: _number_of(project, name) or 0, reverse=True):
            bundle, result = examples.models / name, _read_result(examples.models / name)
            spec = bundle / "spec.json"
            if not spec.is_file() or (result or {}).get("project", project) != project:
                continue  # yard-2 may also be the first version of another project
            is_live = config.models.get(name) == str(bundle)
            shown = views.get(name, ()) if is_live else ()
            made_s = spec.stat().st_mtime
            found.append(Version(name=name, made_s=made_s, views=shown, is_live=is_live, result=result))
        return found

    def go_live(self, project: str, version: str, stream: str, region: str | None) -> Applied:
        """Serve a version on a stream or one of its regions, beside the models that are there."""
        _, examples = self.config()
        self._check_version(project, version)
        bundle = examples.models / version
        try:
            spec = load_bundle(bundle).spec
        except EngineError as error:
            raise UsageError(str(error)) from None
        editor = self._need_editor()
        edit = GoLive(
            model=version,
            bundle=bundle_text(bundle, editor.path.absolute()),
            stream=stream,
            region=region,
            # Teaching chooses a threshold for each label but "none of these". The bundle is there before its result.
            labels=tuple(label for label in spec.labels if label in spec.thresholds) or spec.labels,
        )
        return editor.apply(edit, editor.read().version)

    def keep(self, project: str, version: str) -> list[Applied]:
        """Keep a live version: stop serving the other versions of the same project."""
        versions = self.versions(project)
        if not any(each.name == version and each.is_live for each in versions):
            raise UsageError(f"{version}: is not live; it was removed in the meantime")
        return [self._remove(each.name) for each in versions if each.is_live and each.name != version]

    def back(self, project: str, version: str) -> Applied:
        """Stop serving a version; the models that were there before go on. Its bundle stays on disk."""
        if not any(each.name == version and each.is_live for each in self.versions(project)):
            raise UsageError(f"{version}: is not live; it was removed in the meantime")
        return self._remove(version)

    def report(self, project: str, version: str) -> Path:
        """Return the path of the report of a version. Raises `UsageError`."""
        _, examples = self.config()
        self._check_version(project, version)
        report = examples.models / version / "report.html"
        if not report.is_file():
            raise UsageError(f"{version}: has no report; train again to get one")
        return report

    def _remove(self, version: str) -> Applied:
        editor = self._need_editor()
        return editor.apply(RemoveModel(model=version), editor.read().version)

    def _need_editor(self) -> ConfigEditor:
        if self._editor is None:
            raise NoExamplesError(NO_FILE)
        return self._editor

    def _check_version(self, project: str, version: str) -> None:
        if not any(each.name == version for each in self.versions(project)):
            raise UsageError(f"{version[:80]}: no version of {project}; it was removed, or belongs to another name")

    def _next_version(self, project: str, config: ServiceConfig, examples: ExamplesConfig) -> str:
        for number in range(1, MAX_VERSIONS):
            name = _version_name(project, number)
            if name not in config.models and not (examples.models / name).exists():
                return name
        raise UsageError(f"{project}: has {MAX_VERSIONS} versions; remove some from {examples.models}")


def _version_name(project: str, number: int) -> str:
    return project if number == 1 else f"{project}-{number}"


def _number_of(project: str, name: str) -> int | None:
    """Return the number of a version from its name; None for a name that is no version of the project."""
    if name == project:
        return 1
    stem, _, number = name.rpartition("-")
    is_number = stem == project and number.isascii() and number.isdigit() and len(number) < 5
    return int(number) if is_number and not number.startswith("0") and number != "1" else None


def _folder_names(folder: Path) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return [entry.name for entry in islice(entries, 10 * MAX_VERSIONS) if entry.is_dir(follow_symlinks=False)]
    return []


def _area_of(config: ServiceConfig, stream: str, region: str | None) -> dict[str, Any] | None:
    """Return the part of the picture that a view shows, as the keys that differ from the whole picture."""
    if stream not in config.streams:
        raise ConfigError(f"streams.{stream}: no such stream; it was removed or renamed")
    for view in config.views_of(stream):
        if view.region == region:
            area: dict[str, Any] = view.area.keys
            return area or None
    if region is None:
        raise ConfigError(f"streams.{stream}: has regions; choose one of {', '.join(config.streams[stream].regions)}")
    raise ConfigError(f"streams.{stream}.regions.{region}: no such region; it was removed or renamed")


def _keep_result(bundle: Path, training: Training) -> None:
    if training.outcome == "done" and training.result is not None and bundle.is_dir():
        draft = bundle / f".{RESULT_FILE}.new"
        draft.write_bytes(
            orjson.dumps(
                {**training.result, "project": training.project, "seconds_in_all": training.seconds, "at": time.time()}
            )
        )
        draft.replace(bundle / RESULT_FILE)


def _read_result(bundle: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, orjson.JSONDecodeError):
        file = bundle / RESULT_FILE
        if not file.is_symlink() and file.stat().st_size <= MAX_RESULT_BYTES:
            found = orjson.loads(file.read_bytes())
            return found if isinstance(found, dict) else None
    return None
