"""The annotated film has all pictures of the film, each for its time."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from support.clips import write_clip

from streamclf.classifier.offline import FileResult, WindowResult
from streamclf.commands.annotate import write_annotated

LABELS = ("dark", "bright")


def result(seconds: float, *, changes_at: float = 1e9, short: bool = False) -> FileResult:
    first, second = np.array([0.9, 0.1], np.float32), np.array([0.2, 0.8], np.float32)
    windows = [
        WindowResult(start_s=i / 5, end_s=i / 5 + 0.8, probabilities=first if i / 5 < changes_at else second)
        for i in range(round(5 * (seconds - 0.8)) + 1)
    ]
    return FileResult(windows=windows, short_clip="hold" if short else None)


def times_of(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [round(1000 * frame.time) for frame in container.decode(video=0) if frame.time is not None]


def test_joined_recordings_are_all_in_the_annotated_film(tmp_path: Path) -> None:
    part = write_clip(tmp_path / "part.ts", frames=25).read_bytes()
    (tmp_path / "film.ts").write_bytes(3 * part)
    write_annotated(tmp_path / "film.ts", tmp_path / "out.mp4", result(3), LABELS)
    assert times_of(tmp_path / "out.mp4") == [40 * i for i in range(75)]


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_long_picture_is_drawn_again_only_where_the_prediction_changes(tmp_path: Path, suffix: str) -> None:
    film = write_clip(tmp_path / "film.mp4", times_ms=[0, 40, 80, 60_000, 60_040])
    write_annotated(film, tmp_path / f"out.{suffix}", result(60, changes_at=30), LABELS)
    times = times_of(tmp_path / f"out.{suffix}")
    assert len(times) <= 7
    assert times[0] == 0
    assert any(abs(at - 800) < 100 for at in times), "the first prediction"
    assert any(abs(at - 30_800) < 200 for at in times), "another prediction"
    assert times[-1] >= 60_000


def test_the_prediction_of_a_short_clip_is_drawn_on_all_of_it(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mp4", frames=10)
    for name, is_short in (("short", True), ("plain", False)):
        write_annotated(film, tmp_path / f"{name}.mp4", result(0.8, short=is_short), LABELS)
    images = []
    for name in ("short", "plain"):
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            images.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    assert np.abs(images[0].astype(int) - images[1]).max() > 50
