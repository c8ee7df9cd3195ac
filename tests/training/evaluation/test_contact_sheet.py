"""A contact sheet shows windows of different clips for each label, and says where a label has none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.clip_recipes import clip_recipe

from training.errors import RecipeError, RunError
from training.evaluation.contact_sheet import FRAME_WIDTH, FRAMES, draw_contact_sheet, write_contact_sheet
from training.recipe import Recipe


def strip_left(column: int) -> int:
    """Return the left edge of a window's strip on the sheet."""
    return column * (FRAMES * FRAME_WIDTH + 6)


def test_every_label_has_a_row_and_each_window_its_first_and_last_frame() -> None:
    window = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 24 * 32 * 3).reshape(10, 24, 32, 3)
    sheet = draw_contact_sheet(("one", "two"), [[window, window], []])
    top = 22
    assert sheet[top + 10, 5, 0] == 0
    assert sheet[top + 10, FRAMES * FRAME_WIDTH - 5, 0] == 225
    assert sheet[top + 10, strip_left(1) + FRAME_WIDTH * 3 + 5, 0] == 225
    second = sheet[top + 96 + 6 :]
    assert second[:22].min() < 100, "the label's name"
    assert (second[22:] == 255).all(), "it has no window"


def test_the_sheet_of_rendered_footage_shows_different_clips(tiny: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    write_contact_sheet(tiny, path, windows=2)
    sheet = cv2.imread(str(path))
    assert sheet is not None
    first, second = sheet[22:100, : FRAMES * FRAME_WIDTH], sheet[22:100, strip_left(1) : strip_left(1) + 512]
    assert first.std() > 3
    assert not np.array_equal(first, second)


def test_an_unknown_format_or_an_unwritable_file_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"sheet\.gif: .*\.webp"):
        write_contact_sheet(tiny, tmp_path / "sheet.gif", windows=1)
    with pytest.raises(RunError, match="No such file or directory"):
        write_contact_sheet(tiny, tmp_path / "absent" / "sheet.png", windows=1)


def test_clips_of_any_recipe_are_drawn(films: Path, tmp_path: Path) -> None:
    path = tmp_path / "sheet.webp"
    write_contact_sheet(clip_recipe(films), path, windows=1)
    sheet = cv2.imread(str(path))
    assert sheet is not None
    assert sheet.shape[1] == strip_left(1)
