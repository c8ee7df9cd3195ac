"""Clips seen otherwise: all frames alike, labels and points following."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.augment import OPERATIONS, AugmentParams, AugmentRecipe, label_swaps
from training.data.batches import ClipTrainingBatches, WindowSampler, mixup
from training.data.clips import Clips
from training.data.dataset import ClipDataSet
from training.data.shape import Shape
from training.data.windows import WindowsRecipe, draw_stretched, draw_window, spread_windows, stretch_windows
from training.errors import RecipeError

EVERYTHING = AugmentRecipe(
    crop=(0.7, 1), stretch=0.2, shift=0.1, rotate=20, flip=True, reverse=True, brightness=0.2, contrast=0.3,
    saturation=0.5, gamma=0.3, grey=0.2, channels=0.2, blur=0.3, erase=0.5, operations=3, magnitude=0.6,
)  # fmt: skip


def moving_dot(frames: int = 6, height: int = 60, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """A clip with a small bright dot, and where it is as shares of width and height."""
    clip = np.full((frames, height, width, 3), 60, np.uint8)
    where = np.stack([np.linspace(0.35, 0.65, frames), np.linspace(0.4, 0.6, frames)], axis=1)
    for picture, (x, y) in zip(clip, where, strict=True):
        column, row = int(x * width), int(y * height)
        picture[row - 1 : row + 2, column - 1 : column + 2] = 250
    return clip, where


def test_nothing_changes_by_default():
    clip, _ = moving_dot()
    rng = np.random.default_rng(0)
    assert np.array_equal(AugmentParams.sample(rng, AugmentRecipe(), clip).apply(rng, clip, 60, 80), clip)


@pytest.mark.parametrize("seed", range(12))
def test_every_frame_is_seen_in_the_same_way(seed):
    """A still clip stays still, whatever is drawn."""
    clip = np.repeat(moving_dot(1)[0], 4, axis=0)
    rng = np.random.default_rng(seed)
    seen = AugmentParams.sample(rng, EVERYTHING, clip).apply(rng, clip, 48, 64)
    assert seen.shape == (4, 48, 64, 3)
    assert (seen == seen[:1]).all()


@pytest.mark.parametrize("seed", range(8))
def test_points_follow_the_picture(seed):
    clip, where = moving_dot()
    rng = np.random.default_rng(seed)
    recipe = AugmentRecipe(crop=(0.8, 1), stretch=0.2, shift=0.05, rotate=25, flip=True)
    params = AugmentParams.sample(rng, recipe, clip)
    seen = params.apply(rng, clip, 120, 160)
    expected = params.apply_to_points(where.astype(np.float32))
    for picture, (x, y) in zip(seen, expected, strict=True):
        rows, columns = np.nonzero(picture[..., 0] > 150)
        assert abs(columns.mean() + 0.5 - x * 160) < 3
        assert abs(rows.mean() + 0.5 - y * 120) < 3


def test_a_mirrored_clip_moves_the_other_way():
    clip, _ = moving_dot()
    ways = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        params = AugmentParams.sample(rng, AugmentRecipe(flip=True), clip)
        seen = params.apply(rng, clip, 60, 80)
        way = np.sign(seen[-1, ..., 0].argmax() % 80 - seen[0, ..., 0].argmax() % 80)
        assert way == (-1 if params.flipped else 1)
        ways.add(int(way))
        if params.flipped:
            assert np.array_equal(seen, clip[:, :, ::-1])
    assert ways == {-1, 1}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_randaugment_changes_the_picture(name, monkeypatch):
    monkeypatch.setattr("training.data.augment.OPERATIONS", (name,))
    clip = np.random.default_rng(1).integers(40, 200, (3, 40, 60, 3), dtype=np.uint8)
    rng = np.random.default_rng(3)
    params = AugmentParams.sample(rng, AugmentRecipe(operations=1, magnitude=0.9), clip)
    assert np.abs(params.apply(rng, clip, 40, 60).astype(int) - clip).mean() > 2


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"flip_labels": {"left": "right"}}, "flip_labels without flip"),
        ({"flip": True, "flip_labels": {"left": "right", "right": "left"}}, "name each pair once"),
        ({"crop": (1.0, 0.5)}, "the smaller first"),
        ({"speed": (0.1, 1)}, "between 0.25 and 4"),
    ],
)
def test_a_wrong_section_is_told(keys, said):
    with pytest.raises(ValueError, match=said):
        AugmentRecipe(**keys)


def test_swaps_go_both_ways_and_know_the_classes():
    assert label_swaps({"left": "right"}, ("left", "up", "right")).tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match="'down': no such class"):
        label_swaps({"left": "down"}, ("left", "up"))


class Dots(Clips):
    """Clips 0 and 1 of classes left and right, at twice the model's rate; clip 0 knows where its dot is."""

    aux_names = ("x", "y", "visible")
    labels = np.array([0, 1])
    names, groups = ("0", "1"), ("", "")

    def __init__(self):
        self.clip, self.where = moving_dot(24)

    def key(self, index):
        return str(index)

    def steps(self, index):
        return 2

    def frames(self, index):
        return self.clip[::-1] if index == 0 else self.clip

    def aux_targets(self, index):
        if index:
            return None
        return np.hstack([self.where[::-1], np.ones((24, 1))]).astype(np.float32)


