"""What a process takes, from /proc; 0 for one that is gone."""

from __future__ import annotations

import os
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Resident memory, shared pages included."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def cpu_s(pid: int) -> float:
    """Processor time so far, of all threads."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def descriptors(pid: int) -> int:
    """Open file descriptors."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0


def wakes(pid: int, thread: int | None = None) -> int:
    """How often its threads, or that one, have gone to sleep so far, and so were woken."""
    tasks = Path(f"/proc/{pid}/task")
    try:
        texts = [(task / "status").read_text() for task in tasks.glob("*" if thread is None else str(thread))]
    except OSError:
        return 0
    return sum(int(text.split("voluntary_ctxt_switches:")[1].split()[0]) for text in texts)
