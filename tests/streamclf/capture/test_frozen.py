"""Repeated frames are recognised; the smallest change makes a new one."""

from __future__ import annotations

import numpy as np

from streamclf.capture.frozen import LONGEST_NS, REMEMBERED, FrozenDetector
from streamclf.units import NS


def noise(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


def test_a_repeated_frame_is_frozen_since_it_was_new() -> None:
    detector = FrozenDetector()
    assert [detector.update(noise(1), i * NS) for i in range(5)] == [0, 1, 2, 3, 4]
    assert detector.update(noise(2), 5 * NS) == 0
    assert detector.update(noise(1), 6 * NS) == 1


def test_an_outage_counts_as_one_long_interval_only() -> None:
    detector = FrozenDetector()
    detector.update(noise(1), 0)
    assert detector.update(noise(1), 3600 * NS) == LONGEST_NS / NS


def test_repeated_frames_between_two_key_frames_are_frozen() -> None:
    detector = FrozenDetector()
    frozen_s = [detector.update(noise(i % 25), i * NS) for i in range(100)]
    assert frozen_s[:25] == [0] * 25
    assert frozen_s[25:] == [i + 1 for i in range(75)]


def test_a_change_of_one_bit_makes_a_new_frame() -> None:
    detector, frame = FrozenDetector(), noise(1)
    detector.update(frame, 0)
    frame[4 * 5, 33, 1] ^= 1
    assert detector.update(frame, NS) == 0


def test_a_long_loop_is_not_frozen_and_memory_is_bounded() -> None:
    detector = FrozenDetector()
    count = REMEMBERED + 1
    assert not any(detector.update(noise(i % count), i * NS) for i in range(3 * count))
    assert len(detector._hashes) == REMEMBERED
