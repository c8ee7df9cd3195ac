"""Explain a prediction by occlusion: hide one part of the pictures at a time, and measure the drop of the probability.

It needs only the engine, so it works with every bundle (Zeiler and Fergus 2014, section 4.2). A window is classified
once for each part, so this costs much more than the prediction itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import cv2
import numpy as np

from engines.arrays import F32, I32, U8
from engines.bundle import ModelSpec
from engines.protocol import Engine
from streamclf.classifier.explanation import MAX_HEAT_SIDE, Heat
from streamclf.classifier.window_classifier import classify_window
from streamclf.errors import UsageError
from streamclf.sources.resize import Box

PARTS_PER_SIDE: Final = 8
"""A square picture has 8 x 8 parts. Twice as many per side would cost four times as much."""
MIN_PART: Final = 4
"""The least side of a part in pixels of the model's picture."""
MIN_SIDE: Final = 3 * MIN_PART
"""A smaller picture has too few parts to say where something is."""
LEAST_SCALE: Final = 0.1
"""Heat is relative to the largest drop, but at least to this one: small drops must not look important."""


class Occlusion:
    """Hide each part with the mean colour of its frame, in all frames of the window, and classify the window again.

    `on_step` is called after each call of the engine.
    """

    def __init__(self, engine: Engine, *, on_step: Callable[[], None] | None = None) -> None:
        """Use an engine whose bank has `offline_bank_slots`. Raises `UsageError` for a model with tiny pictures."""
        spec = engine.spec
        check_size(spec)
        self._engine, self._on_step = engine, on_step
        self._at_once = max(1, engine.max_batch // spec.chunks)

    def seconds_per_window(self) -> float:
        """Measure how long a window takes, in seconds, by classifying one without hiding anything."""
        spec = self._engine.spec
        grey = np.full((spec.chunks, *spec.chunk_shape), 128, np.uint8)
        classify_window(self._engine, grey)  # the first call may be slower
        began_s = time.monotonic()
        classify_window(self._engine, grey)
        return (time.monotonic() - began_s) * parts_of(spec)

    def explain(self, chunks: U8, label: int, area: Box) -> Heat:
        """See `Explainer`."""
        drops = self.drops(chunks, label, area)
        largest = float(drops.max())
        relative = (drops / max(largest, LEAST_SCALE)).clip(0, 1)
        return Heat(maps=_on_picture(relative, chunks.shape[2:4], area)[None], largest=max(0.0, largest))

    def drops(self, chunks: U8, label: int, area: Box) -> F32:
        """Return (rows, columns): how far the probability of `label` drops when that part of `area` is hidden."""
        top, left = round(area.top), round(area.left)
        height, width = max(1, round(area.height)), max(1, round(area.width))
        rows, columns = grid(height, width)
        shown = chunks[:, :, top : top + height, left : left + width]
        means = shown.mean(axis=(2, 3), keepdims=True).round().astype(np.uint8)  # (T, t, 1, 1, 3)
        base = float(classify_window(self._engine, chunks)[label])
        parts = [(row, column) for row in range(rows) for column in range(columns)]
        hidden = np.empty(len(parts), np.float32)
        for first in range(0, len(parts), self._at_once):
            variants = []
            for row, column in parts[first : first + self._at_once]:
                variant = chunks.copy()
                ys = slice(top + height * row // rows, top + height * (row + 1) // rows)
                xs = slice(left + width * column // columns, left + width * (column + 1) // columns)
                variant[:, :, ys, xs] = means
                variants.append(variant)
            hidden[first : first + len(variants)] = self._classify(variants)[:, label]
            if self._on_step is not None:
                self._on_step()
        return (base - hidden).reshape(rows, columns).astype(np.float32)

    def _classify(self, variants: list[U8]) -> F32:
        """Classify windows (T, t, H, W, 3) in one batch if they fit -> (N, K)."""
        if len(variants) == 1:
            return classify_window(self._engine, variants[0])[None]
        chunks = self._engine.spec.chunks
        slots: I32 = np.arange(len(variants) * chunks, dtype=np.int32)
        self._engine.encode(np.concatenate(variants), slots)
        return self._engine.classify(slots.reshape(len(variants), chunks))


def check_size(spec: ModelSpec) -> None:
    """Raise `UsageError` for a model whose pictures are too small to hide parts of them."""
    if min(spec.height, spec.width) < MIN_SIDE:
        raise UsageError(
            f"--explain: the pictures of {spec.id} have {spec.width}x{spec.height} pixels, at least "
            f"{MIN_SIDE}x{MIN_SIDE} are needed to hide parts of them; use a model with larger pictures"
        )


def parts_of(spec: ModelSpec) -> int:
    """Return how many parts a whole picture has."""
    rows, columns = grid(spec.height, spec.width)
    return rows * columns


def grid(height: int, width: int) -> tuple[int, int]:
    """Return the (rows, columns) of nearly square parts."""
    side = max(MIN_PART, math.sqrt(height * width) / PARTS_PER_SIDE)
    return max(1, round(height / side)), max(1, round(width / side))


def _on_picture(parts: F32, size: tuple[int, ...], area: Box) -> F32:
    """Return a smooth map of the whole picture from the parts of `area`; the rest is 0."""
    scale = min(1.0, MAX_HEAT_SIDE / max(size))
    height, width = (max(1, round(side * scale)) for side in size[:2])
    heat = np.zeros((height, width), np.float32)
    top, left = round(area.top * scale), round(area.left * scale)
    bottom, right = round((area.top + area.height) * scale), round((area.left + area.width) * scale)
    bottom, right = min(height, max(bottom, top + 1)), min(width, max(right, left + 1))
    heat[top:bottom, left:right] = cv2.resize(parts, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    return heat
