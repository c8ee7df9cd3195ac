"""The benchmark's covers hide the share of the frame that they should hide, from the first frame or an onset on."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from training.builtin.camera_events.benchmark import cut, write_excerpt
from training.builtin.camera_events.tampering import STRENGTHS, Excerpt, covered

SHARES = {"weak": 0.7, "medium": 0.85, "strong": 1.0}


def excerpt(seed: int) -> Excerpt:
    """Return two seconds of random pixels, 72 x 96, at 10 frames per second."""
    frames = np.random.default_rng(seed).integers(0, 256, (20, 72, 96, 3), dtype=np.uint8)
    return Excerpt(frames=frames, times_s=np.arange(20) / 10)


def detail(frame: np.ndarray) -> np.ndarray:
    """Return the mean difference between neighbouring pixels, for 6 x 6 parts of the frame."""
    steps = np.abs(np.diff(frame.astype(float), axis=1)).mean(axis=2)[:72, :90]
    return steps.reshape(6, 12, 6, 15).mean(axis=(1, 3))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_cover_hides_its_share_of_the_frame(strength: str) -> None:
    seen = set()
    for seed in range(24):
        original = excerpt(seed)
        tampered = covered(np.random.default_rng(seed), original, strength)
        last = tampered.excerpt.frames[-1]
        hidden = (detail(last) < 0.5 * detail(original.frames[-1])).mean()
        assert hidden == pytest.approx(SHARES[strength], abs=0.17)
        if strength == "strong":
            assert hidden == 1.0
        first_is_hidden = bool((detail(tampered.excerpt.frames[0]) < 0.5 * detail(original.frames[0])).mean() > 0.5)
        assert tampered.detail == ("lying still" if first_is_hidden else "coming")
        seen.add(tampered.detail)
    assert seen == {"lying still", "coming"}


def test_a_cut_shows_another_film_in_the_second_half() -> None:
    original, other = excerpt(1), excerpt(2)
    small = Excerpt(frames=other.frames[:3, ::2, ::2], times_s=other.times_s[:3])
    result = cut(original, small)
    assert np.array_equal(result.excerpt.frames[:10], original.frames[:10])
    assert result.excerpt.frames.shape == original.frames.shape
    assert not (result.excerpt.frames[10:] == original.frames[10:]).all(axis=(1, 2, 3)).any()
    assert result.rule(0.4, 2.0)
    assert not result.rule(1.0, 2.6), "the cut is at the window's edge"


def test_the_same_excerpt_gives_the_same_film_in_each_run(tmp_path: Path) -> None:
    """A figure must not depend on chance in the encoder."""
    rng = np.random.default_rng(4)
    scene = cv2.resize(rng.integers(0, 256, (18, 24, 3), dtype=np.uint8), (192, 144), interpolation=cv2.INTER_CUBIC)
    frames = np.stack([np.roll(scene, 3 * i, axis=1) for i in range(20)])
    excerpt = Excerpt(frames=frames, times_s=np.arange(20) / 10)
    films = set()
    for _ in range(10):
        write_excerpt(tmp_path / "film.mkv", excerpt, 23)
        with av.open(str(tmp_path / "film.mkv")) as container:
            films.add(b"".join(bytes(packet) for packet in container.demux(video=0)))
    assert len(films) == 1
