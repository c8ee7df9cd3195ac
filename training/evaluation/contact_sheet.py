"""Draw a contact sheet of a recipe's validation windows: a row for each label, a strip of frames for each window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from engines.arrays import I64, U8
from engines.printable import printable
from training.data.batches import ValidationBatches
from training.errors import RecipeError, RunError
from training.recipe import Recipe

FRAMES: Final = 4
"""Frames of one window, evenly spaced from its first to its last."""
FRAME_WIDTH: Final = 128
MAX_LABELS: Final = 64
"""A sheet with more rows is too small to read, and too high for image formats."""
_GAP: Final = 6
_NAME_HEIGHT: Final = 22
_SUFFIXES: Final = (".jpg", ".png", ".webp")


def write_contact_sheet(recipe: Recipe, path: Path, *, windows: int) -> None:
    """Write the contact sheet of `recipe` to an image file, with at most `windows` windows for each label.

    Raises `RecipeError` where the format or the number of labels is not supported, `DataError` where the data are
    missing, and `RunError` where the file cannot be written.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise RecipeError(f"{path}: the sheet is an image; give a name that ends with {', '.join(_SUFFIXES)}")
    data = recipe.data.open(recipe.shape, seed=recipe.seed, stretch=recipe.windows.fit == "stretch")
    if len(data.labels) > MAX_LABELS:
        raise RecipeError(f"{len(data.labels)} labels: a contact sheet has at most {MAX_LABELS}")
    batches = data.validation_batches(recipe.shape, recipe.windows)
    chosen = [_spread(batches.labels, index, windows) for index in range(len(data.labels))]
    frames = dict(_first_windows(batches, {clip for clips in chosen for clip in clips}))
    sheet = draw_contact_sheet(data.labels, [[frames[clip] for clip in clips] for clips in chosen])
    try:
        path.write_bytes(cv2.imencode(path.suffix, sheet[..., ::-1])[1].tobytes())
    except cv2.error:
        size = f"{sheet.shape[1]}x{sheet.shape[0]}"
        raise RunError(f"{path}: {size} pixels are too many for this format; give fewer --windows, or a .png") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); give -o another file") from error


def draw_contact_sheet(labels: Sequence[str], windows: Sequence[Sequence[U8]]) -> U8:
    """Draw a row for each label with its windows (F, H, W, 3) beside each other; return (H, W, 3) RGB.

    A label without windows has an empty row that says so.
    """
    height = max((_strip(each).shape[0] for row in windows for each in row[:1]), default=_NAME_HEIGHT)
    most = max(max((len(row) for row in windows), default=0), 1)
    strip_width = FRAMES * FRAME_WIDTH + _GAP
    sheet = np.full(((_NAME_HEIGHT + height + _GAP) * len(labels), most * strip_width, 3), 255, np.uint8)
    for row, (label, strips) in enumerate(zip(labels, windows, strict=True)):
        top = row * (_NAME_HEIGHT + height + _GAP)
        text = printable(label) if strips else f"{printable(label)}: no validation window"
        cv2.putText(sheet, text, (2, top + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
        for column, window in enumerate(strips):
            strip = _strip(window)
            left = column * strip_width
            sheet[top + _NAME_HEIGHT : top + _NAME_HEIGHT + height, left : left + strip.shape[1]] = strip
    return sheet


def _strip(window: U8) -> U8:
    """Place `FRAMES` frames of a window (F, H, W, 3) beside each other."""
    chosen = window[np.linspace(0, len(window) - 1, FRAMES).round().astype(int)]
    size = (FRAME_WIDTH, max(round(FRAME_WIDTH * window.shape[1] / window.shape[2]), 1))
    frames = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in chosen]
    return np.asarray(np.concatenate(frames, axis=1), np.uint8)


def _spread(labels: I64, label: int, count: int) -> list[int]:
    """Choose at most `count` clips of a label, evenly over the set; `labels` (C,), or (C, K) of zeros and ones."""
    clips = np.flatnonzero(labels[:, label] if labels.ndim == 2 else labels == label)
    return [
        int(clips[i]) for i in np.unique(np.linspace(0, len(clips) - 1, min(count, len(clips))).round().astype(int))
    ]


def _first_windows(batches: ValidationBatches, wanted: set[int]) -> Iterator[tuple[int, U8]]:
    """Yield each wanted clip's number with the frames (F, H, W, 3) of its first window."""
    missing = set(wanted)
    for batch in batches:
        if not missing:
            return
        if "frames" not in batch:
            raise RecipeError("the recipe trains on features of a frozen model; its data have no frames to draw")
        for clip, chunks in zip(batch["clips"].tolist(), batch["windows"], strict=True):
            if clip in missing:
                missing.remove(clip)
                frames = batch["frames"][chunks].numpy()
                yield clip, frames.reshape(-1, *frames.shape[2:])
