"""Wrapped counters are unwrapped, jumps stay, missing time stamps are estimated."""

from __future__ import annotations

import itertools

import pytest

from streamclf.sources.media_clock import MediaClock
from streamclf.units import NS

FRAME_NS = NS // 25


def played(stamps: list[int | None], interval_ns: int = FRAME_NS) -> list[int]:
    clock = MediaClock()
    return [clock.media_ns(stamp, 7 * NS + i * interval_ns) for i, stamp in enumerate(stamps)]


@pytest.mark.parametrize("bits", [32, 33])
def test_a_counter_is_unwrapped_the_first_and_the_second_time(bits: int) -> None:
    ticks = [2**bits - 2 * 3600 + 3600 * i for i in range(5)]
    stamps: list[int | None] = [(tick % 2**bits) * NS // 90_000 for tick in ticks]
    assert stamps[2] == 0
    found = played(stamps)
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert all(abs(step - FRAME_NS) <= 2 for step in steps)
    clock = MediaClock()
    period_s = 2**bits / 90_000
    found = [clock.media_ns(round(t % period_s * NS), t * NS) for t in range(0, int(2.5 * period_s), 600)]
    assert all(abs(after - before - 600 * NS) <= 2 for before, after in itertools.pairwise(found))


@pytest.mark.parametrize("jump_s", [-10, 40_000, -40_000])
def test_a_jump_is_passed_on(jump_s: int) -> None:
    before = [50_000 * NS + i * FRAME_NS for i in range(3)]
    after = [stamp + jump_s * NS + 3 * FRAME_NS for stamp in before]
    assert played([*before, *after]) == [*before, *after]


def test_a_missing_time_stamp_is_estimated_from_the_capture_clock() -> None:
    stamps = [i * FRAME_NS for i in range(6)]
    assert played([0, None, None, *stamps[3:]]) == stamps
    assert played([None, *stamps[1:]]) == stamps
    assert played([None] * 6) == stamps


def test_an_estimate_that_was_too_late_does_not_make_time_run_backwards() -> None:
    clock = MediaClock()
    found = [
        clock.media_ns(0, 0),
        clock.media_ns(None, 3 * FRAME_NS),
        clock.media_ns(2 * FRAME_NS, 3 * FRAME_NS),
        clock.media_ns(4 * FRAME_NS, 4 * FRAME_NS),
    ]
    assert found == sorted(set(found))
    assert found[-1] == 4 * FRAME_NS
