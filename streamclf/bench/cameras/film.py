"""The film that the bench's cameras show: made once, as a camera would send it, so that decoding costs what it does."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from streamclf.errors import UsageError
from streamclf.windows.sampling import exact_fps

SECONDS: Final = 4.0
GOP_S: Final = 2.0
BITS_PER_PIXEL: Final = 0.1
"""Of a camera's usual 2.3 Mbit/s at 1280x720 and 25 frames/s."""
NOISE: Final = 3
MAX_PIXELS: Final = 7680 * 4320
_COUNT: Final = struct.Struct(">I")
_HEAD: Final = struct.Struct(">IIII")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmSpec:
    """What a camera is set to."""

    width: int
    height: int
    fps: float

    def __post_init__(self) -> None:
        if self.width < 64 or self.height < 64 or self.width * self.height > MAX_PIXELS:
            raise UsageError(f"--size {self.width}x{self.height}: 64x64 to 7680x4320")
        if self.width % 2 or self.height % 2:
            raise UsageError(f"--size {self.width}x{self.height}: H.264 has even sizes")
        if not 1 <= self.fps <= 240:
            raise UsageError(f"--fps {self.fps:g}: 1 to 240")

    @property
    def rate(self) -> Fraction:
        """Frames per second, exactly."""
        return exact_fps(self.fps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """H.264 access units, each a tuple of NAL units without start codes; the first one is a key frame."""

    units: tuple[tuple[bytes, ...], ...]
    rate: Fraction

    def parameter_set(self, kind: int) -> bytes:
        """The sequence (7) or picture (8) parameter set."""
        return next(nal for nal in self.units[0] if nal[0] & 31 == kind)

    @property
    def bits_per_s(self) -> float:
        """Of the video alone."""
        size = sum(len(nal) for unit in self.units for nal in unit)
        return 8 * size * float(self.rate) / len(self.units)


def make_film(spec: FilmSpec) -> Film:
    """A street seen by a fixed camera with a noisy sensor: things that move before things that do not."""
    import av

    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = spec.width, spec.height, "yuv420p"
    encoder.time_base, encoder.framerate = 1 / spec.rate, spec.rate
    encoder.gop_size = max(1, round(GOP_S * spec.fps))
    encoder.bit_rate = int(BITS_PER_PIXEL * spec.width * spec.height * spec.fps)
    encoder.options = {"preset": "veryfast", "tune": "zerolatency", "bf": "0", "x264-params": "threads=1:scenecut=0"}
    units = []
    for number, picture in enumerate(_pictures(spec, max(2, round(SECONDS * spec.fps)))):
        frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
        frame.pts = number
        units += [_nal_units(bytes(packet)) for packet in encoder.encode(frame)]
    units += [_nal_units(bytes(packet)) for packet in encoder.encode(None)]
    return Film(units=tuple(units), rate=spec.rate)


def _pictures(spec: FilmSpec, count: int) -> Any:
    """`count` pictures as (3 H / 2, W) uint8, planes of YUV 4:2:0."""
    width, height = spec.width, spec.height
    rng = np.random.default_rng(1)
    coarse = rng.integers(40, 200, (height // 16 + 2, width // 16 + 2))
    ground = np.kron(coarse, np.ones((16, 16), np.int16))[:height, :width].astype(np.int16)
    ground += rng.integers(-12, 13, ground.shape, np.int16)
    noise = [rng.integers(-NOISE, NOISE + 1, ground.shape, np.int16) for _ in range(4)]
    boxes = [(rng.integers(0, height * 3 // 4), 0.05 + 0.2 * rng.random(), rng.random()) for _ in range(6)]
    box_h, box_w = height // 5, width // 10
    box = rng.integers(30, 220, (box_h, box_w), np.int16)
    picture = np.full((height * 3 // 2, width), 128, np.uint8)
    for number in range(count):
        scene = ground.copy()
        for top, speed, begin in boxes:
            left = int((begin + speed * number / spec.fps) % 1 * (width - box_w))
            scene[top : top + box_h, left : left + box_w] = box[: min(box_h, height - top)]
        scene += noise[number % len(noise)]
        picture[:height] = scene.clip(16, 235)
        yield picture


def _nal_units(annex_b: bytes) -> tuple[bytes, ...]:
    # A start code is 00 00 01; the zero before it, where there is one, belongs to it.
    parts = annex_b.split(b"\0\0\1")[1:]
    return tuple(part.rstrip(b"\0") if i + 1 < len(parts) else part for i, part in enumerate(parts))


def save_film(film: Film, path: Path) -> None:
    """For the process that serves it."""
    with path.open("wb") as file:
        file.write(_HEAD.pack(film.rate.numerator, film.rate.denominator, len(film.units), 0))
        for unit in film.units:
            file.write(_COUNT.pack(len(unit)))
            for nal in unit:
                file.write(_COUNT.pack(len(nal)) + nal)


def load_film(path: Path) -> Film:
    """What `save_film` wrote."""
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
    return Film(units=tuple(units), rate=Fraction(numerator, denominator))
