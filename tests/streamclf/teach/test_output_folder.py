"""A bundle takes its place whole, also after a process was killed, and beside a second process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streamclf.teach.output_folder import new_folder

_KILLED = """
import os, signal, sys
from pathlib import Path
from streamclf.teach import output_folder
exchange = os.rename
def rename(source, target):
    exchange(source, target)
    if sys.argv[2] == "exchange":
        os.kill(os.getpid(), signal.SIGKILL)
output_folder.Path.rename = rename
with output_folder.new_folder(Path(sys.argv[1])) as folder:
    (folder / "spec.json").write_text("new")
    if sys.argv[2] == "write":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["write", "exchange"])
def test_a_killed_process_leaves_the_old_bundle_and_no_folder(moment: str, tmp_path: Path) -> None:
    """In a container the next process often has the same number as the killed one."""
    output = tmp_path / "yard"
    output.mkdir()
    (output / "spec.json").write_text("old")
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(output), moment], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (path for path in tmp_path.iterdir() if path != output)
    left.rename(left.with_name(f".teach-{os.getpid()}-yard"))
    with new_folder(tmp_path / "other") as folder:
        assert (output / "spec.json").read_text() == "old"
        assert {path.name for path in tmp_path.iterdir()} == {"yard", folder.parent.name}
    assert {path.name for path in tmp_path.iterdir()} == {"yard", "other"}


def test_two_processes_with_the_same_output_do_not_remove_each_others_work(tmp_path: Path) -> None:
    output = tmp_path / "yard"
    with new_folder(output) as first:
        (first / "spec.json").write_text("first")
        with new_folder(output) as second:
            (second / "spec.json").write_text("second")
        assert (output / "spec.json").read_text() == "second"
    assert (output / "spec.json").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["yard"]
