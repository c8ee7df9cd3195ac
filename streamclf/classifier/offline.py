"""Classify files in this process as fast as they decode, with the same sampling, chunks and windows as live."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.arrays import F32, U8
from engines.bundle import ModelSpec
from streamclf.classifier.prediction import TOP_K
from streamclf.config.source import SourceConfig
from streamclf.sources import open_source
from streamclf.windows.assembler import Window, WindowAssembler
from streamclf.windows.chunks import read_chunks
from streamclf.windows.sampling import ChunkMeta

if TYPE_CHECKING:
    from engines.protocol import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowResult:
    """One classified window; `probabilities` is (K,) float32."""

    window: Window
    probabilities: F32

    @property
    def start_s(self) -> float:
        """Media time of the window's first frame, seconds."""
        return self.window.start_pts_ns / 1e9

    @property
    def end_s(self) -> float:
        """Media time at which the window's last frame ends, seconds."""
        return self.window.end_pts_ns / 1e9


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


def file_chunks(spec: ModelSpec, path: Path) -> Generator[tuple[ChunkMeta, U8], None, None]:
    """Yield the chunks of a file, each with its own (t, H, W, 3) uint8 RGB. Raises `SourceError`.

    The file stays open until the generator ends: close it if you do not read it to its end.
    """
    with open_source(file_stream(path)) as source:
        yield from read_chunks(
            source,
            fps=spec.fps,
            frames_per_chunk=spec.frames_per_chunk,
            height=spec.height,
            width=spec.width,
            resize=spec.resize,
        )


def classify_file(engine: Engine, path: Path, *, hop: int = 1) -> Iterator[WindowResult]:
    """Yield the classified windows of a file in order, each as soon as it is classified. Raises `SourceError`.

    The engine's bank needs `offline_bank_slots`.
    """
    spec = engine.spec
    assembler = WindowAssembler(chunks=spec.chunks, hop=hop, slots=offline_bank_slots(spec, engine.max_batch))
    with closing(file_chunks(spec, path)) as chunks:
        while batch := list(islice(chunks, engine.max_batch)):
            yield from _classify_batch(engine, batch, assembler)


def _classify_batch(
    engine: Engine, batch: Sequence[tuple[ChunkMeta, U8]], assembler: WindowAssembler
) -> Iterator[WindowResult]:
    placed = [assembler.place(meta) for meta, _ in batch]
    engine.encode(np.stack([pixels for _, pixels in batch]), np.array([slot for slot, _ in placed], np.int32))
    windows = [window for _, window in placed if window]
    if windows:
        rows = engine.classify(np.stack([window.slots for window in windows]))
        for window, row in zip(windows, rows, strict=True):
            yield WindowResult(window=window, probabilities=row)
