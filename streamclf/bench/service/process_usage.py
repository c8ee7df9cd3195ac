"""Sample the processor time and memory of a process and its descendants from Linux's /proc."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
MEMORY_EVERY_S: Final = 30.0
"""Time between two samples of memory. The kernel walks all pages of a process for one."""
SETTLE_SHARE: Final = 0.1
MIN_SETTLE_S: Final = 60.0
"""The slope of memory leaves out this share of the measured time at its beginning, and at least so many seconds: caches
fill then."""
_KEYS: Final = ("Rss:", "Pss:")
SUPERVISOR_MODULE: Final = "streamclf.bench.service.service_process"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySample:
    """The memory of a process in MiB at a time in seconds (CLOCK_MONOTONIC).

    `rss_mb` counts every resident page. `pss_mb` divides each page by the number of processes that share it, so the sum
    over all processes is the memory that they need together.
    """

    at_s: float
    rss_mb: float
    pss_mb: float


@dataclass(slots=True, kw_only=True)
class ProcessUsage:
    """Samples of one process: CLOCK_MONOTONIC in seconds, and seconds of processor time so far; and its memory."""

    name: str
    pid: int
    at_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    memory: list[MemorySample] = field(default_factory=list)

    @property
    def cpu_s_per_s(self) -> float:
        """Processor time per second between the first and the last sample; 1 is one core."""
        elapsed_s = self.at_s[-1] - self.at_s[0]
        return (self.cpu_s[-1] - self.cpu_s[0]) / elapsed_s if elapsed_s else 0.0

    @property
    def slope_mb_per_h(self) -> float | None:
        """Slope of the least squares line through `pss_mb`; None if there are too few samples."""
        first_s, last_s = self.memory[0].at_s, self.memory[-1].at_s
        settled_s = first_s + max(MIN_SETTLE_S, SETTLE_SHARE * (last_s - first_s))
        kept = [sample for sample in self.memory if sample.at_s >= settled_s]
        if len(kept) < 2:
            return None
        line = statistics.linear_regression([each.at_s for each in kept], [each.pss_mb for each in kept])
        return line.slope * 3600


class UsageSampler:
    """Sample a process and all its descendants."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._by_pid: dict[int, ProcessUsage] = {}

    def sample(self) -> None:
        """Add one sample of each process that runs now, with its memory if the last sample of that is old."""
        for pid in (self._root, *descendants(self._root)):
            try:
                usage = self._by_pid.get(pid) or ProcessUsage(name=_process_name(pid), pid=pid)
                cpu_s, at_s = _read_cpu_s(pid), time.monotonic()
                if not usage.memory or at_s - usage.memory[-1].at_s >= MEMORY_EVERY_S:
                    usage.memory.append(_read_memory(pid))
            except (OSError, StopIteration):
                continue  # it has just ended
            self._by_pid[pid] = usage
            usage.at_s.append(at_s)
            usage.cpu_s.append(cpu_s)

    def sample_memory(self) -> None:
        """Add one sample of the memory of each process that still runs."""
        for usage in self._by_pid.values():
            with contextlib.suppress(OSError, StopIteration):
                usage.memory.append(_read_memory(usage.pid))

    @property
    def usages(self) -> list[ProcessUsage]:
        """All processes with at least two samples, in the order in which they were found."""
        return [usage for usage in self._by_pid.values() if len(usage.at_s) > 1]


def process_cpu_s(pid: int) -> float:
    """Return the seconds of processor time that a process has used so far; 0 if it has ended."""
    try:
        return _read_cpu_s(pid)
    except OSError:
        return 0.0


def descendants(pid: int) -> Iterator[int]:
    """Yield the process ids of all children, and of their children; nothing if the process has ended."""
    try:
        threads = list((PROC / str(pid) / "task").iterdir())
        children = [child for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield int(child)
        yield from descendants(int(child))


def _read_cpu_s(pid: int) -> float:
    """Return the seconds of processor time so far. Raises `OSError` if the process has ended."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _read_memory(pid: int) -> MemorySample:
    """Return the memory of a process. Raises `OSError` or `StopIteration` if it has ended."""
    lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    rss_mb, pss_mb = (int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024 for key in _KEYS)
    return MemorySample(at_s=time.monotonic(), rss_mb=rss_mb, pss_mb=pss_mb)


def _process_name(pid: int) -> str:
    """Name a process of a service by the module that it runs."""
    arguments = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    module = arguments[2].decode(errors="replace") if len(arguments) > 2 else "?"
    return "supervisor" if module == SUPERVISOR_MODULE else module.rpartition(".")[2]
