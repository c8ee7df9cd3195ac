"""Stale frames are dropped and high frame rates are limited, with a clock of the test."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from streamclf.capture.freshness import (
    INTERVAL_NS,
    MAX_LIVE_FPS,
    MAX_STALE_NS,
    DelayEstimator,
    FrameRateLimit,
    StaleFrameFilter,
)
from streamclf.errors import SourceError
from streamclf.sources import Frame
from streamclf.units import NS


class RecordedWaits(threading.Event):
    """Record the time-outs of all waits, and do not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return False


def frame(pts_ns: int, captured_ns: int) -> Frame:
    image = np.zeros((2, 2, 3), np.uint8)
    return Frame(
        index=0, pts_ns=pts_ns, captured_ns=captured_ns, width=2, height=2, image=image, render=lambda *_: None
    )


def test_only_rates_above_the_limit_are_slowed_down_to_it() -> None:
    stop = RecordedWaits()
    limit = FrameRateLimit(stop)
    assert not any(limit.wait_if_over(NS + i * NS // MAX_LIVE_FPS) for i in range(1000))
    now_ns, count = 100 * NS, 0
    while now_ns < 110 * NS:
        count += 1
        if limit.wait_if_over(now_ns):
            assert 0 < stop.seconds[-1] <= INTERVAL_NS / NS
            now_ns += round(stop.seconds[-1] * NS)
        now_ns += NS // 10_000
    assert count <= 1.1 * 10 * MAX_LIVE_FPS


def test_late_frames_are_dropped_until_the_stream_must_be_opened_again() -> None:
    stale_filter = StaleFrameFilter(2.0)
    assert stale_filter.passes(frame(0, 0))
    assert stale_filter.passes(frame(NS, 2 * NS)), "one second late"
    assert not stale_filter.passes(frame(2 * NS, 5 * NS))
    assert stale_filter.passes(frame(6 * NS, 6 * NS)), "new frames again"
    assert not stale_filter.passes(frame(7 * NS, 10 * NS))
    with pytest.raises(SourceError, match="late; opening the stream again"):
        stale_filter.passes(frame(8 * NS, 10 * NS + MAX_STALE_NS + 1))


def test_a_new_clock_begins_with_a_discontinuity() -> None:
    """A camera's time stamps stood still, and arrival takes their place: no frame is late by the old stamps."""
    stale_filter = StaleFrameFilter(2.0)
    assert stale_filter.passes(frame(0, 0))
    assert not stale_filter.passes(frame(0, 3 * NS))
    assert stale_filter.passes(replace(frame(0, 4 * NS), discontinuity=True))
    assert stale_filter.passes(frame(NS, 5 * NS))


def test_a_source_without_max_stale_s_is_never_late() -> None:
    stale_filter = StaleFrameFilter(None)
    assert stale_filter.passes(frame(0, 0))
    assert stale_filter.passes(frame(1, 100 * NS))


MS = 1_000_000


def test_old_frames_after_a_stall_are_late_and_new_ones_are_not() -> None:
    estimator = DelayEstimator()
    for i in range(100):
        assert estimator.delay_ns(i * 40 * MS, 5 * NS + i * 40 * MS) == 0
    # Five seconds of silence; then a frame that had waited in the socket, then a new one.
    now_ns = 5 * NS + 99 * 40 * MS + 5 * NS
    assert estimator.delay_ns(100 * 40 * MS, now_ns) > 4 * NS
    assert estimator.delay_ns(99 * 40 * MS + 5 * NS, now_ns) < 10 * MS


def test_jumps_of_media_time_do_not_count_as_delay() -> None:
    estimator = DelayEstimator()
    for i, pts_ns in enumerate([0, 40, 40_000_000, 40_000_040, 80, 120, 160]):
        assert estimator.delay_ns(pts_ns * MS, i * 40 * MS) == 0


def test_slow_clock_drift_does_not_count_as_delay() -> None:
    estimator = DelayEstimator()
    day = [estimator.delay_ns(i * NS, round(i * NS * 1.0005)) for i in range(86400)]
    assert max(day) < 10 * MS
