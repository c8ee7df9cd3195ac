"""Frames in memory have exact times; an image lasts until the next one, and may belong to the program."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice, repeat

import numpy as np
import pytest

from streamclf.errors import UsageError
from streamclf.sources.array import check_fps, check_time, film_frames, iter_images, live_frames, rate_frames

IMAGE = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (25, Fraction(25)),
        (30000 / 1001, Fraction(30000, 1001)),
        (Fraction(1, 3), Fraction(1, 3)),
        (0.001, Fraction(1, 1000)),
    ],
)
def test_times_do_not_drift(fps: float, rate: Fraction) -> None:
    assert check_fps(fps) == rate
    first = round(86_400 * rate)
    (frame,) = islice(rate_frames(repeat(IMAGE), rate, start_ns=5, first=first), 1)
    assert frame.pts_ns == 5 + round(first * 1_000_000_000 / rate)
    assert frame.continues


def test_an_image_that_lasts_long_is_repeated_and_a_live_one_is_not() -> None:
    expected = [(number * 100_000_000, number not in (0, 10), number > 0) for number in range(11)]
    film = list(film_frames([IMAGE, IMAGE], [0, 1]))
    assert [(frame.pts_ns, frame.repeated, frame.continues) for frame in film] == expected
    assert all(frame.image is IMAGE for frame in film)
    slow = list(rate_frames([IMAGE], Fraction(1)))
    assert [(frame.pts_ns, frame.repeated, frame.continues) for frame in slow] == expected[:10]
    live = list(live_frames([IMAGE, IMAGE], [0, 1_000_000_000]))
    assert [(frame.pts_ns, frame.continues) for frame in live] == [(0, False), (1_000_000_000, False)]


def test_images_of_an_iterable_are_copied_and_those_of_an_array_are_not() -> None:
    batch = np.zeros((2, 4, 6, 3), np.uint8)
    assert all(np.shares_memory(image, batch) for image in iter_images(batch))
    assert not any(np.shares_memory(image, batch) for image in iter_images(list(batch)))
    (single,) = iter_images(IMAGE)
    assert single is IMAGE


@pytest.mark.parametrize("time_s", [None, "1", True, float("nan"), 1e11, 1j, [1.0]])
def test_times_that_are_no_finite_number_are_refused(time_s: object) -> None:
    with pytest.raises(UsageError, match=r"pts_s\[3\]=.*: must be seconds of media time"):
        check_time(time_s, "pts_s[3]")
