"""Join the classified windows of a film into events: consecutive windows in which the same label is present. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from engines.activation import present_labels
from engines.bundle import ModelSpec
from streamclf.classifier.window_classifier import WindowResult


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmEvent:
    """Consecutive windows of a film in which the same label is present; times are media time in seconds.

    `label` is the label's index. `mean` and `peak` are its mean and highest probability, `peak_window` the number of
    the film's window that has the highest one, `windows` the number of windows.
    """

    label: int
    start_s: float
    end_s: float
    mean: float
    peak: float
    peak_window: int
    windows: int


def find_events(windows: Sequence[WindowResult], spec: ModelSpec) -> list[FilmEvent]:
    """Return the events of a film in order of their starts.

    In the usual model one label is present at a time: the most probable one. Where windows of two events overlap, the
    border is in the middle. Independent labels have events of their own, which may overlap; for them the border lies
    in the middle between the windows with and those without the label.
    """
    present = [present_labels(spec, window.probabilities) for window in windows]
    if spec.activation == "softmax":
        return _label_events(windows, [labels[0] for labels in present])
    sets = [set(labels) for labels in present]
    events = [
        event
        for label in sorted(set().union(*sets))
        for event in _label_events(windows, [label if label in labels else None for labels in sets])
    ]
    return sorted(events, key=lambda event: (event.start_s, -event.peak))


def _label_events(windows: Sequence[WindowResult], labels: Sequence[int | None]) -> list[FilmEvent]:
    """Return the events of windows that have one label each, or none."""
    runs = _runs(labels)
    times = _times_of([(windows[first].start_s, windows[last].end_s) for _, first, last in runs])
    events = []
    for (label, first, last), (start_s, end_s) in zip(runs, times, strict=True):
        if label is None:
            continue
        shares = [float(window.probabilities[label]) for window in windows[first : last + 1]]
        peak = max(shares)
        events.append(
            FilmEvent(
                label=label,
                start_s=start_s,
                end_s=end_s,
                mean=sum(shares) / len(shares),
                peak=peak,
                peak_window=first + shares.index(peak),
                windows=len(shares),
            )
        )
    return events


def _runs(labels: Sequence[int | None]) -> list[tuple[int | None, int, int]]:
    """Return (label, first window, last window) of consecutive windows with the same label, or without one."""
    runs: list[tuple[int | None, int, int]] = []
    for number, label in enumerate(labels):
        if runs and runs[-1][0] == label:
            runs[-1] = (label, runs[-1][1], number)
        else:
            runs.append((label, number, number))
    return runs


def _times_of(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return (start, end) of each span, without overlaps."""
    times = list(spans)
    for number, (before, after) in enumerate(pairwise(spans)):
        if after[0] < before[1]:
            border_s = (times[number][1] + after[0]) / 2
            times[number], times[number + 1] = (times[number][0], border_s), (border_s, after[1])
    return times
