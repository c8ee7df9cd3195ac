"""Play films as the live service does, in media time, and record the actions that it would report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from engines.bundle import Bundle, ModelSpec
from engines.group import EngineGroup
from engines.protocol import Engine, SharingEngine
from streamclf.builtin_models import BUNDLES, builtin_models
from streamclf.classifier.action_tracker import ActionChange, ActionTracker
from streamclf.classifier.offline import iter_full_windows, open_film
from streamclf.classifier.scene_check import SceneCheck, scene_slots
from streamclf.classifier.window_classifier import WindowResult, offline_bank_slots
from streamclf.config.actions import SCENE_LOST, ActionConfig, StreamActions
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.service import ServiceConfig, load_config
from streamclf.config.views import UNNAMED, actions_of_model
from streamclf.errors import SourceError
from streamclf.net.names import describe_unknown
from streamclf.sources import Source
from streamclf.teach.limits import NONE_FOLDERS
from streamclf.windows.chunks import FrameHook
from training.errors import DataError, RecipeError

EVENTLESS: Final = frozenset({"normal", "something else", *NONE_FOLDERS})
"""Labels for windows in which nothing of interest happens. They have no default action: it would hardly ever end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRun:
    """One action. `start_s` and `end_s` are the media times at which the service reports its start and its end."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedFilm:
    """The actions of a film in order of their starts; times are media time in seconds.

    Predictions came from `first_s`, the end of the first window, to `last_s`. `watched_s` is that time without gaps in
    the film. A film without any window has 0 for all three. `warning`: a fault of the film, in one line.
    """

    runs: tuple[ActionRun, ...]
    first_s: float
    last_s: float
    watched_s: float
    warning: str | None = None


def play_film(
    engine: Engine,
    path: Path,
    actions: StreamActions,
    *,
    hop: int = 1,
    on_frame: FrameHook | None = None,
    on_window: Callable[[WindowResult], None] | None = None,
    area: PictureArea = WHOLE,
) -> PlayedFilm:
    """Play a film file, of which the model sees `area`. Raises `DataError` if it cannot be read.

    The engine's bank needs `live_bank_slots`. `on_frame` is called with each frame as it is read, `on_window` with each
    window.
    """
    try:
        with open_film(path, [engine.spec], "auto", area) as source:
            return play_source(engine, source, actions, hop=hop, on_frame=on_frame, on_window=on_window, area=area)
    except SourceError as error:
        raise DataError(str(error)) from error


def play_source(
    engine: Engine,
    source: Source,
    actions: StreamActions,
    *,
    hop: int = 1,
    on_frame: FrameHook | None = None,
    on_window: Callable[[WindowResult], None] | None = None,
    area: PictureArea = WHOLE,
) -> PlayedFilm:
    """Play the frames of a source to its end, as `play_film` does. Raises the errors of the source.

    As in the service, an action that hides the scene is held until the scene is back, if the bank has
    `live_bank_slots`.
    """
    spec, player = engine.spec, _Player(engine.spec, actions, hop)
    has_slots = engine.bank_slots >= live_bank_slots(spec, engine.max_batch)
    scenes = SceneCheck(spec, offline_bank_slots(spec, engine.max_batch) if has_slots else None)
    group = EngineGroup(UNNAMED, cast("SharingEngine", engine))  # it shares nothing: it has only this model
    for window, result in iter_full_windows(engine, source, hop, on_frame, area):
        if on_window is not None:
            on_window(result)
        scenes.update(group, {UNNAMED: window}, lambda feed, model: player.tracker)
        player.add(result, scenes.lost(UNNAMED, UNNAMED, player.tracker))
    return player.finish(source.warning)


def play_windows(
    windows: Iterable[WindowResult], spec: ModelSpec, actions: StreamActions, *, hop: int = 1
) -> PlayedFilm:
    """Play windows that are classified already, in order, as other actions may be tried on the same predictions.

    No action is held, because that needs the windows' features.
    """
    player = _Player(spec, actions, hop)
    for window in windows:
        player.add(window)
    return player.finish()


def live_bank_slots(spec: ModelSpec, max_batch: int) -> int:
    """Return the bank slots that `play_source` needs."""
    return offline_bank_slots(spec, max_batch) + scene_slots(spec)


class _Player:
    """Follow the actions through the windows of one film."""

    def __init__(self, spec: ModelSpec, actions: StreamActions, hop: int) -> None:
        self.tracker = ActionTracker.of(actions)
        self._labels, self._hop_s = spec.labels, hop * spec.chunk_s
        self._running: dict[str, float] = {}
        self._runs: list[ActionRun] = []
        self._count, self._first_s, self._last_s = 0, 0.0, 0.0

    def add(self, window: WindowResult, scene_lost: float | None = None) -> None:
        by_label = dict(zip(self._labels, window.probabilities.tolist(), strict=True))
        start_s, end_s = round(window.start_s, 6), round(window.end_s, 6)  # as events have them
        self._record(self.tracker.update(by_label, start_s, end_s, window.segment, scene_lost=scene_lost))
        self._first_s = self._first_s if self._count else end_s
        self._count, self._last_s = self._count + 1, end_s

    def finish(self, warning: str | None = None) -> PlayedFilm:
        self._record(self.tracker.close("stopped"))
        return PlayedFilm(
            runs=tuple(sorted(self._runs, key=lambda run: (run.start_s, run.label))),
            first_s=self._first_s,
            last_s=self._last_s,
            watched_s=self._count * self._hop_s,
            warning=warning,
        )

    def _record(self, changes: Sequence[ActionChange]) -> None:
        for change in changes:
            if change.phase == "start":
                self._running[change.label] = change.at_s
            elif change.phase == "end":
                start_s = self._running.pop(change.label)
                self._runs.append(ActionRun(label=change.label, start_s=start_s, end_s=change.at_s))


def default_actions(spec: ModelSpec) -> StreamActions:
    """Return an action with the defaults for each label that is not `EVENTLESS`, with the bundle's thresholds."""
    labels = {label: ActionConfig() for label in spec.labels if label not in EVENTLESS}
    return StreamActions(labels=labels).with_thresholds(spec.thresholds).with_hold(spec.hides_scene)


