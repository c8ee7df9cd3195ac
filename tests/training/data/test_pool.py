"""Many jobs run in several processes, few jobs run in this one, and errors are raised here."""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from training.data.pool import MIN_JOBS, map_in_processes
from training.errors import DataError


@pytest.mark.parametrize("jobs", [range(MIN_JOBS - 1), range(MIN_JOBS + 4)], ids=["few", "many"])
def test_every_job_runs_once(jobs: Sequence[int]) -> None:
    assert sorted(map_in_processes(math.sqrt, jobs, workers=2, chunksize=3)) == [math.sqrt(job) for job in jobs]
    assert multiprocessing.active_children() == []


def test_other_processes_are_used_for_many_jobs() -> None:
    def cannot_be_imported(job: int) -> int:
        return job

    assert list(map_in_processes(cannot_be_imported, range(MIN_JOBS - 1), workers=2)) == list(range(MIN_JOBS - 1))
    assert list(map_in_processes(cannot_be_imported, range(MIN_JOBS), workers=1)) == list(range(MIN_JOBS))
    with pytest.raises((AttributeError, TypeError), match="cannot_be_imported"):
        list(map_in_processes(cannot_be_imported, range(MIN_JOBS), workers=2))


def test_error_in_a_process_is_raised_here_and_no_process_remains() -> None:
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        list(map_in_processes(math.sqrt, [4] * MIN_JOBS + [-1], workers=2))
    assert multiprocessing.active_children() == []


def test_process_that_is_killed_ends_the_call_with_an_error() -> None:
    """The kernel kills a process when memory runs out, and a damaged film may crash a decoder."""
    with pytest.raises(DataError, match=r"a process that decodes or renders clips ended; .*lower data\.workers"):
        list(map_in_processes(os._exit, [1] * MIN_JOBS, workers=2))


def test_jobs_that_ran_when_a_process_was_killed_are_named() -> None:
    jobs = [*["0"] * MIN_JOBS, "__import__('os')._exit(1)", *["0"] * MIN_JOBS]
    with pytest.raises(DataError, match=r"clips ended, while these ran: .*job _exit\(1\).*; if memory ran out"):
        list(map_in_processes(eval, jobs, workers=2, describe=lambda job: f"job {job.rpartition('.')[2]}"))


def test_processes_end_when_the_training_process_is_killed() -> None:
    """The processes inherit the pipe of stdout, so that its end is reached only when the last of them has ended."""
    code = (
        "import os, time; from training.data.pool import map_in_processes\n"
        "if __name__ == '__main__':\n"
        "    results = map_in_processes(time.sleep, [0.0] * 2 + [300.0] * 30, workers=2, chunksize=1)\n"
        "    next(results), next(results); os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=False)
    assert killed.returncode == -9
