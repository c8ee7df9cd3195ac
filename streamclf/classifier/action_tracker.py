"""Turn the predictions of one stream into actions with a start and an end. Pure: time is media time in seconds.

A label's probability is smoothed exponentially over `smooth_s`. An action starts when the smoothed value has been at
`on` or above for `min_s`, and ends when it falls below `off`, or when its hours, the segment or the stream end. Between
an end and the next start of the same label lie at least `cooldown_s`. Labels are independent: several actions may run
at once. A window in which no label reaches `unknown_below` is evidence for `unknown` alone. A label with `hold_s` hides
the scene: its action goes on until the scene is back, for at most `hold_s` after the label is not probable any more.
The action `scene_lost` belongs to no label: its evidence is that the picture is not the scene of the last seconds. It
runs until the scene is back, or for `hold_s`; from then on, the picture is the scene.

Example, predictions every 0.2 s, `on=0.8, off=0.5, min_s=0.6`: 0.9 from 10.0 s on starts an action at
10.6 s with `started_s=10.0`. One prediction of 0.3 lowers the smoothed value to 0.61 and does not end it; several do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from zoneinfo import ZoneInfo

from streamclf.classifier.scene_hold import SMOOTH_S, SceneHold
from streamclf.classifier.smoothing import smooth
from streamclf.config.actions import SCENE_LOST, UNKNOWN, ActionConfig, StreamActions
from streamclf.config.hours import Hours, local_time, parse_hours, within, zone_of
from streamclf.events.kinds import Phase

UPDATE_INTERVAL_S: Final = 1.0
"""Media time between two updates of a running action."""
_EPSILON_S = 1e-6
"""Media times are rounded to microseconds; 10.6 - 10.0 must count as 0.6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionChange:
    """One event of an action; `started_s` identifies the action among the actions of its label."""

    label: str
    phase: Phase
    started_s: float
    at_s: float
    probability: float
    peak: float
    segment: int
    reason: str | None = None

    def body(self) -> dict[str, Any]:
        """Return the keys of an `action` event."""
        body: dict[str, Any] = {
            "label": self.label,
            "phase": self.phase,
            "started_s": round(self.started_s, 6),
            "at_s": round(self.at_s, 6),
            "probability": round(self.probability, 6),
            "peak": round(self.peak, 6),
            "segment": self.segment,
        }
        return body if self.reason is None else {**body, "reason": self.reason}


@dataclass(slots=True)
class _Label:
    """The state of one label in the present segment."""

    config: ActionConfig
    hours: tuple[Hours, ...] | None = None
    smoothed: float | None = None
    bare: float | None = None
    """The smoothed probability before `unknown_below` is applied."""
    above_since_s: float | None = None
    started_s: float | None = None
    updated_s: float = 0.0
    peak: float = 0.0
    cooldown_until_s: float = -math.inf
    hold: SceneHold = field(default_factory=SceneHold)

    @property
    def hold_s(self) -> float:
        """How long the action may outlast the label's probability; 0 for a label that hides no scene."""
        return self.config.hold_s or 0.0

    def add(self, evidence: float, probability: float, elapsed_s: float) -> None:
        """Add one value to the smoothed evidence, and one to the smoothed probability."""
        tau_s = self.config.min_s / 2 if self.config.smooth_s is None else self.config.smooth_s
        self.smoothed = smooth(self.smoothed, evidence, elapsed_s, tau_s)
        self.bare = smooth(self.bare, probability, elapsed_s, tau_s)

    def ready_to_start(self, at_s: float) -> bool:
        """Return whether the value has been at `on` or above for `min_s`, and remember when that began."""
        assert self.smoothed is not None
        if self.smoothed < self.config.on or at_s < self.cooldown_until_s - _EPSILON_S:
            self.above_since_s = None
            return False
        if self.above_since_s is None:
            self.above_since_s = at_s
        return at_s - self.above_since_s >= self.config.min_s - _EPSILON_S


