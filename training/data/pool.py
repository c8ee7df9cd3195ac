"""Run one function on many jobs in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import cv2

Job = TypeVar("Job")
Result = TypeVar("Result")

MIN_JOBS = 16
"""Below this many jobs, starting processes costs more time than it saves."""


def map_in_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int, chunksize: int = 8
) -> Iterator[Result]:
    """Yield `function(job)` for each of `jobs`, in the order in which the jobs finish.

    `function` must be importable from a module. Each process receives `chunksize` jobs at a time. An exception in a
    process is raised here.
    """
    if workers < 2 or len(jobs) < MIN_JOBS:
        yield from map(function, jobs)
        return
    # OpenCV uses one thread in each process, because the processes already keep all cores busy.
    with multiprocessing.get_context("spawn").Pool(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.imap_unordered(function, jobs, chunksize=chunksize)
