"""Find the processes and the journal of a service that runs on this machine, through Linux's /proc.

The page knows the service by its endpoint only. The process that listens there is the service's hub, its parent is the
supervisor, and the supervisor's children are all others. Only processes of the same user can be examined.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from streamclf.net.endpoints import is_loopback_host
from streamclf.runtime.log_tail import TAIL_VARIABLE, read_log_tail
from streamclf.runtime.memory_limit import private_bytes

PROC: Final = Path("/proc")
SAMPLE_S: Final = 1.0
"""Processor time is measured between two samples that are at least so far apart."""
_SEARCH_S: Final = 10.0
"""Shortest time between two searches for the hub of the service: a search examines all processes."""
_LISTEN: Final = "0A"
_HUB_MODULE: Final = "streamclf.hub"
_PREFIX: Final = "streamclf."


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUse:
    """One process of the service. `cpu` is in cores, over the last seconds; None until there are two samples."""

    pid: int
    name: str
    """The kind of process, like capture."""
    subject: str | None
    """The stream or outlet that it serves."""
    cpu: float | None
    memory_bytes: int | None
    """Private memory: without the rings, which processes share."""
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalUse:
    """The journal's file and its disk."""

    path: str
    bytes: int
    disk_bytes: int
    free_bytes: int


class ServiceMachine:
    """The part of a service that can be seen on this machine. Any thread may call it."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._hub: int | None = None
        self._searched_s = -_SEARCH_S
        self._sampled_s = 0.0
        self._times: dict[int, float] = {}
        """Seconds of processor time by process, at the last sample."""
        self._found: list[ProcessUse] = []

    def processes(self) -> list[ProcessUse] | None:
        """Return the processes of the service; None if the service is not on this machine."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._sampled_s < SAMPLE_S:
                return self._found or None
            hub = self._find_hub(now_s)
            if hub is None:
                self._found = []
                return None
            self._found = self._sample(hub, now_s)
            return self._found

    def journal(self) -> JournalUse | None:
        """Return the size of the journal and of its disk; None if the service is not on this machine."""
        with self._lock:
            hub = self._find_hub(time.monotonic())
        path = None if hub is None else _journal_of(hub)
        if path is None:
            return None
        with contextlib.suppress(OSError):
            parts = [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")]
            disk = shutil.disk_usage(Path(path).parent)
            size = sum(part.stat().st_size for part in parts if part.exists())
            return JournalUse(path=path, bytes=size, disk_bytes=disk.total, free_bytes=disk.free)
        return None

    def log_lines(self, count: int) -> list[str] | None:
        """Return the last lines of the service's log, oldest first; None if the service is not on this machine."""
        with self._lock:
            hub = self._find_hub(time.monotonic())
        if hub is None:
            return None
        with contextlib.suppress(OSError):
            for variable in (PROC / str(hub) / "environ").read_bytes().split(b"\0"):
                name, _, value = variable.partition(b"=")
                if name == TAIL_VARIABLE.encode():
                    return read_log_tail(Path(os.fsdecode(value)), count)
        return None

    def _find_hub(self, now_s: float) -> int | None:
        if self._hub is not None and _is_hub(self._hub):
            return self._hub
        self._hub = None
        if now_s - self._searched_s >= _SEARCH_S:
            self._searched_s = now_s
            self._hub = find_hub(self._endpoint)
        return self._hub

    def _sample(self, hub: int, now_s: float) -> list[ProcessUse]:
        supervisor = _parent(hub)
        found, times = [], {}
        for pid in [] if supervisor is None else [supervisor, *_children(supervisor)]:
            with contextlib.suppress(OSError, ValueError, IndexError):
                cpu_s, age_s = _processor_time(pid)
                times[pid] = cpu_s
                before_s = self._times.get(pid)
                elapsed_s = now_s - self._sampled_s
                name, subject = ("supervisor", None) if pid == supervisor else _name(pid)
                use = ProcessUse(
                    pid=pid,
                    name=name,
                    subject=subject,
                    cpu=None if before_s is None else max(0.0, cpu_s - before_s) / elapsed_s,
                    memory_bytes=private_bytes(pid),
                    age_s=age_s,
                )
                found.append(use)
        self._times, self._sampled_s = times, now_s
        return found


def find_hub(endpoint: str) -> int | None:
    """Return the process of the hub that listens at a local endpoint, if this user may examine it."""
    wanted = set(_listening_inodes(endpoint))
    if not wanted:
        return None
    links = {f"socket:[{inode}]" for inode in wanted}
    for pid in _own_processes():
        if _is_hub(pid) and links & set(_open_files(pid)):
            return pid
    return None


def _listening_inodes(endpoint: str) -> Iterator[str]:
    """Yield the inodes of the sockets that listen at a local endpoint."""
    with contextlib.suppress(OSError, ValueError):
        parts = urlsplit(endpoint)
        if parts.scheme == "ipc":
            path = endpoint.removeprefix("ipc://")
            for line in (PROC / "net" / "unix").read_text(errors="replace").splitlines()[1:]:
                fields = line.split(maxsplit=7)
                if len(fields) == 8 and fields[7] == path:
                    yield fields[6]
        elif parts.scheme == "tcp" and is_loopback_host(parts.hostname or ""):
            for table in ("tcp", "tcp6"):
                for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == parts.port:
                        yield fields[9]


def _own_processes() -> Iterator[int]:
    user = os.geteuid()
    for entry in os.scandir(PROC):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (user == 0 or entry.stat().st_uid == user):
                yield int(entry.name)


def _open_files(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(PROC / str(pid) / "fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                yield str(Path(entry.path).readlink())


def _journal_of(hub: int) -> str | None:
    """Return the path of the database that the hub has open, by the file that SQLite keeps beside it."""
    files = set(_open_files(hub))
    return next((path for path in files if f"{path}-wal" in files), None)


def _arguments(pid: int) -> list[str]:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def _is_hub(pid: int) -> bool:
    return _HUB_MODULE in _arguments(pid)


def _name(pid: int) -> tuple[str, str | None]:
    """Return the kind of a child process and the stream or outlet that it serves, which are its arguments."""
    arguments = _arguments(pid)
    module = next((index for index, each in enumerate(arguments) if each.startswith(_PREFIX)), None)
    if module is None:
        return Path(arguments[0]).name if arguments else "?", None
    subject = arguments[module + 1] if module + 1 < len(arguments) else ""
    name = arguments[module].removeprefix(_PREFIX)
    return "outlet" if name == "subscribers" else name, subject or None


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on (proc(5))."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_stat(pid)[1])
    return None


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in (PROC / str(pid) / "task").iterdir():
            found += [int(child) for child in (thread / "children").read_text().split()]
    return sorted(found)


def _processor_time(pid: int) -> tuple[float, float]:
    """Return the seconds of processor time so far, and the age in seconds."""
    fields, ticks = _stat(pid), os.sysconf("SC_CLK_TCK")
    cpu_s = (int(fields[11]) + int(fields[12])) / ticks
    return cpu_s, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / ticks
