"""Fresh windows have the label of their disturbance, and states that describe their frames."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from training.builtin.camera_events import fresh_windows
from training.builtin.camera_events.footage_cache import STATES
from training.builtin.camera_events.fresh_windows import KINDS, fresh_window
from training.builtin.camera_events.scenes import scene

FRAMES, FPS = 16, 10.0


@pytest.fixture(scope="module")
def scenes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    first, other = (np.repeat(scene(rng, 72, 96)[None], FRAMES, axis=0) for _ in range(2))
    return first, other


def _fresh(scenes: tuple[np.ndarray, np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    states = np.zeros((FRAMES, len(STATES)), np.float32)
    return fresh_window(np.random.default_rng(seed), scenes[0], states, scenes[1], fps=FPS)


def _state(states: np.ndarray, name: str) -> np.ndarray:
    return states[:, STATES.index(name)]


def test_a_fresh_window_is_disturbed_as_its_label_says(
    scenes: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[str] = Counter()
    for kind in KINDS:
        monkeypatch.setattr(fresh_windows, "KINDS", {kind: 1.0})
        for seed in range(6):
            frames, states, covers, label = _fresh(scenes, seed)
            assert label == kind
            assert frames.shape == scenes[0].shape
            assert frames.dtype == np.uint8
            assert states.shape == (FRAMES, len(STATES))
            assert covers.shape == (FRAMES, 3, 4)
            assert covers.mean(axis=(1, 2)) == pytest.approx(_state(states, "cover"), abs=0.08)
            motion = states[:, :2]
            view_changed = np.isnan(motion).any()
            difference = np.abs(frames.astype(int) - frames[0]).mean(axis=(1, 2, 3)).max()
            excursion = np.nanmax(motion, axis=0) - np.nanmin(motion, axis=0)
            counts[kind] += {
                "covered": (_state(states, "cover") >= 0.6).mean() >= 0.5,
                "defocused": (_state(states, "blur") >= 0.008).mean() >= 0.5,
                "noise": (_state(states, "noise") >= 4).mean() >= 0.5,
                "shaking": (_state(states, "shake") > 0.5).mean() >= 0.5,
                "moved": view_changed or difference > 5,
                "flashing": np.ptp(_state(states, "brightening")) >= 0.25,
                "normal": not view_changed and excursion.max() < 0.01 and _state(states, "cover").max() == 0,
            }[kind]
    assert counts == dict.fromkeys(KINDS, 6)


def test_the_map_of_a_cover_tells_where_it_lies(
    scenes: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the map is 0, the frame still shows the scene; where it is 1, the scene has no effect."""
    monkeypatch.setattr(fresh_windows, "KINDS", {"covered": 1.0})
    monkeypatch.setattr(fresh_windows, "through_codec", None)  # it fails if a window is encoded
    states, seen = np.zeros((FRAMES, len(STATES)), np.float32), 0
    squares = (np.indices(scenes[0].shape[1:3]).sum(axis=0) // 3 % 2 * 40 - 20)[..., None]  # a cover may pass light
    detailed = np.clip(scenes[0].astype(int) + squares, 0, 255).astype(np.uint8)
    for seed in range(40):
        try:
            drawn = [
                fresh_window(np.random.default_rng(seed), each, states, scenes[1], fps=FPS)
                for each in (scenes[0], detailed)
            ]
        except TypeError:
            continue
        (plain, _, covers, _), (other, *_) = drawn
        change = np.abs(other.astype(int) - plain).mean(axis=3).reshape(FRAMES, 3, 24, 4, 24).mean(axis=(2, 4))
        free, hidden = change[covers < 0.02], change[covers > 0.98]
        seen += len(free) > 0 < len(hidden)
        if len(free):
            assert np.median(free) > 5
        assert np.median(hidden) < 1
    assert seen >= 5


def test_two_windows_of_one_clip_differ(scenes: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (_fresh(scenes, seed)[0].astype(int) for seed in (1, 2))
    assert np.abs(first - second).mean() > 1


def test_motion_of_the_clip_is_enlarged_with_the_picture(
    scenes: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_windows, "KINDS", {"shaking": 1.0})
    states = np.zeros((FRAMES, len(STATES)), np.float32)
    moving = states.copy()
    moving[:, 0] = np.linspace(0, 0.004, FRAMES)
    still_out, moving_out = (
        fresh_window(np.random.default_rng(4), scenes[0], each, scenes[1], fps=FPS)[1] for each in (states, moving)
    )
    zoom = (moving_out[-1, 0] - still_out[-1, 0]) / 0.004
    assert 1 < zoom <= fresh_windows.MAX_ZOOM


def test_a_window_of_odd_size_keeps_its_size(scenes: tuple[np.ndarray, np.ndarray]) -> None:
    """Most codecs encode even sizes only."""
    odd = np.ascontiguousarray(scenes[0][:, :45, :75]), np.ascontiguousarray(scenes[1][:, :45, :75])
    assert {_fresh(odd, seed)[0].shape for seed in range(8)} == {odd[0].shape}
