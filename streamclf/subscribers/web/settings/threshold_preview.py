"""Compute when an action would have started with other thresholds, by the classifier's own `ActionTracker`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from engines.bundle import Bundle
from streamclf.classifier.action_tracker import ActionChange, ActionTracker
from streamclf.classifier.scene_hold import LOST
from streamclf.config.actions import SCENE_LOST, UNKNOWN, StreamActions
from streamclf.config.views import MODEL_KEY, StreamView, find_named
from streamclf.subscribers.web.settings.recent_predictions import Sample

MAX_POINTS: Final = 720
"""Points of the curve that is drawn: one for each 5 s of an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """One action. Times are seconds since 1970; `ended_s` is None while it is still running.

    `fired_s` is when the start event is published, `min_s` after `began_s`. `may_be_held`: the service might have held
    the action longer. It compares the picture with the scene only while one of its own actions runs.
    """

    label: str
    began_s: float
    fired_s: float
    ended_s: float | None
    peak: float
    may_be_held: bool = False


def recount(samples: Iterable[Sample], actions: StreamActions, since_s: float) -> list[Firing]:
    """Return the actions that start at `since_s` or later, in the order of their starts."""
    tracker = ActionTracker.of(actions)
    running: dict[str, int] = {}
    found: list[Firing] = []
    scene_s = -math.inf  # when the service last found that the picture is the scene
    for sample in samples:
        if sample.scene_lost is not None and sample.scene_lost < LOST:
            scene_s = sample.time_s
        changes = tracker.update(
            sample.probabilities, sample.start_s, sample.end_s, sample.segment, sample.time_s, sample.scene_lost
        )
        for change in changes:
            if change.phase == "start":
                running[change.label] = len(found)
                found.append(_started(change, sample))
            elif change.label in running:
                index = running[change.label]
                found[index] = replace(found[index], peak=max(found[index].peak, change.peak))
                if change.phase == "end":
                    del running[change.label]
                    unknown = sample.scene_lost is None and scene_s < found[index].fired_s
                    may_be_held = unknown and change.reason == "below" and bool(actions.labels[change.label].hold_s)
                    found[index] = replace(found[index], ended_s=sample.time_s, may_be_held=may_be_held)
    return [firing for firing in found if firing.fired_s >= since_s]


def _started(change: ActionChange, sample: Sample) -> Firing:
    return Firing(
        label=change.label,
        began_s=sample.time_s - (change.at_s - change.started_s),
        fired_s=sample.time_s,
        ended_s=None,
        peak=change.peak,
    )


def curve(samples: Sequence[Sample], label: str, since_s: float, until_s: float) -> list[tuple[float, float]]:
    """Return (Unix time, probability) of a label: at most 720 points, each the highest of its stretch of time."""
    step_s = max(1e-9, (until_s - since_s) / MAX_POINTS)
    points: dict[int, tuple[float, float]] = {}
    for sample in samples:
        if not since_s <= sample.time_s <= until_s:
            continue
        probability = 0.0 if label == UNKNOWN else sample.probabilities.get(label, 0.0)
        if label == SCENE_LOST:
            probability = sample.scene_lost or 0.0
        index = int((sample.time_s - since_s) / step_s)
        if index not in points or probability > points[index][1]:
            points[index] = (sample.time_s, probability)
    return [points[index] for index in sorted(points)]


def find_model_of(view: StreamView, bundles: Mapping[str, Bundle], key: str) -> tuple[str, str]:
    """Return the model and the label that a key of `actions` means in a view; the first model where none has it."""
    for model in view.models:
        prefix = f"{model or MODEL_KEY}/"
        bundle = bundles.get(model)
        if bundle is None:
            continue
        found = bundle.spec.find_label(key) or (
            find_named(key.removeprefix(prefix), bundle.spec.find_label) if key.startswith(prefix) else None
        )
        if found is not None:
            return model, found
    return view.models[0], key
