"""All programs of docs/python-api.md are strictly typed. `make check` runs this after mypy, whose cache it needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.repository import ROOT

PROGRAMS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python-api.md").read_text(), re.DOTALL)


def test_all_documented_programs_are_strictly_typed(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    files = []
    for number, program in enumerate(PROGRAMS):
        files.append(tmp_path / f"program{number}.py")
        files[-1].write_text(program)
    assert files
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout
