"""`python -m training windows` writes the pixels that the model receives, for `streamclf compile`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.bundles import LABELS, make_brightness_bundle
from support.labelled import write_film, write_list
from typer.testing import CliRunner

from engines.bundle import Bundle
from engines.graphs.quantise import load_windows
from training.__main__ import app
from training.errors import DataError, RunError
from training.export.int8_windows import write_windows

GREY = {LABELS[0]: 40, LABELS[1]: 210}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_brightness_bundle(tmp_path_factory.mktemp("bundle") / "brightness")


@pytest.fixture(scope="module")
def data(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three clips of each label, one of them for validation; each has two windows."""
    folder, spec = tmp_path_factory.mktemp("data"), bundle.spec
    frames = 2 * spec.chunks * spec.frames_per_chunk
    rows = []
    for label, grey in GREY.items():
        for i in range(3):
            name = f"{label}_{i}.mp4"
            grey_frames = np.full((frames, spec.height, spec.width, 3), grey + i, np.uint8)
            write_film(folder / name, grey_frames, fps=round(spec.fps))
            rows.append((name, label, "val" if i == 2 else "train", f"{label}{i}"))
    return write_list(folder / "clips.csv", rows)


def test_each_class_has_its_share_with_its_own_pixels(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    written = write_windows(bundle.path, data, tmp_path / "w.npz", split="train", count=6)
    assert written == {"model": bundle.spec.id, "windows": 6, LABELS[0]: 3, LABELS[1]: 3}
    windows = load_windows(tmp_path / "w.npz", bundle.spec)
    assert windows.labels is not None
    for window, label in zip(windows.frames, windows.labels, strict=True):
        assert abs(float(window.mean()) - GREY[LABELS[label]]) < 6


def test_small_split_gives_all_its_windows(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    few = write_windows(bundle.path, data, tmp_path / "w.npz", split="val", count=100)
    every = write_windows(bundle.path, data, tmp_path / "w.npz", count=100)  # replaces the file
    assert 0 < few["windows"] < every["windows"] < 100


def test_command_prints_json(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    command = [
        "windows",
        str(bundle.path),
        "--data",
        str(data),
        "--count",
        "2",
        "-o",
        str(tmp_path / "w.npz"),
        "--json",
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert '"windows": 2' in result.stdout


def test_wrong_arguments_are_named(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--split test: no clip of it"):
        write_windows(bundle.path, data, tmp_path / "w.npz", split="test")
    with pytest.raises(DataError, match=r"--count 10000000: .* GB of pixels"):
        write_windows(bundle.path, data, tmp_path / "w.npz", count=10_000_000)
    with pytest.raises(DataError, match="folder with clips/ and fight/"):
        write_windows(bundle.path, data.parent, tmp_path / "w.npz", disturbed=True)
    with pytest.raises(RunError, match="no such directory"):
        write_windows(tmp_path / "nothing", data, tmp_path / "w.npz")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_windows(bundle.path, data, tmp_path / "file" / "w.npz")
    assert not list(tmp_path.glob("**/.w.npz*"))
