"""Check that a bundle can have a window of a given shape."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from training.data.shape import Shape
from training.errors import FolderError

MAX_WINDOW_BYTES: Final = 1 << 30
"""A bound on the golden window, which the bundle contains; ViViT-B/16x2 has 6.3 MB."""


def check_window(folder: Path, shape: Shape) -> None:
    """Raise `FolderError` for a window with more bytes or chunks than a bundle may have."""
    pixels = shape.window * shape.height * shape.width * 3
    if pixels > MAX_WINDOW_BYTES:
        raise FolderError(
            f"{folder}: {shape.window} frames of {shape.height} x {shape.width} pixels: {pixels / 1e9:.1f} GB in one "
            f"window, at most {MAX_WINDOW_BYTES / 1e9:.1f} GB; choose a model with fewer frames or smaller ones"
        )
    if shape.frames_per_chunk > 64 or shape.chunks > 1024:
        raise FolderError(
            f"{folder}: {shape.chunks} chunks of {shape.frames_per_chunk} frames: at most 1024 chunks of 64 "
            "frames; choose a model with fewer frames"
        )
