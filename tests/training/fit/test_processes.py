"""Processes that train together end together, with one line that says why. A double stands in for the training."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from support.clip_recipes import clip_recipe_tree
from support.repository import ROOT

from training.fit.processes import _watch

DEADLINE_S = 240.0  # beside a training, the real one took 221 s to its first checkpoint on two cores
PROCESSES = 3
CONTINUES = "the same command continues from the last validation"
DOUBLE = """
import ctypes, os, sys, time
from pathlib import Path
from types import SimpleNamespace

from streamclf.runtime.interrupts import catch_interrupts, exit_interrupted, is_interrupted
from training.errors import DataError, print_error
from training.fit import processes
from training.fit.processes import training_processes


def wait_for(condition):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def train(recipe, run):
    if recipe.case in ("echo", "error everywhere"):
        processes.ECHO_S = 60  # another process ends the wait, however late it runs on a busy machine
    with training_processes(train, recipe, run):
        rank = os.environ["RANK"]
        (run / f"{rank}.partial").write_text(str(os.getpid()))
        (run / f"{rank}.partial").rename(run / rank)
        wait_for(lambda: (run / "go").exists())
        (run / f"{rank}.{recipe.case}").touch()
        if recipe.case == "wait":
            time.sleep(300)
        elif recipe.case == "blocked":
            mutex = ctypes.create_string_buffer(64)
            for _ in range(2):  # locking it again waits without end, also after a signal
                ctypes.CDLL(None).pthread_mutex_lock(mutex)
        elif recipe.case == "error everywhere" or (recipe.case, rank) == ("error", "1"):
            raise DataError("clips.csv: damaged")
        elif recipe.case == "error":
            time.sleep(300)
        elif recipe.case == "echo":
            wait_for(lambda: (run / "killed").exists())
            raise RuntimeError("Connection closed by peer")


def main(case, run):
    catch_interrupts("training", sigterm=True)
    try:
        train(SimpleNamespace(processes=3, case=case), Path(run))
    except DataError as error:
        sys.exit(print_error(error, place=run))
    except BaseException:
        if is_interrupted():
            exit_interrupted()
        raise
    assert "RANK" not in os.environ
"""


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def running(arguments: list[str], folder: Path, files: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run Python, and wait until it has written `files` into `folder`."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_interrupts,
    )
    try:
        wait_for_files(process, folder, files)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_files(process: subprocess.Popen[str], folder: Path, files: Sequence[str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not all((folder / file).exists() for file in files):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def training(case: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the double, and let its processes go on when all of them train."""
    (folder / "training_double.py").write_text(DOUBLE)
    code = f"import training_double; training_double.main({case!r}, {str(folder)!r})"
    with running(["-c", code], folder, [str(rank) for rank in range(PROCESSES)]) as process:
        (folder / "go").touch()
        yield process


def pid_of(rank: int, folder: Path) -> int:
    return int((folder / str(rank)).read_text())


