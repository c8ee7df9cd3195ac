"""Choose the frames of a clip that make a window: drawn at random for training, spread evenly for validation."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from engines.arrays import I64
from streamclf.windows.clip_layout import (
    MEASURED_WINDOWS,
    Fill,
    Layout,
    fill_indices,
    spread_windows,
    stretch_windows,
)
from training.data.shape import Shape
from training.section import Section


class WindowsRecipe(Section):
    """The `windows` section of a recipe: how windows are cut from clips."""

    fit: Literal["rate", "stretch"] = Field(
        "rate", description="rate: windows at the recipe's fps, as in serving; stretch: the whole clip is one window"
    )
    span: tuple[float, float] = Field(
        (0.8, 1.0), description="with fit: stretch, the smallest and largest share of a clip in a training window"
    )
    jitter: float = Field(
        0.3, ge=0, le=0.5, description="training shifts each sampling time by up to this share of a frame interval"
    )
    short_clips: Fill = Field(
        "hold", description="how to fill a window that is longer than its clip: hold its last frame, or loop it"
    )
    measured: int = Field(
        MEASURED_WINDOWS,
        ge=0,
        le=1000,
        description="windows of a validation clip whose probabilities are averaged; 0: all windows",
    )
    balanced: bool = Field(True, description="draw all classes equally often, however many clips each of them has")
    views: int = Field(
        0, ge=0, le=256, description="with a frozen encoder: augmented versions of each clip to encode and cache"
    )

    @model_validator(mode="after")
    def _check_span(self) -> WindowsRecipe:
        if not 0.1 <= self.span[0] <= self.span[1] <= 1:
            raise ValueError(f"span={list(self.span)}: give two shares between 0.1 and 1, the smaller first")
        return self


def validation_layout(length: int, shape: Shape, windows: WindowsRecipe) -> Layout:
    """Lay out the windows in which a validation clip of `length` frames is measured."""
    if windows.fit == "stretch":
        return stretch_windows(
            length, frames_per_chunk=shape.frames_per_chunk, chunks=shape.chunks, count=max(windows.measured, 1)
        )
    return spread_windows(
        length,
        frames_per_chunk=shape.frames_per_chunk,
        chunks=shape.chunks,
        count=windows.measured,
        fill=windows.short_clips,
    )


def draw_window(
    rng: np.random.Generator,
    length: int,
    *,
    window: int,
    steps: int,
    speed: tuple[float, float],
    jitter: float,
    fill: Fill,
) -> I64:
    """Draw (window,) indices into a clip that has `length` frames, `steps` for each frame of the model.

    The speed is drawn between the two values of `speed`, evenly in its logarithm. The start is drawn among all starts
    at which the window fits into the clip. A clip that is too short is placed anywhere in the window. With several
    `steps`, each time is shifted by up to `jitter` of the model's frame interval.
    """
    low, high = np.log(speed)
    pace = steps * float(np.exp(rng.uniform(low, high)))
    slack = length - 1 - pace * (window - 1)
    start = rng.uniform(min(slack, 0), max(slack, 0))
    shift = rng.uniform(-jitter, jitter, window) * pace if steps > 1 else np.zeros(window)
    return fill_indices(np.round(start + np.arange(window) * pace + shift).astype(np.int64), length, fill)


def draw_stretched(
    rng: np.random.Generator, length: int, *, window: int, span: tuple[float, float], jitter: float
) -> I64:
    """Draw (window,) indices, spread over a random part of the clip.

    The part's share of the clip is drawn between the two values of `span`. Each index is shifted by up to `jitter` of
    the distance between two indices.
    """
    share = rng.uniform(*span)
    begin = rng.uniform(0, 1 - share) * (length - 1)
    end = begin + share * (length - 1)
    shift = rng.uniform(-jitter, jitter, window) * (end - begin) / max(window - 1, 1)
    return np.round(np.linspace(begin, end, window) + shift).astype(np.int64).clip(0, length - 1)