@dataclass(slots=True)
class ActionTracker:
    """Track the actions of one stream. Every start that it returns is followed by exactly one end."""

    config: Mapping[str, ActionConfig]
    unknown_below: float = 0.0
    zone: ZoneInfo | None = None
    """Time zone of the hours; None for the machine's time zone."""
    hidden_probability: float = field(default=0.0, init=False)
    """The greatest probability of a label whose action may be held, smoothed; `unknown_below` does not change it."""
    _labels: dict[str, _Label] = field(default_factory=dict)
    _segment: int | None = None
    _at_s: float = 0.0

    def __post_init__(self) -> None:
        self._labels = {label: _Label(config, _hours(config)) for label, config in self.config.items()}

    @classmethod
    def of(cls, actions: StreamActions) -> ActionTracker:
        """Make the tracker of one stream of the configuration."""
        return cls(actions.labels, actions.unknown_below, zone_of(actions.timezone))

    @property
    def holding_labels(self) -> frozenset[str]:
        """The labels whose actions may be held."""
        return frozenset(name for name, label in self._labels.items() if label.hold_s)

    @property
    def can_hold(self) -> bool:
        """Whether there are labels whose actions may be held."""
        return any(label.hold_s for label in self._labels.values())

    @property
    def hidden_since_s(self) -> float | None:
        """When the first running action began that may be held; None without one."""
        starts = [label.started_s for label in self._labels.values() if label.hold_s and label.started_s is not None]
        return min(starts, default=None)

    @property
    def watches_scene(self) -> bool:
        """Whether the picture is compared with the scene while no action runs that may be held, too."""
        return SCENE_LOST in self._labels

    @property
    def is_label_held(self) -> bool:
        """Whether the action of a label runs that may be held; `scene_lost` is none."""
        return any(
            each.hold_s and each.started_s is not None for name, each in self._labels.items() if name != SCENE_LOST
        )

    def has_given_up(self, since_s: float, at_s: float) -> bool:
        """Return whether the scene, lost since `since_s`, has been lost for `hold_s` of the action `scene_lost`."""
        return self.watches_scene and at_s - since_s >= self._labels[SCENE_LOST].hold_s - _EPSILON_S

    @property
    def may_be_hidden(self) -> bool:
        """Whether a label whose action may be held has a smoothed probability of `off` or more.

        With `scene_lost`, any label: a moment in which the camera is shaken or blinded is not the scene, either.
        """
        return any(
            (label.hold_s or self.watches_scene) and (label.smoothed or 0.0) >= label.config.off
            for label in self._labels.values()
        )

    def update(
        self,
        probabilities: Mapping[str, float],
        start_s: float,
        end_s: float,
        segment: int,
        time_s: float | None = None,
        scene_lost: float | None = None,
    ) -> list[ActionChange]:
        """Evaluate one prediction and return the changes. A label that is not in `probabilities` counts as 0.

        `start_s` and `end_s` are the window's; segment numbers only grow. `time_s` is the wall clock in seconds since
        1970; only hours need it. `scene_lost`: how much the picture differs from the scene (before the action, if one
        runs that may be held), 0 to 1; None if it was not compared. Then no action is held.
        """
        changes = self.end_outside_hours(time_s)
        if segment != self._segment or end_s < self._at_s:
            changes += self._begin_segment(segment, end_s)
        elapsed_s, self._at_s = end_s - self._at_s, end_s
        bare = {name: _probability(probabilities.get(name, 0.0)) for name in self._labels}
        holding = [bare[name] for name in self.holding_labels]
        self.hidden_probability = smooth(self.hidden_probability, max(holding, default=0.0), elapsed_s, SMOOTH_S)
        evidence = self._evidence(probabilities)
        if self.watches_scene:
            evidence[SCENE_LOST] = bare[SCENE_LOST] = _probability(scene_lost or 0.0)
        for name, label in self._labels.items():
            label.add(evidence.get(name, 0.0), bare[name], elapsed_s)
            if label.started_s is not None:
                label.hold.measure(scene_lost, elapsed_s)
            if change := self._step(name, label, active=self._active(label, time_s)):
                changes.append(change)
        return changes

    def end_outside_hours(self, time_s: float | None) -> list[ActionChange]:
        """End the actions whose hours are over; call this also when no prediction comes."""
        return [
            self._end(name, label, "schedule")
            for name, label in self._labels.items()
            if label.started_s is not None and not self._active(label, time_s)
        ]

    def reconfigure(self, actions: StreamActions) -> list[ActionChange]:
        """Apply other thresholds from the next prediction on.

        Running actions continue. The action of a label that is no longer configured ends with `stopped`.
        """
        ends = [
            self._end(name, label, "stopped")
            for name, label in self._labels.items()
            if name not in actions.labels and label.started_s is not None
        ]
        known = self._labels
        self.config, self.unknown_below, self.zone = actions.labels, actions.unknown_below, zone_of(actions.timezone)
        self._labels = {name: known.get(name) or _Label(each) for name, each in actions.labels.items()}
        for name, label in self._labels.items():
            label.config, label.hours = actions.labels[name], _hours(actions.labels[name])
        return ends

    def close(self, reason: str) -> list[ActionChange]:
        """End all running actions, because the stream ends or the service stops."""
        ends = [self._end(name, label, reason) for name, label in self._labels.items() if label.started_s is not None]
        self._segment = None
        return ends

    def _begin_segment(self, segment: int, end_s: float) -> list[ActionChange]:
        ends = self.close("gap")
        for label in self._labels.values():
            label.smoothed = label.bare = label.above_since_s = None
            if end_s < self._at_s:  # the clock began again (a looped file): shift the cooldown with it
                label.cooldown_until_s += end_s - self._at_s
        self._segment, self._at_s = segment, end_s
        return ends

    def _active(self, label: _Label, time_s: float | None) -> bool:
        if label.hours is None:
            return True
        assert time_s is not None, "hours need the wall clock"
        return within(label.hours, local_time(time_s, self.zone))

    def _evidence(self, probabilities: Mapping[str, float]) -> dict[str, float]:
        """Return the probability of each label, or `unknown` alone if no label is likely enough."""
        values = {label: _probability(value) for label, value in probabilities.items()}
        if self.unknown_below == 0:
            return values
        return {UNKNOWN: 1.0} if max(values.values(), default=0.0) < self.unknown_below else values

    def _step(self, name: str, label: _Label, *, active: bool) -> ActionChange | None:
        assert label.smoothed is not None
        assert label.bare is not None
        if not active:
            label.above_since_s = None
            return None
        if label.started_s is None:
            return self._start(name, label) if label.ready_to_start(self._at_s) else None
        if name == SCENE_LOST:
            if label.smoothed < label.config.off:
                return self._end(name, label, "scene")
            if self.has_given_up(label.started_s, self._at_s) and not self.is_label_held:
                return self._end(name, label, "hold")
        elif label.smoothed >= label.config.off:
            label.hold.release(self._at_s, label.bare)
        elif (reason := label.hold.reason_to_end(self._at_s, label.bare, label.hold_s)) is not None:
            return self._end(name, label, reason)
        label.peak = max(label.peak, label.smoothed)
        if self._at_s - label.updated_s < UPDATE_INTERVAL_S - _EPSILON_S:
            return None
        label.updated_s = self._at_s
        return self._change(name, label, "update")

    def _start(self, name: str, label: _Label) -> ActionChange:
        label.started_s, label.updated_s = label.above_since_s, self._at_s
        label.peak = label.smoothed or 0.0
        label.hold = SceneHold()
        return self._change(name, label, "start")

    def _end(self, name: str, label: _Label, reason: str) -> ActionChange:
        change = self._change(name, label, "end", reason)
        label.started_s = label.above_since_s = None
        label.cooldown_until_s = self._at_s + label.config.cooldown_s
        return change

    def _change(self, name: str, label: _Label, phase: Phase, reason: str | None = None) -> ActionChange:
        assert label.started_s is not None
        assert label.smoothed is not None
        assert self._segment is not None
        return ActionChange(
            label=name,
            phase=phase,
            started_s=label.started_s,
            at_s=self._at_s,
            probability=label.smoothed,
            peak=label.peak,
            segment=self._segment,
            reason=reason,
        )


def _hours(config: ActionConfig) -> tuple[Hours, ...] | None:
    return None if config.active is None else tuple(parse_hours(entry) for entry in config.active)


def _probability(value: float) -> float:
    """Limit a probability to 0..1; a NaN from a broken model counts as 0."""
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0
