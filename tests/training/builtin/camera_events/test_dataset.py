"""Made footage: the same from the same seed, and its labels are what happens in its pixels."""

from __future__ import annotations

import numpy as np
import pytest

from training.builtin.camera_events import LABELS
from training.builtin.camera_events.dataset import (
    BETWEEN,
    TRUTHS,
    FootageSpec,
    augment,
    between_truth,
    chunk_truth,
    cut,
    open_footage,
    render_clip,
)
from training.builtin.camera_events.disturbances import Painter, Track, plan
from training.builtin.camera_events.footage import make_clip, window_label

SPEC = FootageSpec(clips=14, frames=8, fps=10.0, height=32, width=48, window=6, normal_share=0.4, seed=3)


def track(**signals) -> Track:
    """A window of 16 frames in which only `signals` happen."""
    still = Track.still(16)
    for name, values in signals.items():
        setattr(still, name, np.asarray(values, float) * np.ones(16))
    return still


STEP = (np.arange(16) >= 8).astype(float)


@pytest.mark.parametrize(
    ("truth", "label"),
    [
        (track(), "normal"),
        (track(cover=0.9), "covered"),
        (track(cover=0.9 * STEP), "covered"),
        (track(cover=0.9 * (np.arange(16) >= 12)), None),
        (track(blur=0.02), "defocused"),
        (track(blur=0.005), None),
        (track(noise=20), "noise"),
        (track(noise=2), "normal"),
        (track(x=0.2 * STEP), "moved"),
        (track(y=np.linspace(0, 0.1, 16)), "moved"),
        (track(view=STEP), "moved"),
        (track(x=0.2 * (np.arange(16) >= 15)), "normal"),  # nobody can tell a change from its first frame
        (track(x=0.03 * STEP), None),
        (track(x=0.002 * np.sin(np.arange(16))), "normal"),  # wind
        (track(shake=1.0, x=0.03 * np.sin(np.arange(16) * 2)), "shaking"),
        (track(gain=-0.8 * STEP), "flashing"),
        (track(gain=np.linspace(0, 0.3, 16)), "normal"),  # automatic exposure
    ],
)
def test_a_window_is_called_what_a_user_would_call_it(truth, label):
    assert window_label(truth, fps=10) == label


def test_a_clip_depends_on_its_seed_alone():
    first, again, other = render_clip((SPEC, 5)), render_clip((SPEC, 5)), render_clip((SPEC, 6))
    # Codecs and blurs may round otherwise where memory is aligned otherwise; the truth may not.
    assert np.abs(first[1].astype(int) - again[1]).mean() < 1
    assert np.array_equal(first[2], again[2], equal_nan=True)
    assert np.abs(first[1].astype(int) - other[1]).mean() > 10


@pytest.mark.parametrize("kind", LABELS)
def test_every_kind_makes_clips_that_are_called_so(kind):
    labels = []
    for seed in range(40):
        truth = plan(np.random.default_rng(seed), kind, np.arange(20) / 10)
        labels.append(window_label(truth.take(np.arange(16)), fps=10))
    assert labels.count(kind) >= 20
    assert not set(labels) - {kind, "normal", None}


def test_pixels_show_what_the_truth_says():
    """A covered lens shows less of the scene, noise differs from frame to frame, defocus has no fine detail."""
    scene = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    painter = Painter(rng=np.random.default_rng(1), height=96, width=128, model_width=128)

    def shown(**signals):
        return painter.paint(scene.copy(), track(**signals), 0).astype(float)

    def detail(picture):
        return np.abs(np.diff(picture, axis=1)).mean()

    assert np.array_equal(shown(), scene)
    assert detail(shown(blur=0.02)) < 0.3 * detail(shown())
    assert detail(shown(cover=1.0)) < 0.3 * detail(shown())
    half = np.abs(shown(cover=0.5) - scene).mean(axis=2) > 20
    assert 0.3 < half.mean() < 0.7
    assert np.abs(shown(noise=20) - shown(noise=20)).mean() > 10
    assert shown(gain=-1.0).mean() < 0.7 * scene.mean()


