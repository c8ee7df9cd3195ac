"""Limit the memory that decoders of video may take: a few bytes can declare a huge picture."""

from __future__ import annotations

from typing import Any, Final

import av
from av.packet import Packet

from streamclf.errors import SourceRefusedError

MAX_PIXELS: Final = 8192 * 4352
"""8K as decoders store it, in whole blocks."""
MAX_BUFFER_BYTES: Final = 2 * 10**9
"""The most memory for the pictures that a decoder may keep. 8K with 10 bits and 16 references needs 1.9 GB."""
KEPT_PICTURES: Final = {"h264": 18, "hevc": 18, "vvc": 18, "av1": 10, "vp9": 10, "vp8": 5}
"""The most pictures that a decoder keeps: references, the current one, and one for output. The data declares how many
references there are, but FFmpeg does not hold all codecs to that."""
OTHER_PICTURES: Final = 4
RATIO_SIDE: Final = 64
"""A side, in pixels, at which the planes of every format have whole sizes."""
DECODER_OPTIONS: Final = {"max_pixels": str(MAX_PIXELS)}
LIMITED_FORMATS: Final = frozenset({"mjpeg", "mpjpeg", "rtsp"})
"""FFmpeg applies `DECODER_OPTIONS` also while it opens these formats."""


def probing_options(format_name: str | None) -> dict[str, str]:
    """Return the options with which FFmpeg opens a video of this format; None: it detects the format.

    While FFmpeg opens a video, it must not decode: for formats without a header (MPEG-TS, HLS) it would apply no limit.
    Afterwards the decoder is ours, with `DECODER_OPTIONS`.
    """
    return dict(DECODER_OPTIONS) if format_name in LIMITED_FORMATS else {"codec_whitelist": "none"}


def check_size(width: int, height: int, shown: str) -> None:
    """Raise `SourceRefusedError` for a picture that is too large; `shown` is the source."""
    if width * height > MAX_PIXELS:
        raise SourceRefusedError(
            f"{shown}: {width}x{height} pixels, at most {MAX_PIXELS / 1e6:.1f} million (8192x4352); "
            "set a smaller resolution in the camera, or scale the film down"
        )


def picture_size(context: Any) -> tuple[int, int]:
    """Return the (width, height) of the pictures of the decoder `context`, before it reduces them; (0, 0): not known.

    The decoder of Motion JPEG may return smaller ones. The coded size of other codecs is that in whole blocks.
    """
    if context.name == "mjpeg" and context.coded_width:
        return context.coded_width, context.coded_height
    return context.width, context.height


class PictureLimit:
    """Check the pictures of one decoder whenever their size or format has changed."""

    def __init__(self, shown: str) -> None:
        """Errors begin with `shown`, the source."""
        self._shown = shown
        self._checked: tuple[int, int, str | None] | None = None

    def check(self, context: Any) -> None:
        """Raise `SourceRefusedError` if the pictures of the decoder `context` are too large, or take too much memory.

        To be called after each packet, also after one that gave no frame.
        """
        width, height = picture_size(context)
        # PyAV 17 and earlier crash if `pix_fmt` is read before the format is known; `format` is None then.
        pixel_format = None if context.format is None else context.pix_fmt
        if (width, height, pixel_format) == self._checked:
            return
        self._checked = (width, height, pixel_format)
        check_size(width, height, self._shown)
        if pixel_format is None:
            return
        pictures = KEPT_PICTURES.get(context.codec.canonical_name, OTHER_PICTURES)
        needed = int(width * height * _bytes_per_pixel(context.format) * pictures)
        if needed > MAX_BUFFER_BYTES:
            raise SourceRefusedError(
                f"{self._shown}: {width}x{height} pixels of {pixel_format} may need {needed / 1e9:.1f} GB in its "
                f"decoder, at most {MAX_BUFFER_BYTES / 1e9:g} GB; set a smaller resolution or 8 bits per colour"
            )

    def check_failed(self, context: Any, packet: Packet[Any]) -> None:
        """Raise `SourceRefusedError` if `packet` could not be decoded because its picture is too large."""
        if context.name == "mjpeg":
            check_size(*_jpeg_size(bytes(packet)), self._shown)
        self.check(context)


def _bytes_per_pixel(pixel_format: Any) -> float:
    """Return the bytes per pixel of a format of FFmpeg, with its planes of lower resolution."""
    if not pixel_format.components:
        return 2.0  # a device's own format
    # A damaged stream may have no size yet, so the share of each plane is taken from a picture of another size.
    planes = av.VideoFormat(pixel_format.name, RATIO_SIDE, RATIO_SIDE).components
    samples = sum(component.width * component.height for component in planes)
    bits = max(int(component.bits) for component in pixel_format.components)
    return samples / RATIO_SIDE**2 * (2 if bits > 8 else 1)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of the first frame header of a JPEG image (ITU-T T.81, section B.2.2); (0, 0) without."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            break
        kind = data[at + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 1 if kind == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0
