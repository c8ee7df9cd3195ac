"""Start the processes 2 to N of a recipe's `processes: N`, and end all of them when one of them fails.

Process 1 is the one that the user has started. It watches the others, and each of the others watches process 1. A
process alone would wait for the others without end, or print an error of the library that connects them.
torchrun and Ray start and watch processes themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

from streamclf.redact import redact_uncaught_errors
from streamclf.runtime.interrupts import CLEANUP_S, is_interrupted
from training.data.pool import starting_processes
from training.errors import TrainingError, print_error

if TYPE_CHECKING:
    from training.recipe import Recipe

Train: TypeAlias = "Callable[[Recipe, Path], object]"

CONTINUES: Final = "the same command continues from the last validation"
ECHO_S: Final = 2.0
"""How long a process with an error waits. If another process caused the error, this one is ended meanwhile."""
END_S: Final = 60.0
"""How long process 1 waits at the end of the training until the others have ended."""
_CHECK_S: Final = 1.0
_KEEP: Final = {-1: 1 << 30, -2: 64 << 20, -3: 32 << 20}
"""M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of malloc.h, in bytes; the last one has its largest value."""
_RUN_ID: Final = "TORCHELASTIC_RUN_ID"
"""Set by torchrun and Ray, and by this module: the process is one of several, with a number in `RANK`."""


def keep_freed_memory() -> None:
    """Let the C library keep memory that PyTorch frees, up to 1 GiB, for the next step.

    By default, glibc returns each large block to the operating system, which fills its pages with zeros each time it is
    allocated again: a tenth of a small network's time on a CPU. Does nothing with another C library.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no glibc: macOS, musl, Windows
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _KEEP.items():
            mallopt(parameter, value)


@contextlib.contextmanager
def training_processes(train: Train, recipe: Recipe, run: Path) -> Iterator[None]:
    """Let `recipe.processes` - 1 other processes call `train(recipe, run)` while the block does the same work.

    `train` must be importable from a module. If one of the processes fails, all others end, this one with exit code 1.
    """
    if recipe.processes == 1 or _RUN_ID in os.environ:
        yield
        return
    others: list[SpawnProcess] = []
    is_over = threading.Event()
    with _variables_of_torchrun(recipe.processes):
        try:
            others.extend(_start(number, train, recipe, run) for number in range(1, recipe.processes))
            watcher = threading.Thread(target=_watch, args=(others, is_over), daemon=True)
            watcher.start()
            try:
                yield
            except TrainingError:
                raise
            except Exception:
                watcher.join(ECHO_S)
                raise
            is_over.set()
            for other in others:
                other.join(END_S)
        finally:
            is_over.set()
            for other in others:
                other.kill()


def _start(number: int, train: Train, recipe: Recipe, run: Path) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(train, recipe, run))
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(number)
    with starting_processes():  # process 1 handles Ctrl-C
        process.start()
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0"
    return process


def process_counts() -> tuple[int, int]:
    """Count the processes that train together: on this machine, and on all machines."""
    if _RUN_ID not in os.environ:
        return 1, 1
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def _variables_of_torchrun(processes: int) -> Iterator[None]:
    """Set the variables by which Lightning knows the processes that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {
        _RUN_ID: "training",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0",
        "RANK": "0",
        "LOCAL_RANK": "0",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _watch(others: Sequence[SpawnProcess], is_over: threading.Event) -> None:
    """End process 1 when another process has failed: its main thread may wait for that process inside a library."""
    running = list(others)
    while running:
        connection.wait([other.sentinel for other in running], _CHECK_S)
        if is_over.is_set() or is_interrupted():
            return
        # Ask each process once: a second question may be the first one that finds it ended.
        codes = {other: other.exitcode for other in running}
        for other, code in codes.items():
            if code:
                if code == -signal.SIGTERM:  # a service manager sends it to all processes: end by it as well
                    os.kill(os.getpid(), signal.SIGTERM)
                    if is_over.wait(2 * CLEANUP_S):
                        return
                if code < 0:  # otherwise it has printed its error
                    _print(f"process {others.index(other) + 2} of {len(others) + 1} {end_of(other)}")
                for each in others:
                    each.kill()
                _exit()
        running = [other for other, code in codes.items() if code is None]


def _run(train: Train, recipe: Recipe, run: Path) -> None:
    """Train in one of the processes 2 to N."""
    redact_uncaught_errors()
    threading.Thread(target=_end_with_first, args=(recipe.processes,), daemon=True).start()
    try:
        train(recipe, run)
    except Exception as error:  # noqa: BLE001 - the last place where it can be reported
        time.sleep(2 * ECHO_S)  # process 1 often has the same error. It then ends this process before it prints.
        if print_error(error, place=run) is None:
            sys.excepthook(type(error), error, error.__traceback__)
        _exit()


def _end_with_first(processes: int) -> None:
    """End this process when process 1 has ended, also where that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    while parent.is_alive():
        parent.join(_CHECK_S)
    if os.environ["RANK"] == "1":
        _print(f"process 1 of {processes} (pid {parent.pid}) has ended")
    _exit()


def end_of(process: BaseProcess) -> str:
    """Say how `process`, which has ended, has ended, and what helps."""
    code = process.exitcode or 0
    if code >= 0:
        return f"(pid {process.pid}) ended with exit code {code}"
    is_memory = -code in (signal.SIGKILL, signal.SIGBUS)
    hint = " (if memory ran out, lower optimiser.batch, num_workers or processes)" if is_memory else ""
    return f"(pid {process.pid}) was ended by {signal.Signals(-code).name}{hint}"


def _print(text: str) -> None:
    os.write(2, f"training: {text}; {CONTINUES}\n".encode())


def _exit() -> NoReturn:
    """End at once. Exit handlers could wait for a process that has ended."""
    sys.stderr.flush()
    os._exit(1)
