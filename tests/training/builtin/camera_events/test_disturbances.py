"""Tracks contain what their label says, and rendered frames show what their track says."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.camera_tracks import camera_track

from training.builtin.camera_events import LABELS
from training.builtin.camera_events.disturbances import TrackRenderer, draw_track
from training.builtin.camera_events.footage import window_label


@pytest.mark.parametrize("kind", LABELS)
def test_most_windows_of_a_track_have_its_label(kind: str) -> None:
    labels = []
    for seed in range(40):
        track = draw_track(np.random.default_rng(seed), kind, np.arange(20) / 10)
        labels.append(window_label(track.select(np.arange(16)), fps=10))
    assert labels.count(kind) >= 20
    assert not set(labels) - {kind, "normal", None}


def test_frames_show_what_the_track_says() -> None:
    """A cover hides the scene, noise differs between frames, and defocus removes fine detail."""
    scene = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    renderer = TrackRenderer(rng=np.random.default_rng(1), height=96, width=128, model_width=128)

    def render(**signals: Any) -> npt.NDArray[np.float64]:
        return renderer.disturb(scene.copy(), camera_track(**signals), 0).astype(float)

    def detail(image: npt.NDArray[np.float64]) -> float:
        return float(np.abs(np.diff(image, axis=1)).mean())

    assert np.array_equal(render(), scene)
    assert detail(render(blur=0.02)) < 0.3 * detail(render())
    assert detail(render(cover=1.0)) < 0.3 * detail(render())
    covered = np.abs(render(cover=0.5) - scene).mean(axis=2) > 20
    assert 0.3 < covered.mean() < 0.7
    assert np.abs(render(noise=20) - render(noise=20)).mean() > 10
    assert render(gain=-1.0).mean() < 0.7 * scene.mean()


@pytest.mark.parametrize("seed", range(12))
def test_a_whole_cover_leaves_nothing_of_the_scene(seed: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), dtype=np.uint8)
    frames = []
    for scene in pixels:
        renderer = TrackRenderer(rng=np.random.default_rng(seed), height=96, width=128, model_width=128)
        frames.append(renderer.disturb(scene, camera_track(cover=1.0), 0))
    assert np.array_equal(frames[0], frames[1])


def test_view_follows_the_cameras_direction() -> None:
    world = np.zeros((130, 170, 3), np.uint8)
    world[60:70, 80:90] = 255
    renderer = TrackRenderer(rng=np.random.default_rng(1), height=100, width=130, model_width=130)
    pan = camera_track(x=np.linspace(0, 0.15, 16))
    first, last = (renderer.view(world, pan, i, 0.0)[..., 0] for i in (0, 15))
    shift = np.argwhere(last > 128)[:, 1].mean() - np.argwhere(first > 128)[:, 1].mean()
    assert shift == pytest.approx(-0.15 * 130, abs=0.5)
