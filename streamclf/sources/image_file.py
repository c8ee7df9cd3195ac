"""Read one image file. The header is checked before pixels are decoded: a small file may hold a huge image."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO, Final

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from engines.arrays import U8
from engines.regular_file import NotRegularFileError, open_regular

MAX_IMAGE_BYTES: Final = 256 << 20
MAX_IMAGE_PIXELS: Final = 64 << 20
"""67 million pixels, twice as many as in a frame of 8K. Decoding one takes up to 0.5 GB."""
MAX_JPEG_SCANS: Final = 100
"""Encoders write 10. Each scan of a progressive JPEG takes time for every pixel, however short its data is."""
FORMATS: Final = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow's names of the formats that are read, whatever the suffix of the file says."""
_BOMB: Final = f"it has over {MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"


class ImageError(Exception):
    """An image that cannot be read; the message is the reason alone, without the name of the file."""


def read_image(path: Path) -> U8:
    """Return (h, w, 3) uint8 BGR, oriented as its EXIF data says. Raises `ImageError` with the reason."""
    return decode_image(read_file(path))


def decode_image(data: bytes) -> U8:
    """Decode the content of an image file as `read_image` does. Raises `ImageError` with the reason."""
    _check_header(data)
    try:
        # Not imread: it cannot open every name on every system, and prints warnings about damaged files.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError("it is damaged, or of a kind that OpenCV does not read")
    return np.asarray(image, np.uint8)


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


def _check_header(data: bytes) -> None:
    """Raise `ImageError` if the header of an image file shows that decoding it would take too much memory or time."""
    with open_image(io.BytesIO(data)) as image:
        kind = image.format
    if kind in ("JPEG", "MPO") and (scans := data.count(b"\xff\xda")) > MAX_JPEG_SCANS:
        raise ImageError(f"it has {scans} scans, at most {MAX_JPEG_SCANS}; save it again")
