"""The programs of docs/python-api.md that classify run as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.clips import write_clip
from support.repository import ROOT

PROGRAMS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python-api.md").read_text(), re.S)
CLASSIFYING = [program for program in PROGRAMS if "classify(" in program or "open_model(" in program]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    write_clip(folder / "film.mp4", frames=60)
    return folder


@pytest.mark.parametrize("number", range(len(CLASSIFYING)))
def test_a_documented_program_classifies(folder: Path, number: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STREAMCLF_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CLASSIFYING[number]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    labels = ("normal", "covered", "defocused", "moved", "shaking", "flashing", "noise")
    lines = done.stdout.splitlines()
    assert len(lines) >= 5
    assert all(any(label in line for label in labels) for line in lines if not line.startswith("gestures@"))
