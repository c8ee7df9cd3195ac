"""Measure how much the picture of a feed differs from the scene before an action, with the model's own head.

A window is composed of chunks of the scene and the present chunks. Its probabilities are compared with those of the
scene alone. If the picture has not changed, they are nearly equal. If something covers the lens, the window shows a
change that the model recognises. So a model needs no other output, and no threshold of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from engines.arrays import F32, I32
from engines.bundle import ModelSpec
from streamclf.classifier.prediction import media_s
from streamclf.classifier.scene_hold import LOST
from streamclf.classifier.scene_memory import SCENES, SceneMemory
from streamclf.windows.assembler import Window

if TYPE_CHECKING:
    from engines.group import EngineGroup
    from engines.protocol import Engine
    from streamclf.classifier.action_tracker import ActionTracker

FindTracker: TypeAlias = "Callable[[str, str], ActionTracker | None]"
"""From the names of a feed and a model, its tracker."""

MAX_EARLIER: Final = 2
"""Scenes of earlier actions that are kept for one feed and model."""


def scene_slots(spec: ModelSpec) -> int:
    """Return the bank slots that a classifier needs for the comparison, for all of its feeds together."""
    return SCENES * (spec.chunks // 2)


@dataclass(slots=True, kw_only=True)
class _Scene:
    """Stretches of a scene (R, T // 2, *F), and the probabilities (R, K) of windows that show only them."""

    features: F32
    probabilities: F32


@dataclass(slots=True, kw_only=True)
class _Comparison:
    """The scenes that one model compares a feed's picture with, while an action runs that may be held."""

    scenes: list[_Scene]
    """The scenes that had not returned after earlier actions, then the one from before this action, if it is known."""
    earlier: int
    """How many of them are earlier ones."""
    losses: list[float] = field(default_factory=list)
    """How much the picture differs from each scene, 0 to 1; empty before the first measurement."""

    @property
    def lost(self) -> float | None:
        """How much the picture differs from the scene that it is most like."""
        return min(self.losses, default=None)


class SceneCheck:
    """Remember the scenes of feeds, and compare their pictures with them while an action runs that may be held.

    Call `update` only while no submitted window waits for its result.
    """

    def __init__(self, spec: ModelSpec, first_slot: int | None) -> None:
        """Use `scene_slots` bank slots from `first_slot` on; with None, measure nothing."""
        self._first_slot = first_slot if spec.chunks > 1 else None
        self._length = spec.chunks // 2
        self._window_s = spec.window_s
        self._memories: dict[str, SceneMemory] = {}
        self._running: dict[tuple[str, str], _Comparison] = {}
        self._earlier: dict[tuple[str, str], list[_Scene]] = {}
        """Scenes that had not returned when the action ended. They may return later, without another action."""

    def forget_feed(self, feed: str) -> None:
        """Forget the scenes of a feed that is not served any more."""
        self._memories.pop(feed, None)
        self._forget(lambda key: key[0] == feed)

    def forget_model(self, model: str) -> None:
        """Forget the comparisons of a model that does not serve any more."""
        self._forget(lambda key: key[1] == model)

    def _forget(self, is_gone: Callable[[tuple[str, str]], bool]) -> None:
        self._running = {key: each for key, each in self._running.items() if not is_gone(key)}
        self._earlier = {key: each for key, each in self._earlier.items() if not is_gone(key)}

    def lost(self, feed: str, model: str) -> float | None:
        """Return how much the picture differs from the scene, 0 to 1; None while nothing is compared."""
        comparison = self._running.get((feed, model))
        return None if comparison is None else comparison.lost

    def update(self, group: EngineGroup, newest: Mapping[str, Window], tracker_of: FindTracker) -> None:
        """Remember and compare the `newest` window of each feed whose windows are due."""
        if self._first_slot is None:
            return
        for feed, window in newest.items():
            trackers = {model: tracker for model in group if (tracker := tracker_of(feed, model)) and tracker.can_hold}
            for model in group:
                if model not in trackers:
                    self._running.pop((feed, model), None)
            if trackers:
                self._update_feed(group, feed, window, trackers)
            elif feed in self._memories:
                self.forget_feed(feed)

    def _update_feed(self, group: EngineGroup, feed: str, window: Window, trackers: dict[str, ActionTracker]) -> None:
        memory = self._memories.setdefault(feed, SceneMemory())
        at_s = media_s(window.end_pts_ns)
        if memory.is_due(at_s) and all(tracker.shows_scene for tracker in trackers.values()):
            memory.add(at_s, self._read(group, window.slots[-self._length :]))
        for model, tracker in trackers.items():
            key = feed, model
            started_s = tracker.hidden_since_s
            if started_s is None:
                self._end(key, memory)
                continue
            if key not in self._running:
                self._running[key] = self._begin(group, key, memory, started_s, tracker)
            comparison = self._running[key]
            present = window.slots[self._length :]
            comparison.losses = [self._compare(group, group[model], scene, present) for scene in comparison.scenes]

    def _begin(
        self, group: EngineGroup, key: tuple[str, str], memory: SceneMemory, started_s: float, tracker: ActionTracker
    ) -> _Comparison:
        """Take the scene from before the window in which the label became probable, and earlier scenes."""
        scenes = list(self._earlier.get(key, ()))
        earlier = len(scenes)
        features = memory.before(started_s - self._window_s)
        if features is not None:
            engine = group[key[1]]
            probabilities = self._classify(group, engine, features)
            hidden = [i for i, label in enumerate(engine.spec.labels) if label in tracker.holding_labels]
            if probabilities[:, hidden].max(initial=0.0) < LOST:
                scenes.append(_Scene(features=features, probabilities=probabilities))
        return _Comparison(scenes=scenes, earlier=earlier)

    def _end(self, key: tuple[str, str], memory: SceneMemory) -> None:
        """Stop comparing. Keep scenes that have not returned. If an earlier one has returned, it is the scene again."""
        comparison = self._running.pop(key, None)
        if comparison is None or comparison.lost is None:
            return
        if comparison.lost >= LOST:
            self._earlier[key] = comparison.scenes[-MAX_EARLIER:]
            return
        self._earlier.pop(key, None)
        place = comparison.losses.index(comparison.lost)
        if place < comparison.earlier:
            memory.restore(comparison.scenes[place].features)

    def _compare(self, group: EngineGroup, engine: Engine, scene: _Scene, present: I32) -> float:
        """Return how much the probabilities change when the chunks in `present` follow the scene, 0 to 1."""
        change = np.abs(self._classify(group, engine, scene.features, present) - scene.probabilities)
        share = change.max(axis=1) if engine.spec.activation == "sigmoid" else change.sum(axis=1) / 2
        return float(np.quantile(share, 0.5, method="lower"))  # of two stretches, the one that the picture is like

    def _classify(self, group: EngineGroup, engine: Engine, features: F32, present: I32 | None = None) -> F32:
        """Classify windows that begin with stretches (R, T // 2, *F) -> (R, K).

        They end with the chunks in the bank's slots `present` (T - T // 2,), or with the stretch itself again.
        """
        assert self._first_slot is not None
        count, length = features.shape[:2]
        own = self._first_slot + np.arange(count * length, dtype=np.int32).reshape(count, length)
        rest = engine.spec.chunks - length
        ends = own[:, np.arange(rest) % length] if present is None else np.broadcast_to(present, (count, rest))
        flat, slots, step = features.reshape(-1, *features.shape[2:]), own.ravel(), group.max_batch
        for i in range(0, len(slots), step):
            group.owner.write_features(flat[i : i + step], slots[i : i + step])
        windows = np.concatenate([own, ends], axis=1, dtype=np.int32)
        return np.concatenate([engine.classify(windows[i : i + step]) for i in range(0, count, step)])

    def _read(self, group: EngineGroup, slots: I32) -> F32:
        step = group.max_batch
        return np.concatenate([group.owner.read_features(slots[i : i + step]) for i in range(0, len(slots), step)])
