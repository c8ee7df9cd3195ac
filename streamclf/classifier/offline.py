"""Classify files in this process as fast as they decode, with the same sampling, chunks and windows as live."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from engines.arrays import F32, U8
from engines.bundle import ModelSpec
from streamclf.classifier.prediction import TOP_K
from streamclf.config.source import SourceConfig
from streamclf.errors import SourceError
from streamclf.sources import Frame, Source, open_source
from streamclf.sources.array import ArraySource
from streamclf.units import NS
from streamclf.windows.assembler import Window, WindowAssembler
from streamclf.windows.chunks import ChunkBuilder, FrameHook, read_chunks
from streamclf.windows.clip_layout import MEASURED_WINDOWS, STRETCH_STEPS, Layout, spread_windows, stretch_windows
from streamclf.windows.sampling import ChunkMeta, ChunkSampler
from streamclf.windows.segments import Segment, SegmentSink

if TYPE_CHECKING:
    from engines.protocol import Engine


ShortClipFill: TypeAlias = Literal["hold", "loop", "stretch"]
"""How a clip fills a window that is longer: its last frame is held, it is repeated, or it is stretched."""
MAX_WINDOWS = 1_000_000
"""The results of all windows of a file are kept in memory. This is a film of two days with chunks of 0.2 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowResult:
    """One classified window, its media time in seconds; `probabilities` is (K,) float32.

    `short_clip`: how a clip that is shorter than a window was made to fill this one; None for longer ones.
    """

    start_s: float
    end_s: float
    probabilities: F32
    short_clip: ShortClipFill | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """The classified windows of a file, in order.

    `short_clip`: how a clip that is shorter than a window was made to fill the only one; None for longer ones.
    `warning`: a fault of the file, in one line.
    """

    windows: Sequence[WindowResult]
    short_clip: ShortClipFill | None = None
    warning: str | None = None


def offline_bank_slots(spec: ModelSpec, max_batch: int) -> int:
    """Return the bank slots for one window and a batch that must not overwrite it."""
    return spec.chunks + max_batch - 1


def ranked(result: WindowResult, labels: Sequence[str]) -> list[tuple[str, float]]:
    """Return (label, probability) of at most `TOP_K` labels, the most probable first."""
    best = result.probabilities.argsort()[::-1][:TOP_K]
    return [(labels[i], round(float(result.probabilities[i]), 6)) for i in best]


def file_stream(path: Path) -> SourceConfig:
    """Return the configuration of a file that is read as fast as it decodes.

    A path of the command line is no value of a YAML file: it may be longer, and its bytes need not be UTF-8. So it is
    not validated here; opening the file reports what is wrong with it.
    """
    return SourceConfig.model_construct(url=str(path), pace="fast")


def file_chunks(
    spec: ModelSpec, path: Path, *, on_frame: FrameHook | None = None
) -> Generator[tuple[ChunkMeta, U8], None, None]:
    """Yield the chunks of a file, each with its own (t, H, W, 3) uint8 RGB. Raises `SourceError`.

    The file stays open until the generator ends: close it if you do not read it to its end.
    """
    with open_source(file_stream(path)) as source:
        yield from _chunks(spec, source, on_frame)


def classify_file(
    engine: Engine,
    path: Path,
    *,
    hop: int = 1,
    on_frame: FrameHook | None = None,
    on_window: Callable[[WindowResult], None] | None = None,
) -> FileResult:
    """Classify the windows of a file. Raises `SourceError`. The engine's bank needs `offline_bank_slots`.

    `on_frame` is called with each frame as it is read, `on_window` with each window, at most a batch of chunks later.
    The frames of a clip shorter than a window are read twice.

    A clip shorter than a window is classified as `python -m training evaluate` does.
    """
    results, windows = iter_file_windows(engine, path, hop=hop, on_frame=on_frame), list[WindowResult]()
    with closing(results):
        while True:
            try:
                windows.append(next(results))
            except StopIteration as end:
                return FileResult(windows=windows, short_clip=windows[0].short_clip, warning=end.value)
            if on_window is not None:
                on_window(windows[-1])
            if len(windows) > MAX_WINDOWS:
                raise SourceError(f"{path}: more than {MAX_WINDOWS} windows; cut the film, or give a larger --hop")


def iter_file_windows(
    engine: Engine, path: Path, *, hop: int = 1, on_frame: FrameHook | None = None
) -> Generator[WindowResult, None, str | None]:
    """Yield the windows of a file as it is read; return a fault of the file, in one line. Raises `SourceError`.

    There is at least one window. The engine's bank needs `offline_bank_slots`.
    """
    has_window = False
    with open_source(file_stream(path)) as source:
        for window in _iter_long(engine, source, hop, on_frame):
            has_window = True
            yield window
        warning = source.warning
    if not has_window:
        yield read_short_clip(engine.spec, path, on_frame=on_frame).classify(engine, str(path))
    return warning


def read_short_clip(spec: ModelSpec, path: Path, *, on_frame: FrameHook | None = None) -> ShortClip:
    """Read a file that is shorter than a window. Raises `SourceError`."""
    clip = ShortClip(spec)
    with open_source(file_stream(path)) as source:
        for frame in source:
            if on_frame is not None:
                on_frame(source, frame)
            clip.push(frame)
    return clip


