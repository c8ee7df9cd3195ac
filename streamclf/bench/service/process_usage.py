"""Sample the processor time and memory of a process and its descendants from Linux's /proc."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
MIB: Final = 1 << 20
MIN_SLOPE_S: Final = 60.0
"""Over a shorter time, the growth of memory shows caches that fill."""
SUPERVISOR_MODULE: Final = "streamclf.bench.service.service_process"


@dataclass(slots=True, kw_only=True)
class ProcessUsage:
    """Samples of one process: CLOCK_MONOTONIC in seconds, resident MiB, and seconds of processor time so far."""

    name: str
    pid: int
    at_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    @property
    def cpu_s_per_s(self) -> float:
        """Processor time per second between the first and the last sample; 1 is one core."""
        elapsed_s = self.at_s[-1] - self.at_s[0]
        return (self.cpu_s[-1] - self.cpu_s[0]) / elapsed_s if elapsed_s else 0.0

    @property
    def slope_mb_per_h(self) -> float | None:
        """Slope of the least squares line through the memory; None if the samples span too little time."""
        if self.at_s[-1] - self.at_s[0] < MIN_SLOPE_S:
            return None
        return statistics.linear_regression(self.at_s, self.rss_mb).slope * 3600


class UsageSampler:
    """Sample a process and all its descendants."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._by_pid: dict[int, ProcessUsage] = {}

    def sample(self) -> None:
        """Add one sample of each process that runs now."""
        for pid in (self._root, *descendants(self._root)):
            try:
                rss_mb, cpu_s = _read_usage(pid)
                usage = self._by_pid.get(pid) or ProcessUsage(name=_process_name(pid), pid=pid)
            except OSError:
                continue  # it has just ended
            self._by_pid[pid] = usage
            usage.at_s.append(time.monotonic())
            usage.rss_mb.append(rss_mb)
            usage.cpu_s.append(cpu_s)

    @property
    def usages(self) -> list[ProcessUsage]:
        """All processes with at least two samples, in the order in which they were found."""
        return [usage for usage in self._by_pid.values() if len(usage.at_s) > 1]


def process_cpu_s(pid: int) -> float:
    """Return the seconds of processor time that a process has used so far; 0 if it has ended."""
    try:
        return _read_usage(pid)[1]
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


def _read_usage(pid: int) -> tuple[float, float]:
    """Return (resident MiB, seconds of processor time so far). Raises `OSError` if the process has ended."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    pages = int((PROC / str(pid) / "statm").read_text().split()[1])
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB, cpu_s


def _process_name(pid: int) -> str:
    """Name a process of a service by the module that it runs."""
    arguments = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    module = arguments[2].decode(errors="replace") if len(arguments) > 2 else "?"
    return "supervisor" if module == SUPERVISOR_MODULE else module.rpartition(".")[2]