def test_the_view_follows_the_camera():
    world = np.zeros((130, 170, 3), np.uint8)
    world[60:70, 80:90] = 255
    painter = Painter(rng=np.random.default_rng(1), height=100, width=130, model_width=130)
    moving = track(x=np.linspace(0, 0.15, 16))
    first, last = (painter.view(world, moving, i, 0.0)[..., 0] for i in (0, 15))
    shift = np.argwhere(last > 128)[:, 1].mean() - np.argwhere(first > 128)[:, 1].mean()
    assert shift == pytest.approx(-0.15 * 130, abs=0.5)


def test_frames_come_at_the_models_rate_and_size():
    clip = make_clip(np.random.default_rng(2), "normal", frames=8, fps=10, height=32, width=48)
    assert clip.frames.shape == (8, 32, 48, 3)
    assert clip.frames.dtype == np.uint8
    assert len(clip.truth.x) == 8


def test_chunk_truth_measures_motion_inside_a_chunk():
    truths = np.zeros((4, len(TRUTHS)), np.float32)
    truths[:, 0] = [0, 0.03, 0.03, 0.03]
    truths[2, 1] = np.nan  # the view was changed between frames 1 and 2
    truths[3, 1] = 0.5
    chunks = chunk_truth(truths, 2)
    assert chunks[0, 0] == pytest.approx(np.sqrt(0.9), abs=1e-6)
    assert chunks[1, 0] == 0
    assert np.isnan(chunks[1, 1])


def test_between_truth_measures_what_no_chunk_sees():
    truths = np.zeros((6, len(TRUTHS)), np.float32)
    truths[:, 0] = [0, 0.01, 0.31, 0.31, 0.31, 0.31]
    truths[4:, 2] = 0.5
    between = between_truth(truths, 2)
    assert np.isnan(between[0]).all()  # nothing came before
    assert between[1].tolist() == pytest.approx([np.sqrt(0.3 * 30), 0, 0], abs=1e-5)
    assert between[2].tolist() == pytest.approx([0, 0, 1])
    truths[4:, 5] = 1.0  # covered: nobody can tell how it moves
    assert np.isnan(between_truth(truths, 2)[2]).tolist() == [True, True, False]


def test_mirroring_turns_the_motion_round():
    frames = (60 + np.arange(4 * 2 * 6 * 3, dtype=np.uint8)).reshape(4, 2, 6, 3)
    truths = np.zeros((4, len(TRUTHS)), np.float32)
    truths[:, 0] = [0, 0.01, 0.02, 0.03]
    seen = set()
    for seed in range(40):
        out, changed = augment(np.random.default_rng(seed), frames, truths)
        assert out.shape == frames.shape
        mirrored = out[0, 0, 0].astype(int).sum() > out[0, 0, -1].astype(int).sum()
        backwards = out[0].astype(int).sum() > out[-1].astype(int).sum()
        motion = np.sign(changed[-1, 0] - changed[0, 0])
        assert motion == (-1 if mirrored != backwards else 1)
        seen.add((mirrored, backwards))
    assert len(seen) == 4


def test_a_killed_rendering_goes_on_where_it_stopped(tmp_path, monkeypatch):
    rendered = []

    def stops(job):
        if len(rendered) == 5:
            raise KeyboardInterrupt
        rendered.append(job[1])
        return render_clip(job)

    monkeypatch.setattr("training.builtin.camera_events.dataset.render_clip", stops)
    with pytest.raises(KeyboardInterrupt):
        open_footage(SPEC, tmp_path, workers=1)
    monkeypatch.setattr(
        "training.builtin.camera_events.dataset.render_clip", lambda job: rendered.append(job[1]) or render_clip(job)
    )
    footage = open_footage(SPEC, tmp_path, workers=1)
    assert rendered == list(range(14))
    assert np.abs(footage.frames[2].astype(int) - render_clip((SPEC, 2))[1]).mean() < 1
    chunks, truths = cut(np.random.default_rng(0), footage, 0, 2, 2)
    assert chunks.shape == (3, 2, 32, 48, 3)
    assert truths.shape == (3, len(TRUTHS) + 48 + len(BETWEEN))
    assert truths[0, len(TRUTHS) : -len(BETWEEN)].mean() == pytest.approx((chunks[0, 0].mean() - 127.5) / 64, abs=0.02)
