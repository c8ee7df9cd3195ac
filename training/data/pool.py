"""Run one function on many jobs in several processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import cv2

from engines.printable import printable
from streamclf.runtime.signals import without_interrupts
from training.errors import DataError

Job = TypeVar("Job")
Result = TypeVar("Result")

MIN_JOBS = 16
"""Below this many jobs, starting processes costs more time than it saves."""
_ECHO_S = 1.0
"""How long a process with an error waits for the end of the training process, which may have caused the error."""


def map_in_processes(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    chunksize: int = 8,
    describe: Callable[[Job], str] | None = None,
) -> Iterator[Result]:
    """Yield `function(job)` for each of `jobs`, in their order.

    `function` must be importable from a module. Each process receives `chunksize` jobs at a time. An exception in a
    process is raised here. Raises `DataError` where a process is killed; with `describe`, it names the jobs that ran.
    """
    if workers < 2 or len(jobs) < MIN_JOBS:
        yield from map(function, jobs)
        return
    # A function that cannot be sent would end a thread of the pool (Python 3.11), and its processes would never end.
    pickle.dumps(function)
    context = multiprocessing.get_context("spawn")
    started, running = context.Value("i", 0), context.RawArray("q", workers)
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_prepare_worker, initargs=(started, running)
    ) as pool:
        try:
            with starting_processes():
                results = pool.map(partial(_run, function), range(1, len(jobs) + 1), jobs, chunksize=chunksize)
            yield from results
        except BrokenProcessPool as error:
            named = ""
            if describe is not None:
                named = ", ".join(printable(describe(jobs[number - 1])) for number in sorted(running) if number)
            raise DataError(
                f"a process that decodes or renders clips ended{named and f', while these ran: {named}'}; if memory "
                "ran out, lower data.workers, or else data.workers: 0 shows the error. The same command continues"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def starting_processes() -> Iterator[None]:
    """Block SIGINT while the context starts processes: they import for seconds, and Ctrl-C would interrupt them."""
    resource_tracker.ensure_running()  # otherwise the first process starts it, and that unblocks SIGINT
    with without_interrupts():
        yield


_running: Any = None
"""Of each process of the pool, the number of the job that it runs, counted from 1; 0 while it runs none."""
_place = 0
"""The index of this process in `_running`."""


def _prepare_worker(started: Any, running: Any) -> None:
    global _running, _place
    prepare_process()
    with started.get_lock():
        _running, _place = running, started.value
        started.value += 1


def _run(function: Callable[[Job], Result], number: int, job: Job) -> Result:
    _running[_place] = number
    result = function(job)
    _running[_place] = 0
    return result


def prepare_process(*_: object) -> None:
    """Prepare a process that works for a training process, and ends with it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.excepthook = _report_error
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process handles Ctrl-C
    cv2.setNumThreads(1)  # the processes already keep all cores busy


def _report_error(*error: Any) -> None:
    """Print an error that nothing has caught, unless the end of the training process has caused it.

    PyTorch's thread that hands tensors over would print one if that process is killed meanwhile.
    """
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join(_ECHO_S)
        if not parent.is_alive():
            os._exit(1)
    sys.__excepthook__(*error)


def _end_with_parent() -> None:
    """End this process when the training process has ended, also where that was killed: nothing reads the results."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
