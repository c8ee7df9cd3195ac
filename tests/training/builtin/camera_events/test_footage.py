"""Rendered clips have the model's rate and size, and window labels follow the camera's track."""

from __future__ import annotations

import numpy as np
import pytest
from support.camera_tracks import HALF, camera_track

from training.builtin.camera_events import scenes
from training.builtin.camera_events.disturbances import CameraTrack
from training.builtin.camera_events.footage import make_clip, window_label
from training.builtin.camera_events.scenes import MIN_PART_STRUCTURE, MIN_STRUCTURE, scene, structure
from training.builtin.camera_events.surfaces import mixed_texture, repeated_pattern


@pytest.mark.parametrize(
    ("track", "label"),
    [
        (camera_track(), "normal"),
        (camera_track(cover=0.9), "covered"),
        (camera_track(cover=0.9 * HALF), "covered"),
        (camera_track(cover=0.9 * (np.arange(16) >= 12)), None),
        (camera_track(blur=0.02), "defocused"),
        (camera_track(blur=0.005), None),
        (camera_track(noise=20), "noise"),
        (camera_track(noise=3.5), "noise"),
        (camera_track(noise=3), None),
        (camera_track(noise=2), "normal"),
        (camera_track(x=0.2 * HALF), "moved"),
        (camera_track(y=np.linspace(0, 0.1, 16)), "moved"),
        (camera_track(view=HALF), "moved"),
        (camera_track(x=0.2 * (np.arange(16) >= 15)), "normal"),  # one frame does not show a change
        (camera_track(x=0.03 * HALF), None),
        (camera_track(x=0.002 * np.sin(np.arange(16))), "normal"),  # wind
        (camera_track(shake=1.0, x=0.03 * np.sin(np.arange(16) * 2)), "shaking"),
        (camera_track(gain=-0.8 * HALF), "flashing"),
        (camera_track(gain=np.linspace(0, 0.3, 16)), "normal"),  # automatic exposure
    ],
)
def test_window_label_is_what_a_user_would_say(track: CameraTrack, label: str | None) -> None:
    assert window_label(track, fps=10) == label


def test_clip_has_the_models_rate_and_size() -> None:
    clip = make_clip(np.random.default_rng(2), "normal", frames=8, fps=10, height=32, width=48)
    assert clip.frames.shape == (8, 32, 48, 3)
    assert clip.frames.dtype == np.uint8
    assert len(clip.track.x) == 8


def test_every_scene_has_structure_and_a_bare_surface_has_none() -> None:
    rng = np.random.default_rng(3)
    assert min(structure(scene(rng, 90, 120)) for _ in range(20)) >= MIN_STRUCTURE
    slope = np.linspace(110, 150, 120)[None, :, None].repeat(90, axis=0).repeat(3, axis=2)
    noisy = slope + rng.normal(0, 0.5, slope.shape)
    assert structure(np.clip(noisy, 0, 255).astype(np.uint8)) < MIN_STRUCTURE


def plain_scenes(count: int) -> int:
    """Draw `count` scenes, and count those with a plain part, which looks like a cover over a part of the frame."""
    rng, plain = np.random.default_rng(1), 0
    for _ in range(count):
        drawn = scene(rng, 240, 320)
        parts = (drawn[:156], drawn[-156:], drawn[:, :208], drawn[:, -208:])
        plain += min(structure(part) for part in parts) < MIN_PART_STRUCTURE
    return plain


def test_few_scenes_have_a_plain_part_but_much_bare_ground_does(monkeypatch: pytest.MonkeyPatch) -> None:
    all_kinds = plain_scenes(40)
    assert 0 < all_kinds < 10
    ground = next(each for each in scenes._SCENES if each[0] is scenes._ground)
    monkeypatch.setattr(scenes, "_SCENES", ((ground[0], 1.0),))
    assert plain_scenes(40) > all_kinds


def test_in_an_overexposed_scene_half_of_the_frame_is_nearly_white() -> None:
    canvas = np.random.default_rng(0).uniform(20, 120, (90, 120, 3)).astype(np.float32)
    medians = [np.median(scenes.light_and_lens(np.random.default_rng(seed), canvas)) for seed in range(120)]
    assert 2 <= sum(median > 170 for median in medians) <= 20


@pytest.mark.parametrize("seed", range(30))
def test_mixed_textures_differ_and_stay_in_range(seed: int) -> None:
    first, second = (mixed_texture(np.random.default_rng([seed, i]), 90, 120) for i in (0, 1))
    assert first.shape == (90, 120, 3)
    assert -0.01 < first.min() <= first.max() < 255.01
    assert np.abs(first - second).mean() > 2


def test_patterns_have_the_structure_of_scenes() -> None:
    """A pattern is a cover that structure alone does not tell from a scene."""
    drawn = [repeated_pattern(np.random.default_rng(seed), 72, 96) for seed in range(30)]
    images = [np.clip(pattern, 0, 255).astype(np.uint8) for pattern in drawn]
    assert {image.shape for image in images} == {(72, 96, 3)}
    assert np.mean([structure(image) >= MIN_STRUCTURE for image in images]) > 0.8
