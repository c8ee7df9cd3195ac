"""A process cannot exceed its memory limit, and others can read how much memory it has."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
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
    before = private_bytes(os.getpid())
    assert before is not None
    written = np.ones(50 * MB, np.uint8)
    after = private_bytes(os.getpid())
    assert after is not None
    assert 40 * MB < after - before < 60 * MB
    del written


def test_a_process_that_has_ended_has_no_memory() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(60)
    assert private_bytes(ended.pid) is None
