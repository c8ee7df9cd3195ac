"""The same work on many things, by several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import cv2

Job = TypeVar("Job")
Result = TypeVar("Result")

WORTH_IT = 16
"""Jobs; a process takes longer to start than fewer of them to do."""


def pooled(work: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int, at_once: int = 8) -> Iterator[Result]:
    """What `work` gives for each of `jobs`, in the order in which they are done; `at_once`: handed over together.

    `work` is a function of a module, which the processes can import. What it raises is raised here.
    """
    if workers < 2 or len(jobs) < WORTH_IT:
        yield from map(work, jobs)
        return
    # Each with OpenCV on one thread: the processes are what keeps the cores busy.
    with multiprocessing.get_context("spawn").Pool(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.imap_unordered(work, jobs, chunksize=at_once)
