"""Decide from the events of actions when a film begins and ends, and which actions it shows. Pure: no I/O, no clock.

All actions that run while a film is written belong to it. The film ends `after_s` after the end of the last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson

from streamclf.clips.film_info import MAX_POINTS, FilmAction, Point
from streamclf.errors import EventError
from streamclf.events.types import MAX_FILM_ACTIONS
from streamclf.events.views import MAX_LABEL_CHARS, ActionKey
from streamclf.net.names import valid_stream_name

SILENT_S: Final = 10.0
"""A running action has an update each second. Without one for this long, its end was missed."""
MAX_IGNORED: Final = 1024
IGNORED_S: Final = 60.0
"""An action whose film is lost gets another one if it still runs after this time: it may last for hours."""


_Key: TypeAlias = tuple[ActionKey, float]
"""A kind of action, and `started_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionNote:
    """One event of an action, as the hub sends it. `start` is the offset of its start event, None if unknown."""

    label: str
    phase: str
    started_s: float
    at_s: float
    probability: float
    peak: float
    epoch: str
    start: int | None
    region: str | None = None
    model_name: str | None = None

    @property
    def key(self) -> _Key:
        """The identity of the action among those of its stream."""
        return ActionKey(self.region, self.model_name, self.label), self.started_s


def parse_action_note(start: int, payload: bytes) -> ActionNote:
    """Read an action's event as it was published. `start` 0 is unknown. Raises `EventError`."""
    try:
        event: Any = orjson.loads(payload)
        label = event["label"]
        if not isinstance(event, Mapping) or not isinstance(label, str) or not 0 < len(label) <= MAX_LABEL_CHARS:
            raise ValueError("label")
        region, model_name = event.get("region"), event.get("model_name")
        if not all(name is None or valid_stream_name(name) for name in (region, model_name)):
            raise ValueError("region or model_name")
        return ActionNote(
            label=label,
            phase=str(event["phase"]),
            started_s=float(event["started_s"]),
            at_s=float(event["at_s"]),
            probability=float(event["probability"]),
            peak=float(event["peak"]),
            epoch=str(event["epoch"]),
            start=start or None,
            region=region,
            model_name=model_name,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise EventError(f"not the event of an action: {type(error).__name__} {error}") from None


@dataclass(slots=True)
class _Running:
    kind: ActionKey
    started_s: float
    start: int | None
    peak: float
    seen_s: float
    """When its last event came (monotonic)."""
    ended_s: float | None = None


class FilmPlan:
    """The actions of the film that is written, or that should begin. `now_s` is monotonic time, all else media time."""

    def __init__(self, *, before_s: float, after_s: float) -> None:
        self._before_s, self._after_s = before_s, after_s
        self._actions: dict[_Key, _Running] = {}
        self._points: deque[Point] = deque(maxlen=MAX_POINTS)
        self._ignored: dict[_Key, float] = {}
        """Actions whose film is lost, and until when their events are ignored (monotonic)."""
        self.epoch = ""

    def __bool__(self) -> bool:
        return bool(self._actions)

    def apply(self, note: ActionNote, now_s: float) -> None:
        """Add an event. An update of an unknown action begins a film, as a start does; an end does not."""
        if (ignored_until_s := self._ignored.get(note.key)) is not None:
            if note.phase != "end" and now_s < ignored_until_s:
                return
            del self._ignored[note.key]
        if note.epoch != self.epoch:
            for each in self._actions.values():
                each.start = None  # an offset of another journal
            self.epoch = note.epoch
        running = self._actions.get(note.key)
        if running is None:
            if note.phase == "end" or len(self._actions) >= MAX_FILM_ACTIONS:
                return
            running = _Running(note.key[0], note.started_s, note.start, note.peak, now_s)
            self._actions[note.key] = running
        running.seen_s, running.peak = now_s, max(running.peak, note.peak)
        running.start = note.start if running.start is None else running.start
        if note.phase == "end":
            running.ended_s = note.at_s
        self._points.append(Point(note.at_s, note.label, note.probability, note.region, note.model_name))

    @property
    def begin_s(self) -> float:
        """Media time at which the film should begin."""
        return min(each.started_s for each in self._actions.values()) - self._before_s

    @property
    def end_s(self) -> float | None:
        """Media time at which the film should end; None while an action runs."""
        ends = [each.ended_s for each in self._actions.values()]
        known = [each for each in ends if each is not None]
        return max(known) + self._after_s if len(known) == len(ends) else None

    def ended_for_s(self, now_s: float) -> float:
        """Return for how many seconds all actions have been over, by the clock; 0 while one runs."""
        if self.end_s is None:
            return 0.0
        return now_s - max(each.seen_s for each in self._actions.values())

    def continues_at(self, at_s: float, now_s: float) -> bool:
        """Return whether the film goes on at `at_s`: an action runs, or has not been over for `after_s`."""
        end_s = self.end_s
        if end_s is not None:
            return at_s < end_s
        return any(each.ended_s is None and now_s - each.seen_s <= SILENT_S for each in self._actions.values())

    def actions_between(self, start_s: float, end_s: float) -> tuple[FilmAction, ...]:
        """Return the actions that a film from `start_s` to `end_s` shows, oldest first; never empty."""
        ordered = sorted(self._actions.values(), key=lambda each: each.started_s)
        shown = [
            each
            for each in ordered
            if each.started_s <= end_s and (each.ended_s is None or each.ended_s + self._after_s >= start_s)
        ]
        return tuple(
            FilmAction(
                started_s=each.started_s, start=each.start, peak=each.peak, ended_s=each.ended_s, **each.kind._asdict()
            )
            for each in shown or ordered[:1]
        )

    def points_between(self, start_s: float, end_s: float) -> tuple[Point, ...]:
        """Return the probabilities within a film."""
        return tuple(
            sorted((each for each in self._points if start_s <= each.at_s <= end_s), key=lambda point: point.at_s)
        )

    def clear(self) -> None:
        """Forget the actions: their film is complete."""
        self._actions.clear()
        self._points.clear()

    def abandon(self, now_s: float) -> None:
        """Forget the actions, and ignore their further events for a minute: their film is lost."""
        for key, each in self._actions.items():
            if each.ended_s is None:
                self._ignored[key] = now_s + IGNORED_S
        while len(self._ignored) > MAX_IGNORED:
            del self._ignored[next(iter(self._ignored))]
        self.clear()
