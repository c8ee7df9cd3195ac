"""Join the classified windows of a film into events: consecutive windows with the same most probable label. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from streamclf.classifier.offline import WindowResult


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmEvent:
    """Consecutive windows of a film with the same most probable label; times are media time in seconds.

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


def find_events(windows: Sequence[WindowResult]) -> list[FilmEvent]:
    """Return the events of a film in order. Where windows of two events overlap, the border is in the middle."""
    runs = _runs(windows)
    times = _times_of([(windows[first].start_s, windows[last].end_s) for _, first, last in runs])
    events = []
    for (label, first, last), (start_s, end_s) in zip(runs, times, strict=True):
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


def _runs(windows: Sequence[WindowResult]) -> list[tuple[int, int, int]]:
    """Return (label, first window, last window) of consecutive windows with the same best label."""
    runs: list[tuple[int, int, int]] = []
    for number, window in enumerate(windows):
        label = int(window.probabilities.argmax())
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
