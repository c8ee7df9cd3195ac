"""Augmentation changes all frames of a clip alike, and labels and points follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.labelled import draw_moving_dot

from training.data.augment import OPERATIONS, AugmentParams, AugmentRecipe, label_swaps

EVERYTHING = AugmentRecipe(
    crop=(0.7, 1), stretch=0.2, shift=0.1, rotate=20, flip=True, reverse=True, brightness=0.2, contrast=0.3,
    saturation=0.5, gamma=0.3, grey=0.2, channels=0.2, blur=0.3, erase=0.5, operations=3, magnitude=0.6,
)  # fmt: skip


def test_default_augmentation_changes_nothing() -> None:
    clip, _ = draw_moving_dot()
    rng = np.random.default_rng(0)
    assert np.array_equal(AugmentParams.sample(rng, AugmentRecipe(), clip).apply(rng, clip, 60, 80), clip)


@pytest.mark.parametrize("seed", range(12))
def test_all_frames_are_changed_alike(seed: int) -> None:
    """A still clip stays still, whatever augmentation is drawn."""
    clip = np.repeat(draw_moving_dot(1)[0], 4, axis=0)
    rng = np.random.default_rng(seed)
    augmented = AugmentParams.sample(rng, EVERYTHING, clip).apply(rng, clip, 48, 64)
    assert augmented.shape == (4, 48, 64, 3)
    assert (augmented == augmented[:1]).all()


@pytest.mark.parametrize("seed", range(8))
def test_points_follow_the_frame(seed: int) -> None:
    clip, dot = draw_moving_dot()
    rng = np.random.default_rng(seed)
    recipe = AugmentRecipe(crop=(0.8, 1), stretch=0.2, shift=0.05, rotate=25, flip=True)
    params = AugmentParams.sample(rng, recipe, clip)
    augmented = params.apply(rng, clip, 120, 160)
    expected = params.apply_to_points(dot.astype(np.float32))
    for frame, (x, y) in zip(augmented, expected, strict=True):
        rows, columns = np.nonzero(frame[..., 0] > 150)
        assert abs(columns.mean() + 0.5 - x * 160) < 3
        assert abs(rows.mean() + 0.5 - y * 120) < 3


def test_mirrored_clip_moves_the_other_way() -> None:
    clip, _ = draw_moving_dot()
    directions = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        params = AugmentParams.sample(rng, AugmentRecipe(flip=True), clip)
        augmented = params.apply(rng, clip, 60, 80)
        direction = np.sign(augmented[-1, ..., 0].argmax() % 80 - augmented[0, ..., 0].argmax() % 80)
        assert direction == (-1 if params.flipped else 1)
        directions.add(int(direction))
        if params.flipped:
            assert np.array_equal(augmented, clip[:, :, ::-1])
    assert directions == {-1, 1}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_randaugment_operation_changes_the_frames(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.augment.OPERATIONS", (name,))
    clip = np.random.default_rng(1).integers(40, 200, (3, 40, 60, 3), dtype=np.uint8)
    rng = np.random.default_rng(3)
    params = AugmentParams.sample(rng, AugmentRecipe(operations=1, magnitude=0.9), clip)
    assert np.abs(params.apply(rng, clip, 40, 60).astype(int) - clip).mean() > 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"flip_labels": {"left": "right"}}, "flip_labels without flip"),
        ({"flip": True, "flip_labels": {"left": "right", "right": "left"}}, "name each pair once"),
        ({"crop": (1.0, 0.5)}, "the smaller first"),
        ({"speed": (0.1, 1)}, "between 0.25 and 4"),
    ],
)
def test_augment_section_with_wrong_values_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentRecipe(**keys)


def test_label_swaps_work_in_both_directions() -> None:
    assert label_swaps({"left": "right"}, ("left", "up", "right")).tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match="'down': no such class"):
        label_swaps({"left": "down"}, ("left", "up"))
