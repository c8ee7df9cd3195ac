"""What the processes of a service take: processor time and memory, from Linux's /proc."""

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
"""Over a shorter time a slope of memory is that of caches which fill."""


@dataclass(slots=True, kw_only=True)
class ProcessUsage:
    """Samples of one process: seconds (monotonic), resident MiB, and seconds of processor time so far."""

    name: str
    pid: int
    at_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    @property
    def cpu_s_per_s(self) -> float:
        """Of one processor, between the first and the last sample."""
        took_s = self.at_s[-1] - self.at_s[0]
        return (self.cpu_s[-1] - self.cpu_s[0]) / took_s if took_s else 0.0

    @property
    def slope_mb_per_h(self) -> float | None:
        """Of the least squares line through its memory; None where too little of it was seen."""
        if self.at_s[-1] - self.at_s[0] < MIN_SLOPE_S:
            return None
        return statistics.linear_regression(self.at_s, self.rss_mb).slope * 3600


class UsageSampler:
    """Samples a process and all below it."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._seen: dict[int, ProcessUsage] = {}

    def sample(self) -> None:
        """Look at all of them now."""
        for pid in (self._root, *descendants(self._root)):
            try:
                stat = (PROC / str(pid) / "stat").read_text()
                pages = int((PROC / str(pid) / "statm").read_text().split()[1])
                usage = self._seen.get(pid) or ProcessUsage(name=_name(pid), pid=pid)
            except OSError:
                continue  # it has just ended
            fields = stat.rpartition(")")[2].split()
            self._seen[pid] = usage
            usage.at_s.append(time.monotonic())
            usage.rss_mb.append(pages * os.sysconf("SC_PAGE_SIZE") / MIB)
            usage.cpu_s.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))

    @property
    def usages(self) -> list[ProcessUsage]:
        """All that were there for at least two samples, in the order in which they were found."""
        return [usage for usage in self._seen.values() if len(usage.at_s) > 1]


def process_cpu_s(pid: int) -> float:
    """Seconds of processor time of one process so far; 0 for one that is gone."""
    meter = UsageSampler(pid)
    meter.sample()
    return meter._seen[pid].cpu_s[-1] if pid in meter._seen else 0.0


def _name(pid: int) -> str:
    """What it is in a service: the module that it runs."""
    arguments = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    module = arguments[2].decode(errors="replace") if len(arguments) > 2 else "?"
    return {"streamclf.bench.service.service_process": "supervisor"}.get(module, module.rpartition(".")[2])


def descendants(pid: int) -> Iterator[int]:
    """Process ids of all below it, children of children too; none for one that is gone."""
    try:
        threads = list((PROC / str(pid) / "task").iterdir())
        children = [child for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield int(child)
        yield from descendants(int(child))
