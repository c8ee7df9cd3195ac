"""A process cannot exceed its memory limit, and others can read how much memory it has."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streamclf.runtime.memory_limit import RESERVE_BYTES, private_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA and /proc are Linux's")

MB = 10**6
PROGRAM = """
import sys
from streamclf.runtime.memory_limit import limit_own_memory
limit_own_memory(int(sys.argv[1]))
try:
    kept = bytes(int(sys.argv[2]))
except MemoryError:
    sys.exit(71)
"""


@pytest.mark.parametrize(("allocated", "code"), [(100 * MB, 0), (400 * MB + RESERVE_BYTES, 71)])
def test_an_allocation_beyond_the_limit_fails(allocated: int, code: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(300 * MB), str(allocated)]
    assert subprocess.run(command, check=False, timeout=60).returncode == code


def test_private_memory_includes_what_was_written_and_not_what_is_shared() -> None:
    """A process of its own measures: in this one, memory of other tests may be freed meanwhile."""
    code = (
        "import os, numpy as np; from streamclf.runtime.memory_limit import private_bytes\n"
        f"before = private_bytes(os.getpid()); written = np.ones({50 * MB}, np.uint8)\n"
        "print(private_bytes(os.getpid()) - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout
    assert 40 * MB < int(grown) < 60 * MB


def test_a_process_that_has_ended_has_no_memory() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(60)
    assert private_bytes(ended.pid) is None
