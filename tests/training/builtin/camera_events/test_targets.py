"""Auxiliary targets measure motion inside chunks and between them, and follow the augmentation."""

from __future__ import annotations

import numpy as np
import pytest

from training.builtin.camera_events.footage_cache import STATES
from training.builtin.camera_events.targets import augment, change_targets, chunk_targets


def test_chunk_targets_measure_motion_inside_a_chunk() -> None:
    states = np.zeros((4, len(STATES)), np.float32)
    states[:, 0] = [0, 0.03, 0.03, 0.03]
    states[2, 1] = np.nan  # the view changed between frames 1 and 2
    states[3, 1] = 0.5
    targets = chunk_targets(states, 2)
    assert targets[0, 0] == pytest.approx(np.sqrt(0.9), abs=1e-6)
    assert targets[1, 0] == 0
    assert np.isnan(targets[1, 1])


def test_change_targets_measure_motion_between_chunks() -> None:
    states = np.zeros((6, len(STATES)), np.float32)
    states[:, 0] = [0, 0.01, 0.31, 0.31, 0.31, 0.31]
    states[4:, 2] = 0.5
    targets = change_targets(states, 2)
    assert np.isnan(targets[0]).all()  # there is no chunk before
    assert targets[1].tolist() == pytest.approx([np.sqrt(0.3 * 30), 0, 0], abs=1e-5)
    assert targets[2].tolist() == pytest.approx([0, 0, 1])
    states[4:, 5] = 1.0  # covered: the motion cannot be seen
    assert np.isnan(change_targets(states, 2)[2]).tolist() == [True, True, False]


def test_mirroring_reverses_the_motion() -> None:
    frames = (60 + np.arange(4 * 2 * 6 * 3, dtype=np.uint8)).reshape(4, 2, 6, 3)
    states = np.zeros((4, len(STATES)), np.float32)
    states[:, 0] = [0, 0.01, 0.02, 0.03]
    covers = np.zeros((4, 3, 4), np.float32)
    covers[:2, :, 0] = 1  # the left edge is covered at first
    combinations = set()
    for seed in range(40):
        out, changed, moved = augment(np.random.default_rng(seed), frames, states, covers)
        assert out.shape == frames.shape
        mirrored = out[0, 0, 0].astype(int).sum() > out[0, 0, -1].astype(int).sum()
        backwards = out[0].astype(int).sum() > out[-1].astype(int).sum()
        motion = np.sign(changed[-1, 0] - changed[0, 0])
        assert motion == (-1 if mirrored != backwards else 1)
        edge = moved[-1 if backwards else 0, :, -1 if mirrored else 0]
        assert edge.tolist() == [1, 1, 1]
        assert moved.sum() == covers.sum()
        combinations.add((mirrored, backwards))
    assert len(combinations) == 4