def iter_array_windows(engine: Engine, source: ArraySource, *, hop: int = 1) -> Generator[WindowResult, None, None]:
    """Yield the windows of a program's frames as they are read. Raises the errors of `source`.

    There is at least one window. The frames are read once, so until the first window they are kept in the model's size.
    """
    clip = ShortClip(engine.spec)
    source.on_frame = clip.push
    for window in _iter_long(engine, source, hop):
        source.on_frame = None
        yield window
    if source.on_frame is not None:
        yield clip.classify(engine, "frames")


def _iter_long(engine: Engine, source: Source, hop: int, on_frame: FrameHook | None = None) -> Iterator[WindowResult]:
    """Yield the windows of a source; a clip shorter than a window has none."""
    classifier = WindowClassifier(engine, hop)
    with closing(_chunks(engine.spec, source, on_frame)) as chunks:
        while batch := list(islice(chunks, engine.max_batch)):
            yield from classifier.classify(batch)


def _chunks(
    spec: ModelSpec, source: Source, on_frame: FrameHook | None = None
) -> Generator[tuple[ChunkMeta, U8], None, None]:
    yield from read_chunks(
        source,
        fps=spec.fps,
        frames_per_chunk=spec.frames_per_chunk,
        height=spec.height,
        width=spec.width,
        resize=spec.resize,
        on_frame=on_frame,
    )


class WindowClassifier:
    """Classify the windows of consecutive chunks. While an image is held, nothing is computed again."""

    def __init__(self, engine: Engine, hop: int) -> None:
        spec = engine.spec
        self._engine = engine
        self._assembler = WindowAssembler(chunks=spec.chunks, hop=hop, slots=offline_bank_slots(spec, engine.max_batch))
        self._before: ChunkMeta | None = None
        self._held: tuple[int, F32] | None = None  # of a window of one image: its chunks' only slot, its probabilities

    def classify(self, batch: Sequence[tuple[ChunkMeta, U8]]) -> Iterator[WindowResult]:
        """Encode a batch of chunks, and yield the windows that end in it."""
        slots: list[int] = []
        pixels: list[U8] = []
        windows: list[Window] = []
        for meta, chunk in batch:
            is_same = self._is_same(meta)
            slot, window = self._assembler.place(meta, reused=is_same)
            if not is_same:
                slots.append(slot)
                pixels.append(chunk)
            if window is not None:
                windows.append(window)
        if slots:
            self._engine.encode(np.stack(pixels), np.array(slots, np.int32))
        yield from self._results(windows)

    def _is_same(self, meta: ChunkMeta) -> bool:
        """Return whether all frames of this chunk, and of the one before it, are the same image."""
        before, self._before = self._before, meta
        return (
            before is not None
            and (before.segment, before.index + 1) == (meta.segment, meta.index)
            and before.duplicates == before.frames
            and meta.duplicates == meta.frames
        )

    def _results(self, windows: Sequence[Window]) -> Iterator[WindowResult]:
        single = [int(window.slots[0]) if (window.slots == window.slots[0]).all() else None for window in windows]
        before = [None if self._held is None else self._held[0], *single]
        is_held = [slot is not None and slot == before[place] for place, slot in enumerate(single)]
        new = [window.slots for window, held in zip(windows, is_held, strict=True) if not held]
        rows = iter(self._engine.classify(np.stack(new)) if new else ())
        for window, slot, held in zip(windows, single, is_held, strict=True):
            row = self._held[1] if held and self._held is not None else next(rows)
            self._held = None if slot is None else (slot, row)
            yield WindowResult(start_s=window.start_pts_ns / NS, end_s=window.end_pts_ns / NS, probabilities=row)


class ShortClip:
    """A clip shorter than a window, that fills one window or is stretched to it.

    The probabilities are those of `python -m training evaluate`: a mean over a few windows, if the clip is stretched.
    Only the longest segment is kept. It is shorter than a window, as is all that the caller pushes before a window.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._steps = STRETCH_STEPS if spec.whole_clips == "stretch" else 1
        frames = spec.frames_per_chunk * self._steps
        sampler = ChunkSampler(spec.fps * self._steps, frames)
        self._sink = SegmentSink(sampler, (frames, spec.height, spec.width, 3))
        self._builder = ChunkBuilder(sampler, self._sink, height=spec.height, width=spec.width, resize=spec.resize)
        self._clip: Segment | None = None
        self._last_ns, self._interval_ns = 0, NS

    def push(self, frame: Frame) -> None:
        """Add the next frame."""
        self._builder.push(frame)
        self._last_ns, self._interval_ns = frame.pts_ns, frame.pts_ns - self._last_ns or self._interval_ns

    def classify(self, engine: Engine, shown: str) -> WindowResult:
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


def classify_window(engine: Engine, chunks: U8) -> F32:
    """Classify one window of chunks (T, t, H, W, 3) -> (K,)."""
    slots = np.arange(len(chunks), dtype=np.int32)
    for first in range(0, len(chunks), engine.max_batch):
        part = slice(first, first + engine.max_batch)
        engine.encode(np.ascontiguousarray(chunks[part]), slots[part])
    row: F32 = engine.classify(slots[None])[0]
    return row


def _whole_clip(length: int, spec: ModelSpec) -> Layout:
    """Lay out the windows of a clip shorter than a window, of `length` frames, as the bundle says."""
    t, chunks = spec.frames_per_chunk, spec.chunks
    if spec.whole_clips == "stretch":
        return stretch_windows(length, frames_per_chunk=t, chunks=chunks, count=MEASURED_WINDOWS)
    return spread_windows(length, frames_per_chunk=t, chunks=chunks, count=MEASURED_WINDOWS, fill=spec.short_clips)
