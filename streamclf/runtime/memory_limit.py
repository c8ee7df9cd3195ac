"""Limit the private memory of a process: the kernel refuses more to it, and others can read how much it has."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from pathlib import Path

RESERVE_BYTES = 256 * 10**6
"""Room above a limit for memory that is reserved but never used, such as the stacks of threads, 8 MB each."""


def limit_own_memory(limit: int) -> None:
    """Let allocations fail that would bring this process `limit` bytes, and a reserve, above its present memory.

    The limit concerns private memory (`RLIMIT_DATA`), not the rings, which processes share. Where the system has no
    such limit, nothing changes.
    """
    if sys.platform != "linux":
        return
    wanted = _reserved_bytes() + limit + RESERVE_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def private_bytes(pid: int) -> int | None:
    """Return the private memory in use by a process; None if it has ended or the system does not report it."""
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        Path(f"/proc/{pid}/statm").open(encoding="ascii") as file,
    ):
        _, resident, shared = file.read().split()[:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    return None


def _reserved_bytes() -> int:
    """Return the private memory that this process has mapped, in use or not."""
    with Path("/proc/self/status").open(encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0
