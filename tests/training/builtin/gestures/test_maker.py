"""Rendered gestures: the tip is where it is reported, and the direction matches the class."""

from pathlib import Path

import numpy as np
import pytest

from training.builtin.gestures import LABELS
from training.builtin.gestures.maker import GestureClip, make_clip
from training.builtin.gestures.shapes import gesture_path, load_paths, other_path
from training.errors import DataError


def small_clip(seed: int, label: str) -> GestureClip:
    return make_clip(np.random.default_rng(seed), label, frames=12, fps=8.0, height=48, width=64)


def test_clip_depends_on_its_seed() -> None:
    first, again, other = (small_clip(seed, "star") for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.tips, again.tips)
    assert (first.frames != other.frames).mean() > 0.5


@pytest.mark.parametrize("label", LABELS)
def test_clip_of_every_label_has_its_size_and_tips_inside(label: str) -> None:
    clip = small_clip(LABELS.index(label), label)
    assert clip.frames.shape == (12, 48, 64, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.frames.std() > 1, "the frames are not empty"
    assert clip.tips.shape == (12, 2)
    known = clip.tips[~np.isnan(clip.tips).any(axis=1)]
    assert ((known >= -0.01) & (known <= 1.01)).all()


def test_tip_is_where_the_frames_change() -> None:
    """Where the hand was in the first frame, the frames differ below the tip and less above it."""
    hits = []
    for seed in range(24):
        clip = make_clip(np.random.default_rng(seed), "down", frames=16, fps=8.0, height=96, width=128)
        if np.isnan(clip.tips[[0, -1]]).any() or abs(clip.tips[-1, 1] - clip.tips[0, 1]) < 0.3:
            continue
        # The finger has left its first place, so the last frame shows the background there.
        changed = np.abs(clip.frames[0].astype(int) - clip.frames[-1]).sum(axis=2)
        x, y = clip.tips[0] * (128, 96)
        below = changed[int(y) : int(y) + 12, max(int(x) - 6, 0) : int(x) + 7].mean()
        above = changed[max(int(y) - 16, 0) : max(int(y) - 4, 1), max(int(x) - 6, 0) : int(x) + 7].mean()
        hits.append(below > above)
    assert len(hits) >= 8
    assert np.mean(hits) > 0.7


@pytest.mark.parametrize(("label", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
def test_stroke_has_the_direction_of_its_label(label: str, axis: int, sign: int) -> None:
    for seed in range(20):
        path = gesture_path(np.random.default_rng(seed), label, 32, None)
        motion = path[-1] - path[0]
        assert motion[axis] * sign > 0.1
        assert abs(motion[axis]) > 1.5 * abs(motion[1 - axis])


@pytest.mark.parametrize(("label", "sign"), [("circle", -1), ("square", 1)])
def test_circle_is_counter_clockwise_and_square_is_clockwise(label: str, sign: int) -> None:
    for seed in range(20):
        x, y = gesture_path(np.random.default_rng(seed), label, 64, None).T
        # The shoelace formula; y points downwards, so positive is clockwise.
        area = 0.5 * (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() + 0.5 * (x[-1] * y[0] - x[0] * y[-1])
        assert area * sign > 0


def test_other_motions_are_finite_and_different() -> None:
    paths = [other_path(np.random.default_rng(seed), 24) for seed in range(40)]
    assert all(path.shape == (24, 2) and np.isfinite(path).all() for path in paths)
    assert len({tuple(path[-1].round(3)) for path in paths}) == 40


def test_drawn_paths_are_loaded_and_checked(tmp_path: Path) -> None:
    points = np.stack([np.linspace(100, 500, 30), np.full(30, 240)], axis=1).astype(np.float32)
    good = tmp_path / "paths.npz"
    np.savez(good, points=points, offsets=np.array([0, 30], np.int32), labels=np.array(["right"]))
    drawn = load_paths(good)
    path = drawn.choose(np.random.default_rng(0), "right")
    assert path is not None
    np.testing.assert_allclose(path[[0, -1]], [[100 / 640, 0.5], [500 / 640, 0.5]])
    assert drawn.choose(np.random.default_rng(0), "left") is None

    bad = tmp_path / "bad.npz"
    np.savez(bad, points=points, offsets=np.array([0, 10], np.int32), labels=np.array(["right"]))
    with pytest.raises(DataError, match="do not fit together"):
        load_paths(bad)
    np.savez(bad, points=points, offsets=np.array([0, 1, 30], np.int32), labels=np.array(["up", "right"]))
    with pytest.raises(DataError, match="path 0 has fewer than two points"):
        load_paths(bad)
    bad.write_text("no numbers")
    with pytest.raises(DataError, match="no drawn paths"):
        load_paths(bad)


def test_unknown_label_is_named() -> None:
    with pytest.raises(ValueError, match="label='wave': one of caret"):
        small_clip(0, "wave")
