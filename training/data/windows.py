"""Which frames of a clip make a window: drawn for training, laid evenly over the clip for measuring. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engines.arrays import I64

Fill = Literal["hold", "loop"]
"""What stands where a clip is shorter than a window: its outermost frames, or the clip again."""

SHORTER_SHARE = 0.85
"""Of a stretched clip: how much of it the windows after the first one show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`frames`: (n * t,) indices into the clip, t for each of n chunks. `windows`: (W, T) chunk numbers.

    `filled`: how many of `frames` stand for frames that the clip does not have.
    """

    frames: I64
    windows: I64
    filled: int


def fill(positions: I64, length: int, how: Fill) -> I64:
    """Positions outside 0..length - 1, brought inside."""
    return positions % length if how == "loop" else positions.clip(0, length - 1)


def lay_windows(length: int, *, frames_per_chunk: int, chunks: int, count: int, how: Fill) -> Layout:
    """`count` windows spread evenly over a clip of `length` frames, at chunks' borders, where serving has them too.

    0 takes them all, as `streamclf classify` does. A clip shorter than a window gives one, filled.

    Ten frames, t=2, T=3, count=2: chunks 01 23 45 67 89, windows (0, 1, 2) and (2, 3, 4).
    """
    made = max(length // frames_per_chunk, chunks)
    frames = np.arange(made * frames_per_chunk)
    last = made - chunks
    starts = np.arange(last + 1)
    if 0 < count <= last:
        starts = np.unique(
            (np.linspace(0, last, count + 2)[1:-1] if count == 1 else np.linspace(0, last, count)).round()
        )
    windows = starts.astype(np.int64)[:, None] + np.arange(chunks)
    return Layout(frames=fill(frames, length, how), windows=windows, filled=max(frames_per_chunk * chunks - length, 0))


def stretch_windows(length: int, *, frames_per_chunk: int, chunks: int, count: int) -> Layout:
    """The whole clip of `length` frames as one window, whatever its duration, and `count` - 1 of most of it.

    Its frames are repeated or left out evenly. Each window has chunks of its own.
    """
    window = frames_per_chunk * chunks
    spans = [(0.0, 1.0)]
    if count > 1:
        starts = np.linspace(0, 1 - SHORTER_SHARE, count - 1)
        spans += [(float(start), float(start) + SHORTER_SHARE) for start in starts]
    places = [_spread(begin * (length - 1), end * (length - 1), window) for begin, end in spans]
    return Layout(
        frames=np.concatenate(places),
        windows=np.arange(len(spans) * chunks).reshape(-1, chunks),
        filled=max(window - length, 0),
    )


def draw_window(
    rng: np.random.Generator,
    length: int,
    *,
    window: int,
    steps: int,
    speed: tuple[float, float],
    jitter: float,
    how: Fill,
) -> I64:
    """(window,) indices into a clip that holds `length` frames, `steps` for each one of the model's.

    The speed is drawn between the two of `speed` (evenly in its logarithm), the start anywhere it fits; a clip that
    is too short lies anywhere in the window. Where there are several `steps`, each time is off by up to `jitter` of
    the model's frame interval.
    """
    low, high = np.log(speed)
    pace = steps * float(np.exp(rng.uniform(low, high)))
    room = length - 1 - pace * (window - 1)
    start = rng.uniform(min(room, 0), max(room, 0))
    off = rng.uniform(-jitter, jitter, window) * pace if steps > 1 else np.zeros(window)
    return fill(np.round(start + np.arange(window) * pace + off).astype(np.int64), length, how)


def draw_stretched(
    rng: np.random.Generator, length: int, *, window: int, span: tuple[float, float], jitter: float
) -> I64:
    """(window,) indices, spread over a part of the clip that is drawn: of share `span`, anywhere it fits.

    Each is off the even ones by up to `jitter` of their distance.
    """
    share = rng.uniform(*span)
    begin = rng.uniform(0, 1 - share) * (length - 1)
    end = begin + share * (length - 1)
    off = rng.uniform(-jitter, jitter, window) * (end - begin) / max(window - 1, 1)
    return np.round(np.linspace(begin, end, window) + off).astype(np.int64).clip(0, length - 1)


def _spread(begin: float, end: float, window: int) -> I64:
    return np.round(np.linspace(begin, end, window)).astype(np.int64)
