"""Measure how much the picture of a feed differs from its scene, with the model's own head.

A window is composed of chunks of the scene and the present chunks. Its probabilities are compared with those of the
scene alone. If the picture has not changed, they are nearly equal. If something covers the lens, the window shows a
change that the model recognises. So a model needs no other output, and no threshold of its own.

During an action that may be held, the scene is that from before the action. For the action `scene_lost`, the picture is
always compared: without an action, with the scene of a few seconds ago, and with that of a minute ago.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from engines.arrays import F32, I32
from engines.bundle import ModelSpec
from streamclf.classifier.prediction import media_s
from streamclf.classifier.scene_hold import LOST, cover_was_removed
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
WATCH_S: Final = 2.0
"""The newest stretch of the scene ended at least this long before the present window began."""
MAX_STRETCHES: Final = 3
"""Stretches in one run of the head; enough for those of the latest scene and the old one."""


def scene_slots(spec: ModelSpec) -> int:
    """Return the bank slots that a classifier needs for the comparison, for all of its feeds together."""
    return MAX_STRETCHES * (spec.chunks // 2)


@dataclass(slots=True, kw_only=True)
class _Scene:
    """Stretches of a scene (R, T // 2, *F), and the probabilities (R, K) of windows that show only them."""

    features: F32
    probabilities: F32


@dataclass(slots=True, kw_only=True)
class _Comparison:
    """The scenes that one model compares a feed's picture with, while an action runs that may be held."""

    started_s: float
    """When the action began, see `ActionTracker.hidden_since_s`. Another action needs another comparison."""
    scenes: list[_Scene]
    """The old scene (a minute before this action), those that had not returned after earlier actions, and the latest.

    The first and the last are missing if they are not known or show a cover.
    """
    earlier: int
    """The number of scenes before the latest one, which is last if it is known."""
    hidden_probability: float = 0.0
    """The probability of a label that hides the scene, in the latest scene alone."""
    was_cover: bool = False
    """Whether the latest scene has turned out to be a cover: see `cover_was_removed`."""
    losses: list[float] = field(default_factory=list)
    """How much the picture differs from each scene, 0 to 1; empty before the first measurement."""

    @property
    def lost(self) -> float:
        """How much the picture differs from the scene that it is most like; 0 if no scene is known."""
        return min(self.losses, default=0.0)


@dataclass(slots=True, kw_only=True)
class _Watch:
    """The comparison for `scene_lost` while no action runs that may be held."""

    moments: tuple[float, ...]
    """See `SceneMemory.moments_before`: other moments are other scenes."""
    scenes: list[_Scene]
    """As those of a comparison; none if the latest is not known."""
    lost: float = 0.0
    """How much the picture differs from the scene that it is most like, 0 to 1; 0 if no scene is known."""


class SceneCheck:
    """Remember the scenes of feeds, and compare their pictures with them: for held actions, and for `scene_lost`.

    Call `update` only while no submitted window waits for its result.
    """

    def __init__(self, spec: ModelSpec, first_slot: int | None) -> None:
        """Use `scene_slots` bank slots from `first_slot` on; with None, measure nothing."""
        self._first_slot = first_slot if spec.chunks > 1 else None
        self._length = spec.chunks // 2
        self._window_s = spec.window_s
        self._memories: dict[str, SceneMemory] = {}
        self._running: dict[tuple[str, str], _Comparison] = {}
        self._watches: dict[tuple[str, str], _Watch] = {}
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
        self._watches = {key: each for key, each in self._watches.items() if not is_gone(key)}
        self._earlier = {key: each for key, each in self._earlier.items() if not is_gone(key)}

    def lost(self, feed: str, model: str, tracker: ActionTracker | None) -> float | None:
        """Return how much the picture differs from the scene, 0 to 1; None if it is not compared.

        It is 0 if the scene is not known. Before the first comparison of an action it is 1: one batch of a late
        classifier may contain all windows in which the label is probable.
        """
        if self._first_slot is None or tracker is None:
            return None
        if tracker.hidden_since_s is None:
            watch = self._watches.get((feed, model))
            return (watch.lost if watch else 0.0) if tracker.watches_scene else None
        comparison = self._running.get((feed, model))
        return 1.0 if comparison is None else comparison.lost

    def update(self, group: EngineGroup, newest: Mapping[str, Window], tracker_of: FindTracker) -> None:
        """Remember and compare the `newest` window of each feed whose windows are due."""
        if self._first_slot is None:
            return
        for feed, window in newest.items():
            trackers = {model: tracker for model in group if (tracker := tracker_of(feed, model)) and tracker.can_hold}
            for model in group:
                if model not in trackers:
                    self._running.pop((feed, model), None)
                if model not in trackers or not trackers[model].watches_scene:
                    self._watches.pop((feed, model), None)
            if trackers:
                self._update_feed(group, feed, window, trackers)
            elif feed in self._memories:
                self.forget_feed(feed)

    def _update_feed(self, group: EngineGroup, feed: str, window: Window, trackers: dict[str, ActionTracker]) -> None:
        memory = self._memories.setdefault(feed, SceneMemory())
        at_s = media_s(window.end_pts_ns)
        if all(tracker.hidden_since_s is None for tracker in trackers.values()):
            may_be_hidden = any(tracker.may_be_hidden for tracker in trackers.values())
            if memory.is_due(at_s, may_be_hidden=may_be_hidden):
                memory.add(at_s, self._read(group, window.slots[-self._length :]))
        for model, tracker in trackers.items():
            key, present = (feed, model), window.slots[self._length :]
            started_s = tracker.hidden_since_s
            if started_s is None:
                self._end(key, memory, tracker, at_s)
                if tracker.watches_scene:
                    self._watch(at_s, group, key, memory, tracker, present)
                continue
            comparison = self._running.get(key)
            # One late batch may hold the end of an action and the start of the next. The scene is then the same.
            if comparison is None or comparison.started_s != started_s:
                comparison = self._running[key] = self._begin(group, key, memory, started_s, tracker)
            comparison.losses = self._compare(group, group[model], comparison.scenes, present)
            comparison.was_cover |= cover_was_removed(comparison.hidden_probability, tracker.hidden_probability)
            if comparison.was_cover:
                comparison.losses[-1] = 0.0

    def _begin(
        self, group: EngineGroup, key: tuple[str, str], memory: SceneMemory, started_s: float, tracker: ActionTracker
    ) -> _Comparison:
        """Take the scenes from before the window in which the label became probable, and those of earlier actions.

        If `scene_lost` begins alone, they are the scenes that are lost.
        """
        watch = self._watches.pop(key, None)
        if watch is not None and watch.scenes and not tracker.is_label_held:
            return _Comparison(started_s=started_s, scenes=watch.scenes, earlier=len(watch.scenes) - 1)
        earlier, latest, hidden = self._scenes_before(started_s - self._window_s, group, key, memory, tracker)
        return _Comparison(
            started_s=started_s, scenes=[*earlier, *latest], earlier=len(earlier), hidden_probability=hidden
        )

    def _scenes_before(
        self, at_s: float, group: EngineGroup, key: tuple[str, str], memory: SceneMemory, tracker: ActionTracker
    ) -> tuple[list[_Scene], list[_Scene], float]:
        """Return the scenes of earlier times, the latest one, and the probability of a cover in it.

        The lists leave out scenes that are not known or show a cover.
        """
        engine = group[key[1]]
        labels = [i for i, label in enumerate(engine.spec.labels) if label in tracker.holding_labels]

        def scene_of(features: F32 | None) -> tuple[list[_Scene], float]:
            if features is None:
                return [], 0.0
            probabilities = self._classify(group, engine, features)
            hidden = float(probabilities[:, labels].max(initial=0.0))
            return ([], 0.0) if hidden >= LOST else ([_Scene(features=features, probabilities=probabilities)], hidden)

        old, _ = scene_of(memory.long_before(at_s))
        latest, hidden = scene_of(memory.before(at_s))
        return [*old, *self._earlier.get(key, ())], latest, hidden

    def _watch(
        self,
        at_s: float,
        group: EngineGroup,
        key: tuple[str, str],
        memory: SceneMemory,
        tracker: ActionTracker,
        present: I32,
    ) -> None:
        """Compare the chunks in `present` with the scene while no action runs that may be held."""
        before_s = at_s - self._window_s - WATCH_S
        moments = memory.moments_before(before_s)
        watch = self._watches.get(key)
        if watch is None or watch.moments != moments:
            earlier, latest, _ = self._scenes_before(before_s, group, key, memory, tracker)
            # One moment alone may show somebody who passes. Without a latest scene, the picture cannot have left it.
            is_known = latest and len(latest[0].features) == SCENES
            watch = self._watches[key] = _Watch(moments=moments, scenes=[*earlier, *latest] if is_known else [])
        watch.lost = min(self._compare(group, group[key[1]], watch.scenes, present), default=0.0)

    def _end(self, key: tuple[str, str], memory: SceneMemory, tracker: ActionTracker, at_s: float) -> None:
        """Stop comparing. If no scene has returned, keep all for later actions.

        If an earlier scene has returned, it is the scene again. If the latest one was a cover, forget it. If
        `scene_lost` has run for its longest time, the present picture is to become the scene.
        """
        comparison = self._running.pop(key, None)
        if comparison is None or not comparison.losses:
            return
        if comparison.lost >= LOST:
            self._earlier[key] = comparison.scenes[-MAX_EARLIER:]
            if tracker.has_given_up(comparison.started_s, at_s):
                memory.clear()
            return
        self._earlier.pop(key, None)
        earlier, latest = comparison.losses[: comparison.earlier], comparison.losses[comparison.earlier :]
        if latest and latest[0] < LOST and not comparison.was_cover:
            return
        if earlier and min(earlier) < LOST:
            memory.restore(comparison.scenes[earlier.index(min(earlier))].features)
        else:
            memory.clear()

    def _compare(self, group: EngineGroup, engine: Engine, scenes: Sequence[_Scene], present: I32) -> list[float]:
        """Return, for each scene, how much the probabilities change if the chunks in `present` follow it, 0 to 1."""
        if not scenes:
            return []
        features = np.concatenate([scene.features for scene in scenes])
        alone = np.concatenate([scene.probabilities for scene in scenes])
        change = np.abs(self._classify(group, engine, features, present) - alone)
        share = change.max(axis=1) if engine.spec.activation == "sigmoid" else change.sum(axis=1) / 2
        firsts = np.cumsum([len(scene.features) for scene in scenes])[:-1]
        return [float(part.min()) for part in np.split(share, firsts)]  # of the stretch that the picture is most like

    def _classify(self, group: EngineGroup, engine: Engine, features: F32, present: I32 | None = None) -> F32:
        """Classify windows that begin with stretches (R, T // 2, *F) -> (R, K).

        They end with the chunks in the bank's slots `present` (T - T // 2,), or with the stretch itself again.
        """
        assert self._first_slot is not None
        if len(features) > MAX_STRETCHES:
            parts = [features[i : i + MAX_STRETCHES] for i in range(0, len(features), MAX_STRETCHES)]
            return np.concatenate([self._classify(group, engine, part, present) for part in parts])
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
