"""A video file -> its frames at the model's rate and size, through the service's own sources, sampling and scaling."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engines.arrays import U8
from streamclf.classifier.offline import file_stream
from streamclf.errors import SourceError
from streamclf.sources import Resize, open_source
from streamclf.windows.chunks import ChunkBuilder
from streamclf.windows.sampling import ChunkMeta, ChunkSampler
from training.errors import DataError

MAX_CLIP_BYTES = 2 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSpec:
    """What a file's frames depend on besides the file. `steps` frames are taken for each one of the recipe's `fps`."""

    fps: float
    frames_per_chunk: int
    steps: int
    height: int
    width: int
    resize: Resize

    @property
    def frame_bytes(self) -> int:
        """Of one frame of RGB."""
        return self.height * self.width * 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """`frames` (F, h, w, 3) uint8 RGB of the longest run without a gap; `elsewhere`: frames in other runs."""

    frames: U8
    elsewhere: int
    duplicates: int
    undecodable: int

    @property
    def facts(self) -> dict[str, int]:
        """Everything but the pixels."""
        return {name: value for name, value in asdict(self).items() if name != "frames"} | {"frames": len(self.frames)}


def decode_clip(path: Path, spec: DecodeSpec) -> Decoded:
    """The frames that the service would sample from `path`. Raises `DataError` for what it cannot read.

    Serving leaves a last chunk that is not full aside; here its frames are kept, since clips are short.
    """
    sampler = ChunkSampler(spec.fps * spec.steps, spec.frames_per_chunk * spec.steps)
    sink = _Runs(sampler, (spec.frames_per_chunk * spec.steps, spec.height, spec.width, 3))
    builder = ChunkBuilder(sampler, sink, height=spec.height, width=spec.width, resize=spec.resize)
    try:
        with open_source(file_stream(path)) as source:
            for frame in source:
                builder.push(frame)
                if sampler.sampled * spec.frame_bytes > MAX_CLIP_BYTES:
                    raise DataError(
                        f"{path}: over {sampler.sampled} frames of {spec.width}x{spec.height}, at most "
                        f"{MAX_CLIP_BYTES >> 30} GiB of them; cut the film into clips"
                    )
            undecodable = source.undecodable
    except SourceError as error:
        raise DataError(str(error)) from error
    runs = sink.runs()
    if not runs:
        raise DataError(f"{path}: not one frame of it could be sampled; play it elsewhere or record it again")
    longest = max(runs, key=len)
    return Decoded(
        frames=longest,
        elsewhere=sum(len(run) for run in runs) - len(longest),
        duplicates=sink.duplicates,
        undecodable=undecodable,
    )


class _Runs:
    """A sink that keeps every chunk, the unfinished ones too, by the segment that each belongs to."""

    def __init__(self, sampler: ChunkSampler, shape: tuple[int, int, int, int]) -> None:
        self._sampler, self._shape = sampler, shape
        self._runs: dict[int, list[U8]] = {}
        self._place: U8 | None = None
        self._segment = self._abandoned = 0
        self.duplicates = 0

    def begin(self) -> U8:
        """A new place; the one before may have been left unfinished by its segment's end."""
        self._keep(self._sampler.dropped_partial - self._abandoned)
        self._abandoned = self._sampler.dropped_partial
        self._segment = self._sampler.segment
        self._place = np.empty(self._shape, np.uint8)
        return self._place

    def commit(self, chunk: ChunkMeta) -> int:
        """The place begun last is full."""
        self._keep(chunk.frames)
        self.duplicates += chunk.duplicates
        return 0

    def runs(self) -> list[U8]:
        """Frames of each run without a gap, once everything was offered."""
        s = self._sampler
        self._keep((s.sampled - s.dropped_partial) % self._shape[0])
        return [np.concatenate(run) for run in self._runs.values()]

    def _keep(self, frames: int) -> None:
        if self._place is not None and frames:
            self._runs.setdefault(self._segment, []).append(self._place[:frames])
        self._place = None
