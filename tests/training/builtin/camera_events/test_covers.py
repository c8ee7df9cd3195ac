"""Covers of the lens hide the share of the frame that the track says, and let no detail of the scene through."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from training.builtin.camera_events.covers import LensCover, draw_edge, draw_surface

SIZE = (96, 130)


@pytest.mark.parametrize("seed", range(20))
def test_an_edge_covers_the_given_share(seed: int) -> None:
    edge = draw_edge(np.random.default_rng(seed), *SIZE)
    assert edge.shape == SIZE
    for share in (0.2, 0.65, 0.9):
        assert (edge < share).mean() == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("seed", range(40))
def test_every_surface_has_the_frames_shape_and_range(seed: int) -> None:
    surface = draw_surface(np.random.default_rng(seed), *SIZE)
    assert surface.shape == (*SIZE, 3)
    assert 0 <= surface.min() <= surface.max() <= 255


@pytest.mark.parametrize("seed", range(12))
def test_a_whole_cover_leaves_no_detail_of_the_scene(seed: int) -> None:
    """A cover that lets light through is brighter before a bright scene, but as smooth as before a dark one."""
    rng = np.random.default_rng(0)
    checks = np.asarray(np.indices(SIZE).sum(axis=0) // 4 % 2 * 200, np.uint8)[..., None].repeat(3, axis=2)
    scenes = [np.full((*SIZE, 3), 100, np.uint8), checks, rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)]
    drawn = LensCover.drawn(np.random.default_rng(seed), *SIZE)
    for cover in (replace(drawn, shine=0.0), replace(drawn, shine=0.6)):
        flat, *others = (cover.over(scene, 1.0, number=0, exposure=0.0).astype(np.float32) for scene in scenes)
        for other in others:
            change = other - flat
            assert np.abs(change - cv2.blur(change, (15, 15))).max() <= 6
            assert cover.shine or not change.any()


def test_a_partial_cover_leaves_the_rest_of_the_frame() -> None:
    scene = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    for seed in range(12):
        cover = replace(LensCover.drawn(np.random.default_rng(seed), *SIZE), softness=0.05, shine=0.0)
        seen = cover.over(scene, 0.65, number=0, exposure=0.0)
        assert 0.25 < (seen == scene).all(axis=2).mean() < 0.4
