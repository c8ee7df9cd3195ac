"""Rendered footage depends on its spec alone, and a killed rendering resumes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from training.builtin.camera_events.footage_cache import STATES, FootageSpec, open_footage, render_clip
from training.builtin.camera_events.targets import CHANGES, COVER_MAP, training_window

SPEC = FootageSpec(clips=14, frames=8, fps=10.0, height=32, width=48, window=6, normal_share=0.4, seed=3)


def test_clip_depends_on_its_seed_alone() -> None:
    first, again, other = render_clip((SPEC, 5)), render_clip((SPEC, 5)), render_clip((SPEC, 6))
    # Codecs and blurs may round differently where the memory is aligned differently; the states may not differ.
    assert np.abs(first[1].astype(int) - again[1]).mean() < 1
    assert np.array_equal(first[2], again[2], equal_nan=True)
    assert np.abs(first[1].astype(int) - other[1]).mean() > 10


def test_killed_rendering_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []

    def dying_render_clip(job):
        if len(rendered) == 5:
            raise KeyboardInterrupt
        rendered.append(job[1])
        return render_clip(job)

    target = "training.builtin.camera_events.footage_cache.render_clip"
    monkeypatch.setattr(target, dying_render_clip)
    with pytest.raises(KeyboardInterrupt):
        open_footage(SPEC, tmp_path, workers=1)
    monkeypatch.setattr(target, lambda job: rendered.append(job[1]) or render_clip(job))
    footage = open_footage(SPEC, tmp_path, workers=1)
    assert rendered == list(range(14))
    assert np.abs(footage.frames[2].astype(int) - render_clip((SPEC, 2))[1]).mean() < 1
    sent = pickle.dumps(footage)
    assert len(sent) < 1000, "another process maps the file itself"
    assert np.array_equal(pickle.loads(sent).frames, footage.frames)
    covers = np.full((6, *COVER_MAP), np.nan, np.float32)
    window = footage.frames[0, 2:8], footage.states[0, 2:8], covers
    chunks, targets = training_window(np.random.default_rng(0), *window, 2)
    assert chunks.shape == (3, 2, 32, 48, 3)
    assert targets.shape == (3, len(STATES) + 48 + 12 + len(CHANGES))
    thumbnail, cover = np.split(targets[0, len(STATES) : -len(CHANGES)], [48])
    assert np.isnan(cover).all(), "the place of a cover is not known"
    assert thumbnail.mean() == pytest.approx((chunks[0, 0].mean() - 127.5) / 64, abs=0.02)