def with_scene_lost(actions: StreamActions) -> StreamActions:
    """Return `actions` with the action `scene_lost`, too, with its defaults."""
    return actions.model_copy(update={"labels": {**actions.labels, SCENE_LOST: ActionConfig().for_scene()}})


def configured_actions(path: Path, bundle: Bundle, stream: str | None = None) -> tuple[StreamActions, int]:
    """Return the actions that a stream of the service with the configuration `path` has for `bundle`, and its hop.

    `stream` may be None if all streams have the same ones. A film has no time of day, so hours do not apply; an action
    that is never active is left out. Raises `ConfigError`, and `RecipeError` if there is no action or no such stream.
    """
    config = load_config(path)
    if stream is not None and stream not in config.streams:
        raise RecipeError(f"--stream: {describe_unknown('stream', stream, list(config.streams), str(path))}")
    name = _model_name(config, bundle)
    found = [
        (actions_of_model(config.actions_of(each), name, bundle.spec.find_label), config.streams[each].hop)
        for each in (config.streams if stream is None else [stream])
    ]
    if any(each != found[0] for each in found):
        raise RecipeError(f"--actions {path}: its streams differ in their actions or in hop; give --stream")
    given, hop = found[0]
    labels = {
        label: action.model_copy(update={"active": None})
        for label, action in given.labels.items()
        if action.active != ()
    }
    if not labels:
        raise RecipeError(
            f"--actions {path}: has no action for a label of {bundle.spec.id}; add one under actions:, or leave "
            "--actions out"
        )
    try:
        actions = given.model_copy(update={"labels": labels}).with_thresholds(bundle.spec.thresholds)
    except ValueError as error:
        raise RecipeError(f"--actions {path}: actions.{error}") from None
    return actions.with_hold(bundle.spec.hides_scene), hop


def _model_name(config: ServiceConfig, bundle: Bundle) -> str:
    """Return the name that the configuration has for the bundle; that of the top-level `model` if it has none."""
    built_in = builtin_models()
    for name, model in config.models.items():
        if (BUNDLES / model if model in built_in else Path(model)).resolve() == bundle.path.resolve():
            return name
    return UNNAMED
