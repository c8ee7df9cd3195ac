"""Timing of calls, batch sizes and percentiles."""

from __future__ import annotations

import time

from streamclf.bench.timing import batch_sizes, percentile, time_calls


def test_percentiles_are_values_of_the_sample() -> None:
    values = [float(i) for i in range(1, 101)]
    assert [percentile(reversed(values), percent) for percent in (0, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert percentile([3.0], 99) == 3.0
    assert percentile([], 50) is None


def test_batch_sizes_are_powers_of_two_and_the_largest() -> None:
    assert [batch_sizes(most) for most in (1, 2, 6, 16)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16]]


def test_timing_counts_calls_and_separates_work_from_waiting() -> None:
    calls: list[str] = []

    def wait() -> None:
        calls.append("wait")
        time.sleep(0.01)

    cost = time_calls(wait, finish=lambda: calls.append("finish"), rounds=3, seconds=0.02)
    assert cost.wall_s >= 0.01
    assert cost.cpu_s < cost.wall_s / 2, "a sleeping thread takes no processor time"
    assert calls[-1] == "finish"
    assert calls.count("finish") == 2 + 3
