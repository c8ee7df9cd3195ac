"""The measure of motion: small and local changes count, noise and one grey level of brightness do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engines.arrays import U8
from streamclf.classifier.motion_gate import BLOCK, CELL, MotionGate, motion_between

SHAPE = (2, 112, 96, 3)


def scene(seed: int = 0, sigma: float = 0.0) -> U8:
    """Make a chunk of a fixed scene of large patches, with noise of `sigma` grey levels."""
    patches = np.random.default_rng(9).integers(40, 216, (1, 14, 12, 3))
    still = patches.repeat(8, axis=1).repeat(8, axis=2).repeat(2, axis=0)
    noise = np.random.default_rng(seed).normal(0, sigma, SHAPE) if sigma else 0
    return np.clip(still + noise, 0, 255).astype(np.uint8)


def slow_measure(first: U8, second: U8) -> float:
    """Compute the measure by its definition, block by block, for sizes that are multiples of a block."""
    t, height, width, _ = first.shape
    cells = [
        each.astype(float).reshape(t, height // CELL, CELL, width // CELL, CELL, 3).mean(axis=(2, 4))
        for each in (first, second)
    ]
    difference = np.abs(cells[0] - cells[1])
    return max(
        difference[frame, y : y + BLOCK, x : x + BLOCK, colour].mean()
        for frame in range(t)
        for y in range(0, height // CELL, BLOCK)
        for x in range(0, width // CELL, BLOCK)
        for colour in range(3)
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 16, 16, 3), (2, 48, 32, 3), (3, 16, 64, 3)]))
def test_the_measure_matches_its_definition(seed: int, shape: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.integers(0, 256, shape, np.uint8) for _ in range(2))
    assert motion_between(first, second) == pytest.approx(slow_measure(first, second))


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.just(1), st.integers(1, 40), st.integers(1, 40), st.just(3))), st.data())
def test_frames_of_any_size_are_measured_up_to_their_edges(chunk: U8, data: st.DataObject) -> None:
    """A pixel that changes by 255 changes its cell by at least 16 grey levels and its block by one, wherever it is."""
    assert motion_between(chunk, chunk) == 0
    y, x = data.draw(st.integers(0, chunk.shape[1] - 1)), data.draw(st.integers(0, chunk.shape[2] - 1))
    low, high = chunk.copy(), chunk.copy()
    low[0, y, x], high[0, y, x] = 0, 255
    assert motion_between(low, high) >= 255 / (CELL * BLOCK) ** 2 - 1e-9
    assert motion_between(low, high) == motion_between(high, low)


def test_noise_counts_as_no_motion_and_a_small_object_as_motion() -> None:
    """An object of 12 x 12 pixels, of a frame's 10,752, changes the mean over the frame by less than the noise does."""
    noisy, later = scene(1, 4.0), scene(2, 4.0)
    moved = later.copy()
    moved[:, 40:52, 30:42] = 255 - moved[:, 40:52, 30:42]
    assert motion_between(noisy, later) < 2.5
    assert motion_between(noisy, moved) > 10
    overall = [np.abs(each.astype(int) - noisy).mean() for each in (later, moved)]
    assert overall[1] - overall[0] < 2.5


def test_motion_in_one_frame_of_a_chunk_is_enough() -> None:
    still, flash = scene(), scene()
    flash[1] = 255 - flash[1]
    assert motion_between(still, flash) > 30


def test_the_reference_is_the_last_chunk_with_motion() -> None:
    gate = MotionGate(3.0)
    levels = [100, 101, 102, 103, 104, 105, 106, 99, 100]
    found = [gate.is_unchanged(np.full(SHAPE, level, np.uint8)) for level in levels]
    assert found == [False, True, True, False, True, True, False, False, True]


def test_the_reference_is_a_copy() -> None:
    gate, chunk = MotionGate(3.0), scene()
    assert not gate.is_unchanged(chunk)
    chunk[:] = 255 - chunk  # the next chunk is written to the same place of the batch
    assert not gate.is_unchanged(chunk)
