"""Read the resources that a process uses from /proc; 0 for a process that has ended."""

from __future__ import annotations

import os
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Return the resident memory in bytes, including shared pages."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def cpu_s(pid: int) -> float:
    """Return the processor time of all threads so far, in seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def descriptors(pid: int) -> int:
    """Return the number of open file descriptors."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0


def wakes(pid: int, thread: int | None = None) -> int:
    """Return how often the threads of the process, or one `thread`, have gone to sleep so far and so were woken."""
    tasks = Path(f"/proc/{pid}/task")
    try:
        texts = [(task / "status").read_text() for task in tasks.glob("*" if thread is None else str(thread))]
    except OSError:
        return 0
    return sum(int(text.split("voluntary_ctxt_switches:")[1].split()[0]) for text in texts)
