"""Explain windows of a film: choose them, read their frames again, and keep the heat maps that an explainer makes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from engines.arrays import F32, U8
from engines.bundle import ModelSpec
from streamclf.classifier.film_events import FilmEvent
from streamclf.classifier.offline import FileResult, file_chunks, read_short_clip
from streamclf.classifier.window_classifier import WindowResult
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.sources import Frame, Source
from streamclf.sources.resize import Box, visible_boxes
from streamclf.windows.assembler import WindowAssembler
from streamclf.windows.chunks import FrameHook

MAX_EXPLAINED: Final = 500
"""The most windows of a film that are explained: their heat maps stay in memory."""
MAX_HEAT_SIDE: Final = 64
"""Heat maps have at most so many values along their longer side. They have no finer details."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """How much a prediction depends on each part of the model's picture.

    `maps`: (S, h, w) float32 from 0 to 1, for S equal parts of the window's time, over the whole picture, at a lower
    resolution. `largest`: the largest drop of the probability when a part is hidden; None for other methods.
    """

    maps: F32
    largest: float | None = None


class Explainer(Protocol):
    """A method that makes heat maps."""

    def explain(self, chunks: U8, label: int, area: Box) -> Heat:
        """Explain the probability of `label` in a window.

        `chunks`: (T, t, H, W, 3) uint8 RGB. `area`: the part of each picture that shows the film; letterbox bars are
        outside of it.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The heat of one window; `window` is its number in the film, `label` the index of its most probable label."""

    window: int
    start_s: float
    end_s: float
    label: int
    probability: float
    heat: Heat

    def step_at(self, time_s: float) -> int:
        """Return the number of the heat map for a moment of the window."""
        share = (time_s - self.start_s) / max(self.end_s - self.start_s, 1e-9)
        steps = len(self.heat.maps)
        return min(max(int(share * steps), 0), steps - 1)


def choose_windows(events: Sequence[FilmEvent], count: int, limit: int) -> list[int]:
    """Return the numbers of at most `limit` windows out of `count`, in order.

    The peaks of the events come first, the most probable before the others. If `limit` allows more, windows at equal
    distances follow.
    """
    peaks = sorted(events, key=lambda event: -event.peak)[:limit]
    chosen = {event.peak_window for event in peaks}
    for window in np.linspace(0, count - 1, min(limit, count)).round().astype(int).tolist():
        if len(chosen) >= limit:
            break
        chosen.add(window)
    return sorted(chosen)


def explanation_at(explanations: Sequence[Explanation], time_s: float) -> Explanation | None:
    """Return the explanation of the window that covers `time_s`; of several, the one with the nearest middle."""
    covering = [each for each in explanations if each.start_s <= time_s <= each.end_s]
    return min(covering, key=lambda each: abs(each.start_s + each.end_s - 2 * time_s), default=None)


def explain_film(
    explainer: Explainer,
    spec: ModelSpec,
    path: Path,
    result: FileResult,
    chosen: Sequence[int],
    *,
    hop: int,
    on_frame: FrameHook | None = None,
    on_explained: Callable[[Explanation], None] | None = None,
    area: PictureArea = WHOLE,
) -> list[Explanation]:
    """Read the film again and explain its windows with the numbers `chosen`. Raises `SourceError`.

    `area` is the part of the picture that was classified; the heat is that of this part. `on_explained` is called with
    each explanation when the newest frame that was read is the window's last one.
    """
    part_size = _PartSize(area, on_frame)
    explanations = []
    if result.short_clip:
        windows = _short_window(spec, path, part_size, area)
    else:
        windows = _windows(spec, path, hop, part_size, area)
    waiting = set(chosen)
    with closing(windows):
        for number, variants in windows:
            if number not in waiting or number >= len(result.windows):
                continue
            _, visible = visible_boxes(part_size.size, (spec.height, spec.width), spec.resize)
            explanation = _explanation(explainer, number, result.windows[number], variants, visible)
            explanations.append(explanation)
            if on_explained is not None:
                on_explained(explanation)
            waiting.discard(number)
            if not waiting:
                break
    return explanations


class _PartSize:
    """A hook that keeps the size (height, width) of the newest frame's part."""

    def __init__(self, area: PictureArea, on_frame: FrameHook | None) -> None:
        self._area = area
        self.size = (1, 1)
        self._on_frame = on_frame

    def __call__(self, source: Source, frame: Frame) -> None:
        self.size = frame.size_of(self._area)
        if self._on_frame is not None:
            self._on_frame(source, frame)


def _windows(
    spec: ModelSpec, path: Path, hop: int, on_frame: FrameHook, area: PictureArea
) -> Generator[tuple[int, Sequence[U8]], None, None]:
    """Yield (number, its only form) of each window, as `classify_file` numbers them."""
    assembler = WindowAssembler(chunks=spec.chunks, hop=hop, slots=spec.chunks)
    pixels: dict[int, U8] = {}
    number = 0
    with closing(file_chunks(spec, path, on_frame=on_frame, area=area)) as chunks:
        for meta, chunk in chunks:
            slot, window = assembler.place(meta)
            pixels[slot] = chunk
            if window is not None:
                yield number, _Stacked(pixels, window.slots.tolist())
                number += 1


class _Stacked(Sequence[U8]):
    """The one form of a long film's window. It is put together only if it is needed."""

    def __init__(self, pixels: dict[int, U8], slots: Sequence[int]) -> None:
        self._pixels, self._slots = pixels, slots

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> U8:  # type: ignore[override]
        if index != 0:
            raise IndexError(index)
        return np.stack([self._pixels[slot] for slot in self._slots])


def _short_window(
    spec: ModelSpec, path: Path, on_frame: FrameHook, area: PictureArea
) -> Generator[tuple[int, Sequence[U8]], None, None]:
    yield 0, read_short_clip(spec, path, on_frame=on_frame, area=area).windows(str(path))


def _explanation(
    explainer: Explainer, number: int, window: WindowResult, variants: Sequence[U8], area: Box
) -> Explanation:
    label = int(window.probabilities.argmax())
    heats = [explainer.explain(chunks, label, area) for chunks in variants]
    drops = [heat.largest for heat in heats if heat.largest is not None]
    return Explanation(
        window=number,
        start_s=window.start_s,
        end_s=window.end_s,
        label=label,
        probability=float(window.probabilities[label]),
        heat=Heat(
            maps=np.mean([heat.maps for heat in heats], axis=0).astype(np.float32),
            largest=sum(drops) / len(drops) if drops else None,
        ),
    )
