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


def test_light_that_changes_a_little_at_once_is_normal() -> None:
    """Sudden steps of brightness, by less than a flash, are frequent on film of fixed cameras."""
    sudden = {"gain": 0, "exposure": 0}
    for seed in range(100):
        track = draw_track(np.random.default_rng(seed), "normal", np.arange(20) / 10)
        for name in sudden:
            steps = np.abs(np.diff(getattr(track, name)))
            sudden[name] += bool(steps.max() > 0.03 and np.median(steps) < 0.3 * steps.max())
            assert steps.max() < 0.25
    assert all(5 <= count <= 40 for count in sudden.values()), sudden


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
    assert render(gain=-1.0).mean() < 0.8 * scene.mean()


def test_a_coloured_light_that_turns_is_a_flash() -> None:
    """Each channel gets its own share of the light's pulses."""
    scene = np.full((96, 128, 3), 60, np.uint8)
    ratios = []
    for seed in range(40):
        renderer = TrackRenderer(rng=np.random.default_rng(seed), height=96, width=128, model_width=128)
        lit = renderer.disturb(scene, camera_track(gain=1.0), 0).mean(axis=(0, 1)) / 60
        assert 1 <= lit.min() <= lit.max() <= 2.8
        ratios.append(np.log(lit.max()) / max(np.log(lit.min()), 0.01))
    assert 4 <= sum(ratio > 1.2 for ratio in ratios) <= 18


def test_view_follows_the_cameras_direction() -> None:
    world = np.zeros((130, 170, 3), np.uint8)
    world[60:70, 80:90] = 255
    renderer = TrackRenderer(rng=np.random.default_rng(1), height=100, width=130, model_width=130)
    pan = camera_track(x=np.linspace(0, 0.15, 16))
    first, last = (renderer.view(world, pan, i, 0.0)[..., 0] for i in (0, 15))
    shift = np.argwhere(last > 128)[:, 1].mean() - np.argwhere(first > 128)[:, 1].mean()
    assert shift == pytest.approx(-0.15 * 130, abs=0.5)
