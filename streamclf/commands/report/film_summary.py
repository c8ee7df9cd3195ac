"""Reduce a classified film to what its part of the report shows, bounded in size however long the film is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from streamclf.classifier.film_events import FilmEvent
from streamclf.classifier.offline import FileResult
from streamclf.classifier.window_classifier import WindowResult
from streamclf.commands.report.stills import Still

MAX_CURVES: Final = 4
MAX_LANES: Final = 6
"""The most labels whose events the chart shows below each other, where labels are independent."""
MAX_EXPLAINED_STILLS: Final = 12
"""The most explained windows of a film that the report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """How much of a film the report shows at most: `bins` of its time in the chart, and `events` in its table."""

    bins: int
    events: int


FINE: Final = Detail(bins=240, events=60)
COARSE: Final = Detail(bins=100, events=20)
MAX_FINE_FILMS: Final = 20
"""With more films than this, each is shown in less detail, so that the page stays small."""


def detail_for(films: int) -> Detail:
    """Return the detail for a report of so many films."""
    return FINE if films <= MAX_FINE_FILMS else COARSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The probability of a label over a film: (share of the film's time, probability), in order of time."""

    label: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A part of the film in which one label is present; times are shares of its length."""

    label: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedStill:
    """A still with the heat of its window. `largest`: see `Heat`."""

    still: Still
    largest: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmSummary:
    """One film of the report.

    `labels`: the film's labels: the one with the highest mean probability over all windows, or, if labels are
    independent, those that are present in any window, the longest first. `probability`: the highest mean.
    `truth`: the indices of its true labels. `seconds_by_label`: how long each label was present. `notes`: sentences.
    """

    name: str
    length_s: float
    windows: int
    labels: Sequence[int]
    probability: float
    truth: Sequence[int] | None
    curves: Sequence[Curve]
    stretches: Sequence[Stretch]
    events: Sequence[FilmEvent]
    event_count: int
    seconds_by_label: dict[int, float]
    notes: Sequence[str] = ()
    explained: Sequence[ExplainedStill] = field(default_factory=list)


def summarise_film(
    name: str,
    result: FileResult,
    events: Sequence[FilmEvent],
    *,
    truth: Sequence[int] | None,
    detail: Detail = FINE,
    notes: Sequence[str] = (),
    explained: Sequence[ExplainedStill] = (),
    independent: bool = False,
) -> FilmSummary:
    """Summarise a film that has at least one window. `independent`: whether several labels may be present."""
    windows = result.windows
    total = np.zeros(len(windows[0].probabilities), np.float64)
    peaks = np.zeros_like(total)
    for window in windows:
        total += window.probabilities
        np.maximum(peaks, window.probabilities, out=peaks)
    mean = total / len(windows)
    length_s = windows[-1].end_s
    seconds: dict[int, float] = {}
    for event in events:
        seconds[event.label] = seconds.get(event.label, 0.0) + event.end_s - event.start_s
    shown = sorted(sorted(events, key=lambda event: -event.peak)[: detail.events], key=lambda event: event.start_s)
    return FilmSummary(
        name=name,
        length_s=length_s,
        windows=len(windows),
        labels=sorted(seconds, key=lambda label: -seconds[label]) if independent else [int(mean.argmax())],
        probability=float(mean.max()),
        truth=truth,
        curves=_curves(windows, length_s, peaks, detail.bins),
        stretches=(_lanes if independent else _stretches)(events, length_s, detail.bins),
        events=shown,
        event_count=len(events),
        seconds_by_label=seconds,
        notes=notes,
        explained=list(explained)[:MAX_EXPLAINED_STILLS],
    )


def _curves(windows: Sequence[WindowResult], length_s: float, peaks: npt.NDArray[np.float64], bins: int) -> list[Curve]:
    """Return the curves of the labels that are most probable anywhere, the highest peak first.

    Each window is a point. If there are more windows than `bins`, a point is the highest of a bin's windows.
    """
    middles = [(window.start_s + window.end_s) / 2 / max(length_s, 1e-9) for window in windows]
    curves = []
    for label in peaks.argsort()[::-1][:MAX_CURVES].tolist():
        values = [float(window.probabilities[label]) for window in windows]
        points = list(zip(middles, values, strict=True))
        if len(points) > bins:
            highest: dict[int, float] = {}
            for share, value in points:
                place = min(int(share * bins), bins - 1)
                highest[place] = max(value, highest.get(place, 0.0))
            points = [((place + 0.5) / bins, value) for place, value in sorted(highest.items())]
        curves.append(Curve(label=label, points=points))
    return curves


def _lanes(events: Sequence[FilmEvent], length_s: float, bins: int) -> list[Stretch]:
    """Return the events of the `MAX_LANES` labels that are present longest, as shares of the film and by label.

    Stretches of different labels may overlap. Where a label has many events, they are reduced to bins of time.
    """
    length_s = max(length_s, 1e-9)
    by_label: dict[int, list[FilmEvent]] = {}
    for event in events:
        by_label.setdefault(event.label, []).append(event)
    longest = sorted(by_label, key=lambda label: -sum(e.end_s - e.start_s for e in by_label[label]))[:MAX_LANES]
    stretches = []
    for label in longest:
        spans = [(event.start_s / length_s, event.end_s / length_s) for event in by_label[label]]
        if len(spans) > bins:
            spans = [(math.floor(begin * bins) / bins, math.ceil(end * bins) / bins) for begin, end in spans]
        merged: list[tuple[float, float]] = []
        for begin, end in spans:
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        stretches += [Stretch(label=label, begin=begin, end=end) for begin, end in merged]
    return stretches


def _stretches(events: Sequence[FilmEvent], length_s: float, bins: int) -> list[Stretch]:
    """Return the events as shares of the film. Where they are many, the one in the middle of each bin stands for it."""
    length_s = max(length_s, 1e-9)
    if len(events) <= bins:
        return [Stretch(label=e.label, begin=e.start_s / length_s, end=e.end_s / length_s) for e in events]
    stretches: list[Stretch] = []
    place = 0
    for number in range(bins):
        middle_s = (number + 0.5) / bins * length_s
        while place + 1 < len(events) and events[place].end_s < middle_s:
            place += 1
        begin, end, label = number / bins, (number + 1) / bins, events[place].label
        if stretches and stretches[-1].label == label:
            stretches[-1] = Stretch(label=label, begin=stretches[-1].begin, end=end)
        else:
            stretches.append(Stretch(label=label, begin=begin, end=end))
    return stretches
