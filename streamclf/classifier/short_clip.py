"""Classify a clip that is shorter than a window of the model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engines.arrays import U8
from engines.bundle import ModelSpec
from streamclf.classifier.window_classifier import WindowEngine, WindowResult, classify_window
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.errors import SourceError
from streamclf.sources import Frame
from streamclf.units import NS
from streamclf.windows.chunks import ChunkBuilder
from streamclf.windows.clip_layout import MEASURED_WINDOWS, STRETCH_STEPS, Layout, spread_windows, stretch_windows
from streamclf.windows.sampling import ChunkSampler
from streamclf.windows.segments import Segment, SegmentSink


class ShortClip:
    """A clip shorter than a window, that fills one window or is stretched to it.

    The probabilities are those of `python -m training evaluate`: a mean over a few windows, if the clip is stretched.
    Only the longest segment is kept. It is shorter than a window, as is all that the caller pushes before a window.
    """

    def __init__(self, spec: ModelSpec, area: PictureArea = WHOLE) -> None:
        self._spec = spec
        self._steps = STRETCH_STEPS if spec.whole_clips == "stretch" else 1
        frames = spec.frames_per_chunk * self._steps
        sampler = ChunkSampler(spec.fps * self._steps, frames)
        self._sink = SegmentSink(sampler, (frames, spec.height, spec.width, 3))
        self._builder = ChunkBuilder(
            sampler, self._sink, height=spec.height, width=spec.width, resize=spec.resize, area=area
        )
        self._clip: Segment | None = None
        self._last_ns, self._interval_ns = 0, NS
        self._is_fast = False

    def push(self, frame: Frame) -> None:
        """Add the next frame."""
        self._builder.push(frame)
        self._is_fast |= frame.decoding == "fast"
        self._last_ns, self._interval_ns = frame.pts_ns, frame.pts_ns - self._last_ns or self._interval_ns

    def classify(self, engine: WindowEngine, shown: str) -> WindowResult:
        """Classify the clip. `shown` names it in the `SourceError` that is raised if it has no frame."""
        spec, clip = self._spec, self._longest(shown)
        rows = [classify_window(engine, chunks) for chunks in self._windows(clip)]
        start_s, rate = clip.start_ns / NS, spec.fps * self._steps
        # The last sample's interval may reach beyond the end of the film, by seconds at a low rate.
        length_s, film_s = len(clip.frames) / rate, (self._last_ns + self._interval_ns) / NS - start_s
        return WindowResult(
            start_s=start_s,
            end_s=start_s + min(length_s, max(film_s, length_s - 1 / rate)),
            probabilities=np.stack(rows).mean(axis=0, dtype=np.float64).astype(np.float32),
            short_clip="stretch" if spec.whole_clips == "stretch" else spec.short_clips,
            fast=self._is_fast,
        )

    def windows(self, shown: str) -> list[U8]:
        """Return the windows that `classify` classifies, each (T, t, H, W, 3) uint8 RGB. Raises as `classify` does."""
        return list(self._windows(self._longest(shown)))

    def _longest(self, shown: str) -> Segment:
        clip = self._clip = self._clip or self._sink.longest()
        if clip is None:
            raise SourceError(
                f"{shown}: no frame of it could be sampled; play the file to check it, or record it again"
            )
        return clip

    def _windows(self, clip: Segment) -> Iterator[U8]:
        layout = _whole_clip(len(clip.frames), self._spec)
        chunks = clip.frames[layout.frames].reshape(-1, *self._spec.chunk_shape)
        for window in layout.windows:
            yield chunks[window]


def _whole_clip(length: int, spec: ModelSpec) -> Layout:
    """Lay out the windows of a clip shorter than a window, of `length` frames, as the bundle says."""
    t, chunks = spec.frames_per_chunk, spec.chunks
    if spec.whole_clips == "stretch":
        return stretch_windows(length, frames_per_chunk=t, chunks=chunks, count=MEASURED_WINDOWS)
    return spread_windows(length, frames_per_chunk=t, chunks=chunks, count=MEASURED_WINDOWS, fill=spec.short_clips)
