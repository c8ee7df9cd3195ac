"""Make clips whose frames show their number as a bar code, which tests can read after any resize."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from engines.arrays import U8

BITS = 16
X264 = {"preset": "veryfast", "bf": "0", "sc_threshold": "0", "x264-params": "threads=1"}
X265 = {
    "preset": "ultrafast",
    "tune": "zerolatency",
    "x265-params": "log-level=none:pools=none:frame-threads=1:repeat-headers=1:bframes=0",
}


def draw(number: int, width: int, height: int) -> U8:
    """Draw (height, width, 3) uint8 RGB: `number` as 16 bars along the top, and a moving texture below."""
    yy, xx = np.mgrid[:height, :width]
    image = np.stack([xx + 3 * number, yy, (xx + yy) // 2 - 2 * number], axis=-1).astype(np.uint8)
    side = width // BITS
    for bit in range(BITS):
        image[:side, bit * side : (bit + 1) * side] = 255 if number >> bit & 1 else 0
    return image


def draw_light(number: int, width: int, height: int, light: int) -> U8:
    """Draw (height, width, 3) uint8 RGB with a mean of about `light` (32 to 223): `number` as faint bars."""
    image = np.full((height, width, 3), light, np.uint8)
    side = width // BITS
    for bit in range(BITS):
        image[: height // 2, bit * side : (bit + 1) * side] += np.uint8(24 if number >> bit & 1 else 0)
    return image


def read_number(rgb: U8, source_width: int | None = None, source_height: int | None = None) -> int:
    """Read the number in an image of any size, stretched from `source_width` x `source_height` (else unstretched)."""
    height, width = rgb.shape[:2]
    side_x = width / BITS
    side_y = side_x if source_width is None or source_height is None else source_width // BITS * height / source_height
    number = 0
    for bit in range(BITS):
        left, right = round((bit + 0.3) * side_x), round((bit + 0.7) * side_x)
        top, bottom = round(0.3 * side_y), round(0.7 * side_y)
        patch = rgb[top : max(bottom, top + 1), left : max(right, left + 1), 1]
        number |= int(patch.mean() > 128) << bit
    return number


def write_clip(
    path: Path,
    *,
    frames: int = 50,
    fps: int = 25,
    width: int = 320,
    height: int = 180,
    gop: int = 25,
    times_ms: Sequence[int] | None = None,
    rotation: int = 0,
    pixel_aspect: Fraction | None = None,
    first: int = 0,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """Write a clip of bar codes `first`, `first + 1`, ... at `fps`, or at `times_ms`.

    `rotation`: degrees by which players rotate it. `options` of the encoder; by default it makes no B frames.
    A clip that this process has written before is not encoded again: encoding takes up to 0.3 s.
    """
    key = repr({**locals(), "path": path.suffix})
    if key in _clips:
        path.write_bytes(_clips[key])
        return path
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = gop
        if options is not None or codec == "libx264":
            stream.options = X264 if options is None else options
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(frames if times_ms is None else len(times_ms)):
            frame = av.VideoFrame.from_ndarray(draw(first + i, width, height), "rgb24")
            frame.pts = i if times_ms is None else times_ms[i]
            frame.time_base = Fraction(1, fps) if times_ms is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    _clips[key] = path.read_bytes()
    return path


_clips: dict[str, bytes] = {}
"""The files that `write_clip` has written, by its arguments."""


def set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Set (a, b, c, d) of the display matrix of an MP4 file with one track.

    A player shows the point (x, y) at (ax + cy, bx + dy).
    """
    a, b, c, d = (value << 16 for value in matrix)
    data = path.read_bytes()
    start = data.index(b"tkhd") + 44
    path.write_bytes(data[:start] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[start + 36 :])
    return path


def write_flat(path: Path, colour: tuple[int, int, int], *, width: int, height: int, frames: int = 3) -> Path:
    """Write a lossless clip of one colour, of any size."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        image = np.empty((height, width, 3), np.uint8)
        image[...] = colour
        frame = av.VideoFrame.from_ndarray(image, "rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 10)
        data = b"".join(bytes(packet) for packet in [*stream.encode(frame), *stream.encode(None)])
        for i in range(frames):  # all frames are equal: encoding each takes a second at 8K
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, Fraction(1, 10)
            packet.duration, packet.is_keyframe = 1, True
            container.mux(packet)
    return path


def write_audio(path: Path) -> Path:
    """Write a second of silence, without video."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000, layout="mono")
        for i in range(16):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, 1000 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@dataclass(frozen=True, slots=True)
