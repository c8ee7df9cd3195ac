"""Decode a video file to frames at the model's rate and size, with the service's own sources, sampling and scaling."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from engines.arrays import U8
from engines.printable import printable
from streamclf.classifier.offline import file_stream
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.errors import SourceError
from streamclf.sources import Resize, open_source
from streamclf.sources.image_file import ImageError, read_image
from streamclf.sources.images import SUFFIXES as IMAGE_SUFFIXES
from streamclf.sources.resize import render_bgr
from streamclf.windows.chunks import ChunkBuilder
from streamclf.windows.sampling import ChunkSampler
from streamclf.windows.segments import SegmentSink
from training.data.file_names import unreadable_reason
from training.errors import DataError

MAX_CLIP_BYTES = 2 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSpec:
    """The parameters of decoding. A file and a spec determine the frames.

    `steps` frames are taken for each frame at the recipe's `fps`.
    """

    fps: float
    frames_per_chunk: int
    steps: int
    height: int
    width: int
    resize: Resize
    area: PictureArea = WHOLE

    @property
    def frame_bytes(self) -> int:
        """Return the bytes of one RGB frame."""
        return self.height * self.width * 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedClip:
    """The longest segment of a clip: `frames` (F, h, w, 3) uint8 RGB. `elsewhere` counts frames of other segments."""

    frames: U8
    elsewhere: int
    duplicates: int
    undecodable: int

    @property
    def facts(self) -> dict[str, int]:
        """Return the counts, with the number of frames instead of the pixels."""
        return {name: value for name, value in asdict(self).items() if name != "frames"} | {"frames": len(self.frames)}


def decode_clip(path: Path, spec: DecodeSpec) -> DecodedClip:
    """Decode the frames that the service would sample from `path`. Raises `DataError` where it cannot be read.

    An image is a clip of one frame. Serving drops a last chunk that is not full. Here its frames are kept, because
    clips are short.
    """
    if reason := unreadable_reason(path):
        raise DataError(f"{printable(path)}: {reason}")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _decode_image(path, spec)
    sampler = ChunkSampler(spec.fps * spec.steps, spec.frames_per_chunk * spec.steps)
    sink = SegmentSink(sampler, (spec.frames_per_chunk * spec.steps, spec.height, spec.width, 3))
    builder = ChunkBuilder(sampler, sink, height=spec.height, width=spec.width, resize=spec.resize, area=spec.area)
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
    except ValidationError as error:  # a path that no source can open
        raise DataError(f"{printable(path)}: cannot be opened ({error.errors()[0]['msg']}); rename it") from error
    except (SourceError, OSError, ValueError) as error:
        raise DataError(f"{printable(path)}: {printable(str(error).removeprefix(f'{path}: '))}") from error
    longest = sink.longest()
    if longest is None:
        raise DataError(f"{path}: no frame of it could be sampled; play the file to check it, or record it again")
    return DecodedClip(
        frames=longest.frames,
        elsewhere=sampler.sampled - len(longest.frames),
        duplicates=sink.duplicates,
        undecodable=undecodable,
    )


def _decode_image(path: Path, spec: DecodeSpec) -> DecodedClip:
    """Decode an image as the service decodes one of a folder of images."""
    try:
        image = read_image(path)
    except ImageError as error:
        raise DataError(f"{printable(path)}: {error}") from error
    frames = np.empty((1, spec.height, spec.width, 3), np.uint8)
    render_bgr(image, spec.height, spec.width, spec.resize, frames[0], spec.area)
    return DecodedClip(frames=frames, elsewhere=0, duplicates=0, undecodable=0)
