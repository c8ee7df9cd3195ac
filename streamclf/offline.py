"""Files classified as fast as they decode, in this process: the same sampling, tokens and windows as live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engines.bundle import ModelSpec
from streamclf.config import StreamConfig
from streamclf.sampling import TokenMeta, TokenSampler
from streamclf.windows import Window, WindowAssembler

if TYPE_CHECKING:
    from engines.engine import Engine
    from streamclf.sources import Frame

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


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
    """Bank slots for one window and a batch that must not overwrite it."""
    return spec.tokens + max_batch - 1


def file_stream(path: Path) -> StreamConfig:
    """A file as a source that is read as fast as it decodes."""
    return StreamConfig(url=str(path), pace="fast")


def classify_file(engine: Engine, path: Path, *, hop: int = 1) -> Iterator[WindowResult]:
    """Windows of the file, in order, each as soon as it is known. Raises `SourceError`.

    The engine's bank needs `offline_bank_slots`.
    """
    spec = engine.spec
    assembler = WindowAssembler(tokens=spec.tokens, hop=hop, slots=offline_bank_slots(spec, engine.max_batch))
    batch: U8 = np.empty((engine.max_batch, *spec.token_shape), np.uint8)
    metas: list[TokenMeta] = []
    for pixels, meta in read_tokens(path, engine):
        batch[len(metas)] = pixels
        metas.append(meta)
        if len(metas) == engine.max_batch:
            yield from _classify_batch(engine, batch, metas, assembler)
            metas.clear()
    if metas:
        yield from _classify_batch(engine, batch, metas, assembler)


def read_tokens(path: Path, engine: Engine) -> Iterator[tuple[U8, TokenMeta]]:
    """The file's tokens, (t, H, W, 3) uint8 RGB each; the array is reused for the next one."""
    from streamclf.sources import open_source

    spec = engine.spec
    sampler = TokenSampler(spec.fps, spec.frames_per_token)
    token: U8 = np.empty(spec.token_shape, np.uint8)
    previous: Frame | None = None
    with open_source(file_stream(path)) as source:
        for frame in source:
            picks = sampler.offer(
                frame.pts_ns, frame.captured_ns, corrupt=frame.corrupt, discontinuity=frame.discontinuity
            )
            for pick in picks:
                chosen = previous if pick.previous and previous is not None else frame
                chosen.to_rgb(spec.height, spec.width, spec.resize, out=token[pick.position])
                if pick.token:
                    yield token, pick.token
            previous = frame


def _classify_batch(
    engine: Engine, batch: U8, metas: list[TokenMeta], assembler: WindowAssembler
) -> Iterator[WindowResult]:
    placed = [assembler.place(meta) for meta in metas]
    engine.encode(batch[: len(metas)], np.array([slot for slot, _ in placed], np.int32))
    windows = [window for _, window in placed if window]
    if windows:
        for window, row in zip(windows, engine.classify(np.stack([window.slots for window in windows])), strict=True):
            yield WindowResult(window=window, probabilities=row)