class Film:
    """H.264 or H.265 access units, each a tuple of NAL units without start codes, for the RTSP server."""

    units: tuple[tuple[bytes, ...], ...]
    fps: float
    width: int
    height: int
    codec: str = "libx264"
    order: tuple[int, ...] = ()
    """The place of each unit in display order; empty: the same as decoding order."""

    def parameter_set(self, kind: int) -> bytes:
        """Return a parameter set: sequence (7) or picture (8); in H.265 video (32), sequence (33) or picture (34)."""
        return next(nal for nal in self.units[0] if self.kind(nal) == kind)

    def kind(self, nal: bytes) -> int:
        """Return a NAL unit's type."""
        return nal[0] & 31 if self.codec == "libx264" else nal[0] >> 1 & 63


@lru_cache(maxsize=16)
def film(
    *,
    frames: int = 250,
    fps: int = 25,
    width: int = 320,
    height: int = 180,
    gop: int = 25,
    first: int = 0,
    light: int | None = None,
    bright: tuple[int, int] | None = None,
    still: bool = False,
    codec: str = "libx264",
    options: tuple[tuple[str, str], ...] = (),
) -> Film:
    """Encode bar codes `first`, `first + 1`, ... with parameter sets before every key frame, as cameras send them.

    `light`: frames of this mean instead. `bright`: below the bars, frames in this range are white, all others black.
    `still`: repeat the first frame. `codec`: libx264 or libx265. `options` of the encoder; by default it
    makes no B frames.
    """
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.gop_size = Fraction(1, fps), Fraction(fps), gop
    usual = {**X264, "tune": "zerolatency"} if codec == "libx264" else X265
    encoder.options = dict(options) or dict(usual)
    packets: list[Any] = []
    for i in range(frames):
        number = first if still else first + i
        image = draw(number, width, height) if light is None else draw_light(number, width, height, light)
        if bright is not None:
            image[width // BITS :] = 255 if bright[0] <= i < bright[1] else 0
        frame = av.VideoFrame.from_ndarray(image, "rgb24")
        frame.pts = i
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    units = tuple(split_nal_units(bytes(packet)) for packet in packets)
    order = tuple(packet.pts for packet in packets)
    return Film(units=units, fps=fps, width=width, height=height, codec=codec, order=order)


def split_nal_units(annex_b: bytes) -> tuple[bytes, ...]:
    # A start code is 00 00 01. A zero before it, if there is one, belongs to the end of the NAL unit before.
    parts = annex_b.split(b"\0\0\1")[1:]
    return tuple(part.rstrip(b"\0") if i + 1 < len(parts) else part for i, part in enumerate(parts))


def remux(source: Path, target: Path, time: Callable[[int, int], int], *, per_s: int = 1000) -> Path:
    """Copy a clip's packets with other time stamps, also with disordered ones.

    `time`: (the packet's number, its time stamp in units of 1 / `per_s` s) -> its new time stamp.
    """
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as reader, av.open(str(target), "w", options=options) as writer:
        video = reader.streams.video[0]
        stream: Any = writer.add_stream_from_template(video)
        for number, packet in enumerate(packet for packet in reader.demux(video) if packet.size):
            assert packet.pts is not None
            stamp = time(number, round(packet.pts * packet.time_base * per_s))
            packet.duration = round((packet.duration or 0) * packet.time_base * per_s)
            packet.stream, packet.time_base = stream, Fraction(1, per_s)
            # FFmpeg wants decoding times that increase and are no later than the others; Matroska does not store them.
            packet.pts, packet.dts = stamp, number - (1 << 40)
            writer.mux(packet)
    return target


def write_packed_avi(path: Path, *, frames: int = 50, width: int = 320, height: int = 180) -> Path:
    """Write MPEG-4 in AVI as XviD and DivX do.

    A P and a B frame share one packet, and an empty packet follows in place of the B frame.
    """
    encoder: Any = av.CodecContext.create("mpeg4", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.options = {"bf": "1", "g": "12", "q": "2"}
    coded: list[bytes] = []
    for i in range(frames):
        frame = av.VideoFrame.from_ndarray(draw(i, width, height), "rgb24")
        frame.pts = i
        coded += [bytes(packet) for packet in encoder.encode(frame)]
    coded += [bytes(packet) for packet in encoder.encode(None)]
    packets: list[bytes] = []
    while coded:
        first = coded.pop(0)
        is_packed = bool(coded) and _mpeg4_kind(coded[0]) == 2
        packets += [first + coded.pop(0), b"\0\0\1\xb6\x50\x4f"] if is_packed else [first]
    head = packets[0].find(b"\0\0\1\xb6")
    packets[0] = packets[0][:head] + b"\0\0\1\xb2DivX503b1393p\0" + packets[0][head:]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 25), i, i
            packet.is_keyframe = _mpeg4_kind(data) == 0
            container.mux(packet)
    return path


def _mpeg4_kind(data: bytes) -> int:
    """Return the kind of the first frame in `data`: 0 for I, 1 for P, 2 for B."""
    return data[data.find(b"\0\0\1\xb6") + 4] >> 6
