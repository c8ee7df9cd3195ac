"""Events join windows with the same label, and do not overlap."""

from __future__ import annotations

import numpy as np

from streamclf.classifier.film_events import find_events
from streamclf.classifier.offline import WindowResult


def window(start_s: float, end_s: float, probability: float, label: int) -> WindowResult:
    row = np.full(3, (1 - probability) / 2, np.float32)
    row[label] = probability
    return WindowResult(start_s=start_s, end_s=end_s, probabilities=row)


def test_windows_with_the_same_label_are_one_event_and_the_border_is_in_the_middle() -> None:
    windows = [window(0.5 * i, 0.5 * i + 2, 0.5 + i / 20, 0 if i < 3 else 2) for i in range(9)]
    first, second = find_events(windows)
    assert (first.label, first.start_s, first.end_s, first.windows) == (0, 0.0, 2.25, 3)
    assert (second.label, second.start_s, second.end_s, second.windows) == (2, 2.25, 6.0, 6)
    assert (first.peak_window, second.peak_window) == (2, 8)
    assert np.isclose(first.mean, 0.55)
    assert np.isclose(second.peak, 0.9)


def test_events_keep_the_gap_between_them() -> None:
    events = find_events([window(0, 2, 0.9, 1), window(5, 7, 0.8, 1), window(9, 11, 0.8, 0)])
    assert [(event.start_s, event.end_s) for event in events] == [(0.0, 7.0), (9.0, 11.0)]
    assert find_events([]) == []
