"""Read one image file. The header is checked before pixels are decoded: a small file may hold a huge image."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from engines.arrays import U8
from engines.regular_file import NotRegularFileError, open_regular

MAX_IMAGE_BYTES: Final = 256 << 20
MAX_IMAGE_PIXELS: Final = 64 << 20
"""67 million pixels, twice as many as in a frame of 8K. Decoding one takes up to 0.5 GB."""
MAX_JPEG_SCANS: Final = 100
"""Encoders write 10. Each scan of a progressive JPEG takes time for every pixel, however short its data is."""
FORMATS: Final = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow's names of the formats that are read, whatever the suffix of the file says."""
JPEG_KINDS: Final = frozenset({"JPEG", "MPO"})
REDUCED_FLAGS: Final = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
"""OpenCV's flags by the factor by which they reduce an image along each axis."""
_BOMB: Final = f"it has over {MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"


class ImageError(Exception):
    """An image that cannot be read; the message is the reason alone, without the name of the file."""


class DecodedImage(NamedTuple):
    """An image (h, w, 3) uint8 BGR, oriented as its EXIF data says, and its size before it was reduced."""

    pixels: U8
    width: int
    height: int

    @property
    def is_reduced(self) -> bool:
        """Whether it has fewer pixels than its file."""
        return self.pixels.shape[:2] != (self.height, self.width)


def read_image(path: Path) -> U8:
    """Return (h, w, 3) uint8 BGR, oriented as its EXIF data says. Raises `ImageError` with the reason."""
    return decode_image(read_file(path))


def decode_image(data: bytes) -> U8:
    """Decode the content of an image file as `read_image` does. Raises `ImageError` with the reason."""
    return decode_reduced(data, 1.0).pixels


def decode_reduced(data: bytes, shrink: float) -> DecodedImage:
    """Decode an image for a consumer that shrinks it by `shrink` along each axis. Raises `ImageError`.

    A JPEG decoder can leave out the detail of its blocks of 8 x 8 pixels. The image is reduced by 2, 4 or 8 then, at
    most by `shrink`, so the consumer still shrinks it. Images of other formats are decoded whole.

    The factor divides both sides: otherwise the decoder would fill the last column or row up, and move the content.
    """
    kind, size = check_header(data)
    factors = [factor for factor in REDUCED_FLAGS if all(side % factor == 0 for side in size)]
    factor = max((factor for factor in factors if factor <= shrink and kind in JPEG_KINDS), default=1)
    try:
        # Not imread: it cannot open every name on every system, and prints warnings about damaged files.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), REDUCED_FLAGS.get(factor, cv2.IMREAD_COLOR))
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageError("it is damaged, or of a kind that OpenCV does not read")
    width, height = size if factor > 1 else pixels.shape[1::-1]
    return DecodedImage(np.asarray(pixels, np.uint8), width, height)


def read_file(path: Path) -> bytes:
    """Read a file of at most `MAX_IMAGE_BYTES`. Raises `ImageError`."""
    try:
        with open_regular(path) as file:  # since it was listed, something else may have replaced it
            size = os.fstat(file.fileno()).st_size
            if size > MAX_IMAGE_BYTES:
                raise ImageError(f"it has {size >> 20} MiB, at most {MAX_IMAGE_BYTES >> 20}")
            return file.read(MAX_IMAGE_BYTES + 1)
    except NotRegularFileError:
        raise ImageError("it is not a file") from None
    except OSError as error:
        raise ImageError(error.strerror or "it cannot be read") from None


def open_image(file: BinaryIO, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Read the header of an image with Pillow, which decodes no pixels yet.

    Raises `ImageError` for a file that is not an image of these formats, or that has too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about defects of the file, in its own words
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow's own limit is higher
            image = Image.open(file, formats=formats)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError(f"{_BOMB}; make it smaller") from None
    except UnidentifiedImageError:
        raise ImageError(f"it is damaged, or not an image; formats are {', '.join(formats)}") from None
    except Exception as error:  # noqa: BLE001 - Pillow's parsers raise SyntaxError, KeyError, struct.error, and others
        raise ImageError(f"it is damaged or cut off ({type(error).__name__})") from None
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise ImageError(f"{_BOMB} ({image.width}x{image.height}); make it smaller")
    return image


def check_header(data: bytes) -> tuple[str, tuple[int, int]]:
    """Return Pillow's name of an image's format, and its (width, height), turned as its EXIF data says.

    Raises `ImageError` if the header shows that decoding the image would take too much memory or time.
    """
    with open_image(io.BytesIO(data)) as image:
        kind, size = str(image.format), image.size
        if kind in JPEG_KINDS and _is_transposed(image):
            size = size[::-1]
    if kind in JPEG_KINDS and (scans := data.count(b"\xff\xda")) > MAX_JPEG_SCANS:
        raise ImageError(f"it has {scans} scans, at most {MAX_JPEG_SCANS}; save it again")
    return kind, size


def _is_transposed(image: Image.Image) -> bool:
    """Return whether EXIF data turns an image by a quarter, mirrored or not."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:  # noqa: BLE001 - Pillow's parser raises SyntaxError, struct.error, and others
        return False
