"""Old pictures sent again are known; the least change is a new one."""

from __future__ import annotations

import numpy as np

from streamclf.capture.frozen import LONGEST_NS, REMEMBERED, FrozenDetector
from streamclf.windows.sampling import NS


def noise(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


def test_a_repeated_frame_is_frozen_since_it_was_new() -> None:
    stillness = FrozenDetector()
    assert [stillness.update(noise(1), i * NS) for i in range(5)] == [0, 1, 2, 3, 4]
    assert stillness.update(noise(2), 5 * NS) == 0
    assert stillness.update(noise(1), 6 * NS) == 1


def test_an_outage_counts_as_one_long_interval_only() -> None:
    stillness = FrozenDetector()
    stillness.update(noise(1), 0)
    assert stillness.update(noise(1), 3600 * NS) == LONGEST_NS / NS


def test_repeated_frames_between_two_key_frames_are_frozen() -> None:
    stillness = FrozenDetector()
    told = [stillness.update(noise(i % 25), i * NS) for i in range(100)]
    assert told[:25] == [0] * 25
    assert told[25:] == [i + 1 for i in range(75)]


def test_a_change_of_one_bit_makes_a_new_frame() -> None:
    stillness, picture = FrozenDetector(), noise(1)
    stillness.update(picture, 0)
    picture[4 * 5, 33, 1] ^= 1
    assert stillness.update(picture, NS) == 0


def test_a_long_loop_is_not_frozen_and_memory_is_bounded() -> None:
    stillness = FrozenDetector()
    count = REMEMBERED + 1
    assert not any(stillness.update(noise(i % count), i * NS) for i in range(3 * count))
    assert len(stillness._hashes) == REMEMBERED
