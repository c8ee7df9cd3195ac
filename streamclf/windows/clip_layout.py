"""Lay out the windows of a whole clip, also of one shorter than a window. Pure; training and serving share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from engines.arrays import I64

Fill = Literal["hold", "loop"]
"""How to fill a window that is longer than its clip: hold the first and last frame, or loop the clip."""

SHORTER_SHARE: Final = 0.85
"""The share of a stretched clip that its second and later windows show."""
STRETCH_STEPS: Final = 4
"""Frames decoded for each frame at the model's rate, where a clip is stretched to one window."""
MEASURED_WINDOWS: Final = 5
"""By default, the probabilities of so many windows of a clip are averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The chunks of a clip, and the windows that they form.

    `frames`: (n * t,) indices into the clip, t for each of n chunks. `windows`: (W, T) chunk numbers. `filled`: how
    many of `frames` replace frames that the clip does not have.
    """

    frames: I64
    windows: I64
    filled: int


def fill_indices(indices: I64, length: int, fill: Fill) -> I64:
    """Replace indices outside 0..length - 1 by indices inside."""
    return indices % length if fill == "loop" else indices.clip(0, length - 1)


def spread_windows(length: int, *, frames_per_chunk: int, chunks: int, count: int, fill: Fill) -> Layout:
    """Spread `count` windows evenly over a clip of `length` frames. Windows begin where serving begins a chunk.

    A `count` of 0 takes every window, as `streamclf classify` does. A clip shorter than a window gives one window,
    with frames filled in.

    Ten frames, t=2, T=3, count=2: the chunks are 01 23 45 67 89, the windows (0, 1, 2) and (2, 3, 4).
    """
    total = max(length // frames_per_chunk, chunks)
    frames = np.arange(total * frames_per_chunk)
    last = total - chunks
    starts = np.arange(last + 1)
    if 0 < count <= last:
        starts = np.unique(
            (np.linspace(0, last, count + 2)[1:-1] if count == 1 else np.linspace(0, last, count)).round()
        )
    windows = starts.astype(np.int64)[:, None] + np.arange(chunks)
    return Layout(
        frames=fill_indices(frames, length, fill), windows=windows, filled=max(frames_per_chunk * chunks - length, 0)
    )


def stretch_windows(length: int, *, frames_per_chunk: int, chunks: int, count: int) -> Layout:
    """Lay out the whole clip of `length` frames as one window, and `count` - 1 windows over most of it.

    Frames are repeated or left out evenly to fill a window. Windows share no chunks.
    """
    window = frames_per_chunk * chunks
    spans = [(0.0, 1.0)]
    if count > 1:
        starts = np.linspace(0, 1 - SHORTER_SHARE, count - 1)
        spans += [(float(start), float(start) + SHORTER_SHARE) for start in starts]
    indices = [_spread(begin * (length - 1), end * (length - 1), window) for begin, end in spans]
    return Layout(
        frames=np.concatenate(indices),
        windows=np.arange(len(spans) * chunks).reshape(-1, chunks),
        filled=max(window - length, 0),
    )


def _spread(begin: float, end: float, window: int) -> I64:
    return np.round(np.linspace(begin, end, window)).astype(np.int64)