SHAPE = Shape(fps=10.0, frames_per_chunk=2, chunks=3, height=60, width=80)


def dots(**augment) -> tuple[ClipDataSet, WindowSampler]:
    data = ClipDataSet(labels=("left", "right"), training=Dots(), validation=Dots(), odds=np.array([0.9, 0.1]))
    return data, WindowSampler(data.training, data.labels, SHAPE, WindowsRecipe(), AugmentRecipe(**augment))


@pytest.mark.parametrize("key", ["flip", "reverse"])
def test_labels_are_swapped_with_what_is_seen(key):
    """A dot that goes left is `left`, mirrored or backwards or not."""
    _, sampler = dots(**{key: True, f"{key}_labels": {"left": "right"}})
    for seed in range(12):
        chunks, label, truths = sampler.sample(np.random.default_rng(seed), seed % 2)
        frames = chunks.reshape(-1, 60, 80, 3)
        columns = [frame[..., 0].max(axis=0).argmax() for frame in (frames[0], frames[-1])]
        assert label == (0 if columns[1] < columns[0] else 1)
        if seed % 2 == 0:
            last = frames[1::2]
            seen = [frame[..., 0].max(axis=0).argmax() / 80 for frame in last]
            assert np.allclose(truths[:, 0], seen, atol=0.03)
            assert (truths[:, 2] == 1).all()
        else:
            assert np.isnan(truths).all()


def test_a_swap_of_a_class_that_there_is_not_is_refused():
    with pytest.raises(RecipeError, match="'up': no such class"):
        dots(flip=True, flip_labels={"left": "up"})


def test_a_batch_depends_on_seed_and_step_alone_and_classes_are_even():
    data, sampler = dots(crop=(0.8, 1), noise=5)
    batches = ClipTrainingBatches(sampler, odds=data.odds, classes=2, seed=3, batch=64, balanced=True, mixup=0)
    first, second = (next(iter(batches)) for _ in range(2))
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)
    assert 20 < first["target"][:, 0].sum() < 44, "though clip 0 has nine tenths of the odds"
    stream = iter(batches)
    next(stream)
    batches.step = 1
    assert np.array_equal(next(stream)["frames"], next(iter(batches))["frames"]), (
        "a resumed run sees what it would have"
    )


def test_mixup_mixes_pictures_and_targets_in_one_proportion():
    frames = np.stack([np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 200, np.uint8)])
    target = np.eye(2, dtype=np.float32)
    for seed in range(6):
        mixed, soft, truths = mixup(np.random.default_rng(seed), 1.0, frames, target, np.zeros((2, 3, 1), np.float32))
        assert mixed.dtype == np.uint8
        assert np.allclose(mixed[:, 0, 0, 0, 0] / 200, soft[:, 1], atol=0.01)
        assert np.isnan(truths).all()


def test_windows_lie_at_chunks_borders_spread_over_the_clip():
    laid = spread_windows(10, frames_per_chunk=2, chunks=3, count=2, fill="hold")
    assert laid.windows.tolist() == [[0, 1, 2], [2, 3, 4]]
    assert laid.frames.tolist() == list(range(10))
    every = spread_windows(11, frames_per_chunk=2, chunks=3, count=0, fill="hold")
    assert every.windows[:, 0].tolist() == [0, 1, 2]
    assert every.filled == 0
    assert spread_windows(10, frames_per_chunk=2, chunks=3, count=1, fill="hold").windows.tolist() == [[1, 2, 3]]
    short = spread_windows(4, frames_per_chunk=2, chunks=3, count=5, fill="hold")
    assert short.frames.tolist() == [0, 1, 2, 3, 3, 3]
    assert (short.filled, short.windows.tolist()) == (2, [[0, 1, 2]])
    assert spread_windows(4, frames_per_chunk=2, chunks=3, count=5, fill="loop").frames.tolist() == [0, 1, 2, 3, 0, 1]


def test_a_stretched_clip_is_seen_whole():
    laid = stretch_windows(31, frames_per_chunk=2, chunks=2, count=3)
    assert laid.frames[:4].tolist() == [0, 10, 20, 30]
    assert laid.windows.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert laid.frames[4] == 0
    assert laid.frames[-1] == 30
    for seed in range(20):
        places = draw_stretched(np.random.default_rng(seed), 31, window=6, span=(0.8, 1.0), jitter=0.3)
        assert (np.diff(places) >= 0).all()
        assert places[-1] - places[0] >= 0.6 * 30


@pytest.mark.parametrize("length", [1, 7, 40, 200])
def test_a_drawn_window_lies_in_the_clip_at_its_speed(length):
    spans = []
    for seed in range(30):
        places = draw_window(
            np.random.default_rng(seed), length, window=8, steps=2, speed=(0.5, 2.0), jitter=0.3, fill="hold"
        )
        assert places.shape == (8,)
        assert places.min() >= 0
        assert places.max() < length
        assert (np.diff(places) >= 0).all()
        spans.append((places[-1] - places[0]) / (2 * 7))
    if length == 200:
        assert 0.4 <= min(spans) < 0.8
        assert 1.4 < max(spans) <= 2.2
