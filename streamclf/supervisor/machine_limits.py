"""Compare what the processes need with their limits: file descriptors, shared memory and private memory."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator

from streamclf.errors import ConfigError
from streamclf.runtime.memory_limit import private_bytes
from streamclf.runtime.shared_memory import available_bytes
from streamclf.supervisor.child import Child
from streamclf.supervisor.stream_plan import Geometry
from streamclf.windows.ring import RESERVE_BYTES

SUPERVISOR_FDS = (192, 6)
"""Descriptors of the process itself and its outlets, and of each stream: its ring, four pipe ends, the control socket.

Each of at most 25 outlets has a control socket and a pipe.
"""
CLASSIFIER_FDS = (256, 3)
HUB_FDS = (256, 4)
"""For each stream: two connections of its capture process, and two subscribers."""


def needed_descriptors(streams: int) -> int:
    """Return the file descriptors of the process that needs most of them."""
    return max(base + each * streams for base, each in (SUPERVISOR_FDS, CLASSIFIER_FDS, HUB_FDS))


def raise_descriptor_limit(streams: int) -> None:
    """Raise the soft limit, which children inherit, to what `streams` need; `ConfigError` where that is forbidden."""
    need = needed_descriptors(streams)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
    except (OSError, ValueError):
        raise ConfigError(
            f"streams: {streams} streams need {need} file descriptors, and at most {hard} are allowed here; "
            "raise the limit (ulimit -Hn, LimitNOFILE= in systemd, --ulimit nofile= in Docker) or serve fewer streams"
        ) from None


def check_memory(new_streams: int, geometry: Geometry) -> None:
    """Raise `ConfigError` unless the rings of `new_streams` more streams fit into memory."""
    available = available_bytes()
    need = new_streams * geometry.ring_bytes
    if available is not None and need > max(0, available - RESERVE_BYTES):
        raise ConfigError(
            f"streams: {new_streams} more streams need {need / 2**20:.1f} MiB of shared memory, and "
            f"{max(0, available - RESERVE_BYTES) / 2**20:.0f} MiB are free for it; serve fewer streams on this "
            "machine, or give it (or its container) more memory"
        )


def find_oversized(children: Iterable[Child]) -> Iterator[tuple[Child, str]]:
    """Find the running children that use more private memory than their job allows; return each with the reason."""
    for child in children:
        limit = child.job.memory_limit if child.job else None
        if limit is None or child.pid is None or not child.running:
            continue
        used = private_bytes(child.pid)
        if used is not None and used > limit:
            yield child, memory_reason(limit)


def memory_reason(limit: int) -> str:
    """Say that a process took more than its `limit` in bytes, and how to raise it."""
    return f"took more than {limit / 10**6:.0f} MB of memory; if its work needs more, raise memory_limit"
