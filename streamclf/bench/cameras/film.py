"""Render the film that the bench's cameras send, encoded as cameras do, so that decoding costs what it usually does."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from engines.arrays import U8
from streamclf.errors import UsageError
from streamclf.windows.time_grid import exact_fps

SECONDS: Final = 4.0
GOP_S: Final = 2.0
BITS_PER_PIXEL: Final = 0.1
"""From a camera's usual 2.3 Mbit/s at 1280x720 and 25 frames/s."""
NOISE: Final = 3
"""Largest sensor noise, in grey levels."""
MAX_PIXELS: Final = 7680 * 4320
_COUNT: Final = struct.Struct(">I")
_HEAD: Final = struct.Struct(">IIII")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmSpec:
    """Frame size in pixels and frames per second of a camera. Raises `UsageError` outside the limits of each."""

    width: int
    height: int
    fps: float

    def __post_init__(self) -> None:
        if self.width < 64 or self.height < 64 or self.width * self.height > MAX_PIXELS:
            raise UsageError(f"--size {self.width}x{self.height}: must be 64x64 to 7680x4320")
        if self.width % 2 or self.height % 2:
            raise UsageError(f"--size {self.width}x{self.height}: width and height must be even for H.264")
        if not 1 <= self.fps <= 240:
            raise UsageError(f"--fps {self.fps:g}: must be 1 to 240")

    @property
    def rate(self) -> Fraction:
        """Frames per second as an exact fraction."""
        return exact_fps(self.fps)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFilm:
    """H.264 access units, one for each frame: tuples of NAL units without start codes. The first is a key frame."""

    units: tuple[tuple[bytes, ...], ...]
    rate: Fraction

    def parameter_set(self, kind: int) -> bytes:
        """Return the sequence (kind 7) or picture (kind 8) parameter set."""
        return next(nal for nal in self.units[0] if nal[0] & 31 == kind)


def make_film(spec: FilmSpec) -> EncodedFilm:
    """Render and encode a film of 4 s: boxes that move before a still background, seen by a noisy sensor."""
    import av

    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = spec.width, spec.height, "yuv420p"
    encoder.time_base, encoder.framerate = 1 / spec.rate, spec.rate
    encoder.gop_size = max(1, round(GOP_S * spec.fps))
    encoder.bit_rate = int(BITS_PER_PIXEL * spec.width * spec.height * spec.fps)
    encoder.options = {"preset": "veryfast", "tune": "zerolatency", "bf": "0", "x264-params": "threads=1:scenecut=0"}
    units = []
    for number, pixels in enumerate(render_frames(spec, max(2, round(SECONDS * spec.fps)))):
        frame = av.VideoFrame.from_ndarray(pixels, "yuv420p")
        frame.pts = number
        units += [_nal_units(bytes(packet)) for packet in encoder.encode(frame)]
    units += [_nal_units(bytes(packet)) for packet in encoder.encode(None)]
    return EncodedFilm(units=tuple(units), rate=spec.rate)


def render_frames(spec: FilmSpec, count: int) -> Iterator[U8]:
    """Yield `count` frames, (3 H / 2, W) uint8, the planes of YUV 4:2:0. The array is reused for the next frame."""
    width, height = spec.width, spec.height
    rng = np.random.default_rng(1)
    coarse = rng.integers(40, 200, (height // 16 + 2, width // 16 + 2))
    ground = np.kron(coarse, np.ones((16, 16), np.int16))[:height, :width].astype(np.int16)
    ground += rng.integers(-12, 13, ground.shape, np.int16)
    noise = [rng.integers(-NOISE, NOISE + 1, ground.shape, np.int16) for _ in range(4)]
    boxes = [(rng.integers(0, height * 3 // 4), 0.05 + 0.2 * rng.random(), rng.random()) for _ in range(6)]
    box_h, box_w = height // 5, width // 10
    box = rng.integers(30, 220, (box_h, box_w), np.int16)
    frame = np.full((height * 3 // 2, width), 128, np.uint8)
    for number in range(count):
        scene = ground.copy()
        for top, speed, begin in boxes:
            left = int((begin + speed * number / spec.fps) % 1 * (width - box_w))
            scene[top : top + box_h, left : left + box_w] = box[: min(box_h, height - top)]
        scene += noise[number % len(noise)]
        frame[:height] = scene.clip(16, 235)
        yield frame


def _nal_units(annex_b: bytes) -> tuple[bytes, ...]:
    # A start code is 00 00 01. If a zero precedes it, that zero belongs to the start code.
    parts = annex_b.split(b"\0\0\1")[1:]
    return tuple(part.rstrip(b"\0") if i + 1 < len(parts) else part for i, part in enumerate(parts))


def save_film(film: EncodedFilm, path: Path) -> None:
    """Write a film to a file, for the process that serves it."""
    with path.open("wb") as file:
        file.write(_HEAD.pack(film.rate.numerator, film.rate.denominator, len(film.units), 0))
        for unit in film.units:
            file.write(_COUNT.pack(len(unit)))
            for nal in unit:
                file.write(_COUNT.pack(len(nal)) + nal)


def load_film(path: Path) -> EncodedFilm:
    """Read a film that `save_film` wrote."""
    data = memoryview(path.read_bytes())
    numerator, denominator, count, _ = _HEAD.unpack_from(data)
    at = _HEAD.size
    units = []
    for _ in range(count):
        (parts,) = _COUNT.unpack_from(data, at)
        at += _COUNT.size
        unit = []
        for _ in range(parts):
            (size,) = _COUNT.unpack_from(data, at)
            at += _COUNT.size
            unit.append(bytes(data[at : at + size]))
            at += size
        units.append(tuple(unit))
    return EncodedFilm(units=tuple(units), rate=Fraction(numerator, denominator))
