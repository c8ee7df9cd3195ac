"""Windows are spread evenly for validation, and drawn inside the clip for training."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.windows import draw_stretched, draw_window, spread_windows, stretch_windows


def test_windows_are_spread_and_begin_with_a_chunk() -> None:
    layout = spread_windows(10, frames_per_chunk=2, chunks=3, count=2, fill="hold")
    assert layout.windows.tolist() == [[0, 1, 2], [2, 3, 4]]
    assert layout.frames.tolist() == list(range(10))
    every = spread_windows(11, frames_per_chunk=2, chunks=3, count=0, fill="hold")
    assert every.windows[:, 0].tolist() == [0, 1, 2]
    assert every.filled == 0
    assert spread_windows(10, frames_per_chunk=2, chunks=3, count=1, fill="hold").windows.tolist() == [[1, 2, 3]]
    short = spread_windows(4, frames_per_chunk=2, chunks=3, count=5, fill="hold")
    assert short.frames.tolist() == [0, 1, 2, 3, 3, 3]
    assert (short.filled, short.windows.tolist()) == (2, [[0, 1, 2]])
    assert spread_windows(4, frames_per_chunk=2, chunks=3, count=5, fill="loop").frames.tolist() == [0, 1, 2, 3, 0, 1]


def test_stretched_window_covers_the_whole_clip() -> None:
    layout = stretch_windows(31, frames_per_chunk=2, chunks=2, count=3)
    assert layout.frames[:4].tolist() == [0, 10, 20, 30]
    assert layout.windows.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert layout.frames[4] == 0
    assert layout.frames[-1] == 30
    for seed in range(20):
        indices = draw_stretched(np.random.default_rng(seed), 31, window=6, span=(0.8, 1.0), jitter=0.3)
        assert (np.diff(indices) >= 0).all()
        assert indices[-1] - indices[0] >= 0.6 * 30


@pytest.mark.parametrize("length", [1, 7, 40, 200])
def test_drawn_window_stays_in_the_clip_and_varies_its_speed(length: int) -> None:
    spans = []
    for seed in range(30):
        indices = draw_window(
            np.random.default_rng(seed), length, window=8, steps=2, speed=(0.5, 2.0), jitter=0.3, fill="hold"
        )
        assert indices.shape == (8,)
        assert indices.min() >= 0
        assert indices.max() < length
        assert (np.diff(indices) >= 0).all()
        spans.append((indices[-1] - indices[0]) / (2 * 7))
    if length == 200:
        assert 0.4 <= min(spans) < 0.8
        assert 1.4 < max(spans) <= 2.2
