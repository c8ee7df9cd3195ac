"""Output that cannot be written, or that its encoding cannot express, ends a command with one line or is escaped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamclf.cli import _main

SHOW_LABELS = """
import sys
from streamclf.cli import main
from streamclf import cli
def fake(arguments):
    from streamclf.errors import StreamclfError
    try:
        print("café 🚗")
        sys.stdout.buffer.flush()
        return 0
    except StreamclfError as error:
        return cli._print_error(error, 1)
cli._main = fake
main()
"""


def run(script: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run `script` in a Python process, with the redirections in `shell`."""
    command = ["/bin/sh", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, script]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("device", [">/dev/full", ">&-"])
@pytest.mark.parametrize("arguments", [["--help"], ["check", "x.yaml"]])
def test_output_that_cannot_be_written_is_one_line_on_stderr(device: str, arguments: list[str]) -> None:
    done = run(f"import sys; sys.argv[1:] = {arguments!r}; from streamclf.cli import main; main()", device)
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1
    if arguments == ["--help"]:
        reason = "No space left on device" if "full" in device else "it is closed"
        assert (done.returncode, lines[0]) == (1, f"streamclf: standard output cannot be written: {reason}")
    else:
        assert done.returncode == 2, "a command that prints nothing on stdout is not disturbed"


def test_a_pipe_whose_reader_has_ended_is_one_line_on_stderr(tmp_path: Path) -> None:
    done = run("import sys; sys.argv[1:] = ['--help']; from streamclf.cli import main; main()", "| true; wait")
    assert b"Traceback" not in done.stderr


def test_characters_that_the_encoding_lacks_are_escaped() -> None:
    done = run(SHOW_LABELS, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"caf\\xe9 \\U0001f697\n", b"")


def test_a_stderr_that_cannot_be_written_does_not_change_the_result() -> None:
    done = run("import sys; sys.argv[1:] = ['check', 'x.yaml']; from streamclf.cli import main; main()", "2>/dev/full")
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


def test_a_file_that_is_opened_later_does_not_become_the_closed_stream(tmp_path: Path) -> None:
    script = f"""
from streamclf.runtime.standard_streams import prepare_standard_streams
prepare_standard_streams()
print(open({str(tmp_path / "events.db")!r}, "w").fileno(), file=open({str(tmp_path / "number")!r}, "w"))
"""
    assert run(script, "<&- >&- 2>&-").returncode == 0
    assert int((tmp_path / "number").read_text()) > 2


def test_control_characters_of_an_error_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(["check", "x\x1b]0;PWNED\x07\n.yaml"]) == 2
    error = capsys.readouterr().err
    assert r"x\x1b]0;PWNED\x07\n.yaml" in error
    assert error.count("\n") == 1
