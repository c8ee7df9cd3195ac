"""Events join windows with the same label, and do not overlap."""

from __future__ import annotations

import numpy as np

from engines.bundle import ModelSpec
from streamclf.classifier.film_events import find_events
from streamclf.classifier.window_classifier import WindowResult

SPEC = ModelSpec.model_construct(labels=("a", "b", "c"))
INDEPENDENT = ModelSpec.model_construct(labels=("a", "b", "c"), activation="sigmoid", thresholds={"c": 0.8})


def window(start_s: float, end_s: float, probability: float, label: int) -> WindowResult:
    row = np.full(3, (1 - probability) / 2, np.float32)
    row[label] = probability
    return WindowResult(start_s=start_s, end_s=end_s, probabilities=row)


def test_windows_with_the_same_label_are_one_event_and_the_border_is_in_the_middle() -> None:
    windows = [window(0.5 * i, 0.5 * i + 2, 0.5 + i / 20, 0 if i < 3 else 2) for i in range(9)]
    first, second = find_events(windows, SPEC)
    assert (first.label, first.start_s, first.end_s, first.windows) == (0, 0.0, 2.25, 3)
    assert (second.label, second.start_s, second.end_s, second.windows) == (2, 2.25, 6.0, 6)
    assert (first.peak_window, second.peak_window) == (2, 8)
    assert np.isclose(first.mean, 0.55)
    assert np.isclose(second.peak, 0.9)


def test_events_keep_the_gap_between_them() -> None:
    events = find_events([window(0, 2, 0.9, 1), window(5, 7, 0.8, 1), window(9, 11, 0.8, 0)], SPEC)
    assert [(event.start_s, event.end_s) for event in events] == [(0.0, 7.0), (9.0, 11.0)]
    assert find_events([], SPEC) == []


def test_independent_labels_have_events_of_their_own() -> None:
    """`a` lasts while `c` begins and ends; `c` counts from its own threshold; no label is an event of its own."""
    rows = [(0.1, 0, 0.7), (0.9, 0, 0.7), (0.8, 0, 0.9), (0.6, 0, 0.1), (0.2, 0, 0.1), (0.1, 0, 0.1)]
    windows = [
        WindowResult(start_s=float(i), end_s=i + 2.0, probabilities=np.array(row, np.float32))
        for i, row in enumerate(rows)
    ]
    found = [(e.label, e.start_s, e.end_s, e.windows, e.peak_window) for e in find_events(windows, INDEPENDENT)]
    assert found == [(0, 1.5, 4.5, 3, 1), (2, 2.5, 3.5, 1, 2)]
    assert find_events(windows[-1:], INDEPENDENT) == find_events([], INDEPENDENT) == []
