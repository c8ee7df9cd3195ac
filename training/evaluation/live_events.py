"""Compare the actions of played films with what really happens in them. Pure: times are media time in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from streamclf.config.actions import SCENE_LOST
from training.evaluation.live import ActionRun, PlayedFilm

TOLERANCE_S: Final = 1.5
"""By default, an action may start this long after the end of its event: a model often needs the whole event."""
_EPSILON_S: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueEvent:
    """An event that the film shows from `start_s` to `end_s`."""

    label: str
    start_s: float
    end_s: float


@dataclass(slots=True, kw_only=True)
class EventResult:
    """The actions of one event.

    `start_s`: when an action with its label started; None if none did. `wrong`: the labels of other actions that
    started meanwhile. `again`: further starts of its own label. `running_s`: the time of the event in which an action
    with its label ran. `over_s`: how long its action ran beyond the event's end; None if it did not run at the end.
    """

    event: TrueEvent
    start_s: float | None = None
    over_s: float | None = None
    wrong: list[str] = field(default_factory=list)
    again: int = 0
    running_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmResult:
    """The events of one film with their actions, and its false starts.

    `false_starts` are all starts that fit no event, of other labels during events, too. `false_outside` are those among
    them outside of all events, in `outside_s` of film. `watched_s` is the time of the film with predictions.
    """

    events: tuple[EventResult, ...]
    false_starts: tuple[ActionRun, ...]
    false_outside: tuple[ActionRun, ...]
    watched_s: float
    outside_s: float


def compare_film(played: PlayedFilm, events: Sequence[TrueEvent], *, tolerance_s: float = TOLERANCE_S) -> FilmResult:
    """Assign each start of an action to an event, or count it as false.

    A start fits an event of its label if it lies between the event's start and its end plus `tolerance_s`. The first
    start that fits is the event's; of several events, the one that ends first gets it.
    """
    results = sorted((EventResult(event=event) for event in events), key=lambda result: result.event.end_s)
    false_starts, false_outside = list[ActionRun](), list[ActionRun]()
    for run in played.runs:
        near = [result for result in results if _is_near(run, result.event, tolerance_s)]
        own = [result for result in near if result.event.label == run.label]
        free = next((result for result in own if result.start_s is None), None)
        if free is not None:
            free.start_s = run.start_s
            if run.start_s <= free.event.end_s <= run.end_s + _EPSILON_S:
                free.over_s = run.end_s - free.event.end_s
        elif own:
            own[-1].again += 1
        else:
            false_starts.append(run)
            if near:
                next((each for each in near if run.start_s <= each.event.end_s), near[-1]).wrong.append(run.label)
            else:
                false_outside.append(run)
    for result in results:
        result.running_s = _overlap(result.event, played.runs)
    return FilmResult(
        events=tuple(sorted(results, key=lambda result: result.event.start_s)),
        false_starts=tuple(false_starts),
        false_outside=tuple(false_outside),
        watched_s=played.watched_s,
        outside_s=max(0.0, played.watched_s - _busy_s(played, events, tolerance_s)),
    )


def compare_labels_and_scene(played: PlayedFilm, events: Sequence[TrueEvent]) -> tuple[FilmResult, FilmResult]:
    """Compare the actions of labels with the events, and those of `scene_lost` with the same events of any label."""
    scene = tuple(run for run in played.runs if run.label == SCENE_LOST)
    labels = tuple(run for run in played.runs if run.label != SCENE_LOST)
    lost = [replace(event, label=SCENE_LOST) for event in events]
    return compare_film(replace(played, runs=labels), events), compare_film(replace(played, runs=scene), lost)


def _is_near(run: ActionRun, event: TrueEvent, tolerance_s: float) -> bool:
    return event.start_s - _EPSILON_S <= run.start_s <= event.end_s + tolerance_s + _EPSILON_S


def _overlap(event: TrueEvent, runs: Sequence[ActionRun]) -> float:
    """Return the time of the event in which an action with its label ran. Actions of one label do not overlap."""
    return sum(
        max(0.0, min(run.end_s, event.end_s) - max(run.start_s, event.start_s))
        for run in runs
        if run.label == event.label
    )


def _busy_s(played: PlayedFilm, events: Sequence[TrueEvent], tolerance_s: float) -> float:
    """Return the watched time in which a start would be near an event."""
    busy_s, until_s = 0.0, played.first_s
    for event in sorted(events, key=lambda each: each.start_s):
        end_s = min(event.end_s + tolerance_s, played.last_s)
        busy_s += max(0.0, end_s - max(event.start_s, until_s))
        until_s = max(until_s, end_s)
    return busy_s