def result(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit code and the text on stderr, which ends only when the last process has ended."""
    _, errors = process.communicate(timeout=DEADLINE_S)
    return process.returncode, errors


def test_all_processes_end_after_the_training(tmp_path: Path) -> None:
    with training("success", tmp_path) as process:
        assert result(process) == (0, "")
    assert len({pid_of(rank, tmp_path) for rank in range(PROCESSES)}) == PROCESSES


def test_a_killed_process_ends_all_with_one_line(tmp_path: Path) -> None:
    with training("wait", tmp_path) as process:
        os.kill(pid_of(1, tmp_path), signal.SIGKILL)
        code, errors = result(process)
    assert code == 1
    assert errors == (
        f"training: process 2 of 3 (pid {pid_of(1, tmp_path)}) was ended by SIGKILL "
        f"(if memory ran out, lower optimiser.batch, num_workers or processes); {CONTINUES}\n"
    )


def test_an_error_that_the_end_of_another_process_causes_is_not_printed(tmp_path: Path) -> None:
    with training("echo", tmp_path) as process:
        os.kill(pid_of(2, tmp_path), signal.SIGSEGV)
        (tmp_path / "killed").touch()
        code, errors = result(process)
    assert code == 1
    assert errors == f"training: process 3 of 3 (pid {pid_of(2, tmp_path)}) was ended by SIGSEGV; {CONTINUES}\n"


def test_the_others_end_after_the_first_process_was_killed(tmp_path: Path) -> None:
    with training("wait", tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        code, errors = result(process)
    assert code == -signal.SIGKILL
    assert errors == f"training: process 1 of 3 (pid {process.pid}) has ended; {CONTINUES}\n"


class EndsBetweenTwoLooks:
    """A process whose sentinel is closed before the operating system reports its end, as it happens."""

    def __init__(self) -> None:
        self.sentinel, write_end = os.pipe()
        os.close(write_end)
        self._codes = [None, 1]

    @property
    def exitcode(self) -> int | None:
        return self._codes.pop(0) if len(self._codes) > 1 else self._codes[0]

    def kill(self) -> None:
        pass


def test_a_process_that_ends_between_two_looks_ends_process_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def end() -> None:
        raise SystemExit

    monkeypatch.setattr("training.fit.processes._exit", end)
    other = EndsBetweenTwoLooks()
    with pytest.raises(SystemExit):
        _watch([other], threading.Event())  # type: ignore[list-item]
    os.close(other.sentinel)


@pytest.mark.parametrize("case", ["error", "error everywhere"])
def test_an_error_is_printed_once(case: str, tmp_path: Path) -> None:
    with training(case, tmp_path) as process:
        assert result(process) == (1, "training: clips.csv: damaged\n")


ENDS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")]


@pytest.mark.parametrize(("number", "expected", "words"), ENDS)
def test_a_signal_ends_all_processes_with_one_line(
    number: signal.Signals, expected: int, words: str, tmp_path: Path
) -> None:
    with training("wait", tmp_path) as process:
        os.killpg(process.pid, number)
        assert result(process) == (expected, f"training: {words}\n")


@pytest.mark.parametrize("case", ["wait", "blocked"])
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_of_one_process_ends_all_with_one_line(rank: int, case: str, tmp_path: Path) -> None:
    """Python runs no handler of a signal while the main thread is blocked in a library."""
    with training(case, tmp_path) as process:
        wait_for_files(process, tmp_path, [f"{rank}.{case}" for rank in range(PROCESSES)])
        os.kill(pid_of(rank, tmp_path), signal.SIGTERM)
        assert result(process) == (143, "training: ended by SIGTERM\n")


@pytest.mark.parametrize(
    ("processes", "send", "end"),
    [(2, os.killpg, ENDS[0]), (1, os.kill, ENDS[1]), (2, os.kill, ENDS[1]), (2, os.killpg, ENDS[1])],
)
def test_a_signal_ends_a_real_training_with_one_line(
    processes: int,
    send: Callable[[int, int], None],
    end: tuple[signal.Signals, int, str],
    films: Path,
    tmp_path: Path,
) -> None:
    """A process that is connected to another one waits for it in the interpreter's own exit handlers."""
    number, expected, words = end
    recipe = tmp_path / "recipe.yaml"
    tree = clip_recipe_tree(films, processes=processes, num_workers=1, optimiser={"steps": 100_000})
    recipe.write_text(yaml.safe_dump(tree))
    command = ["-m", "training", "train", str(recipe), "--run", str(tmp_path / "run")]
    with running(command, tmp_path, ["run/last.ckpt"]) as process:
        send(process.pid, number)
        code, errors = result(process)
    assert code == expected, errors
    last = errors.splitlines()[-1]
    assert re.fullmatch(rf"training: {words}; step \d+ of 100000; {CONTINUES}", last), errors
    assert errors.count("training: ") == 1, errors
    assert "Traceback" not in errors


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or later")
def test_large_blocks_stay_in_the_process() -> None:
    """A block of 8 MiB is mapped alone by default, so that its release returns it to the operating system."""
    program = """
import ctypes, sys
from training.fit.processes import keep_freed_memory

class Counts(ctypes.Structure):  # struct mallinfo2 of malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keep")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype = Counts, ctypes.c_void_p
if sys.argv[1] == "keep":
    keep_freed_memory()
before = libc.mallinfo2().hblks
assert libc.malloc(8 << 20)
print(libc.mallinfo2().hblks - before)
"""
    mapped = {
        mode: int(subprocess.run([sys.executable, "-c", program, mode], capture_output=True, check=True).stdout)
        for mode in ("default", "keep")
    }
    assert mapped == {"default": 1, "keep": 0}
