"""Packets that arrive early wait for the packets before them, within bounds."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from streamclf.sources.rtsp.reorder import MAX_WAITING, ReorderBuffer
from streamclf.sources.rtsp.rtp import PacketRun


def numbers(reorder: ReorderBuffer, arrivals: Sequence[int], now: float = 0.0) -> list[tuple[int, int]]:
    return [
        (arrival.run.sequence, arrival.lost)
        for number in arrivals
        for arrival in reorder.push(PacketRun(number & 0xFFFF, 0, 7, False, [b""]), now)
    ]


def test_packets_wait_for_missing_ones_for_a_limited_time() -> None:
    reorder = ReorderBuffer(0.1)
    assert numbers(reorder, [65_534, 65_535]) == [(65_534, 0), (65_535, 0)]
    assert numbers(reorder, [1, 3], 1.0) == []
    assert reorder.deadline == pytest.approx(1.1)
    assert numbers(reorder, [0], 1.05) == [(0, 0), (1, 0)]
    assert reorder.expire(1.09) == []
    assert [(arrival.run.sequence, arrival.lost) for arrival in reorder.expire(1.1)] == [(3, 1)]
    assert numbers(reorder, [2, 3], 1.2) == [], "one is too late, one comes twice"
    assert reorder.late == 2
    assert reorder.deadline is None


def test_the_number_of_waiting_packets_is_bounded() -> None:
    reorder = ReorderBuffer(1e9)
    numbers(reorder, [10])
    released = numbers(reorder, range(12, 12 + MAX_WAITING + 1))
    assert released[0] == (12, 1)
    assert len(released) == MAX_WAITING + 1


def test_packets_shuffled_within_the_wait_come_out_in_order() -> None:
    rng = random.Random(3)
    for _ in range(50):
        first = rng.randrange(1 << 16)
        order = sorted(range(200), key=lambda i: i + rng.uniform(0, 20))
        reorder = ReorderBuffer(10.0)
        before = numbers(reorder, [first - 1])
        released = before + numbers(reorder, [first + i for i in order])
        assert [number for number, _ in released] == [(first - 1 + i) & 0xFFFF for i in range(201)]
        assert not any(lost for _, lost in released)


def test_a_sender_that_restarts_its_counter_is_followed() -> None:
    reorder = ReorderBuffer(0.1)
    numbers(reorder, [10, 11, 13])
    assert numbers(reorder, [30_000, 30_001]) == [(13, 1), (30_000, 1), (30_001, 0)]
    assert numbers(ReorderBuffer(0.0), [10, 12, 11]) == [(10, 0), (12, 1)], "over an ordered transport no packet waits"
