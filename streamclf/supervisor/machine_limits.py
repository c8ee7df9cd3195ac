"""Compare what the processes need with their limits: file descriptors, shared memory and private memory."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Iterable, Iterator

from streamclf.config.source import GPU_DEVICES
from streamclf.errors import ConfigError
from streamclf.runtime.memory_limit import private_bytes
from streamclf.runtime.shared_memory import available_bytes
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.child import Child
from streamclf.supervisor.engine_groups import Geometry
from streamclf.supervisor.stream_plan import count_rings
from streamclf.windows.ring import RESERVE_BYTES

SUPERVISOR_FDS = (192, 1, 5)
"""Descriptors of the process itself, its classifiers and its outlets, of each stream, and of each ring.

A stream has a control socket; a ring has its memory and four pipe ends. Each of at most 25 outlets and 17 classifiers
has a control socket and a pipe.
"""
CLASSIFIER_FDS = (256, 0, 3)
HUB_FDS = (256, 4, 0)
"""For each stream: two connections of its capture process, and two subscribers."""


def needed_descriptors(streams: int, rings: int, further_classifiers: int = 0, gpu_rings: int = 0) -> int:
    """Return the file descriptors of the process that needs most of them.

    `further_classifiers`: the classifiers beyond one for each engine group. `gpu_rings`: the rings of streams that a
    GPU may decode. Each has the two ends of a channel, or in the classifier one end and the memory that it shares.
    """
    return 2 * (further_classifiers + gpu_rings) + max(
        base + per_stream * streams + per_ring * rings
        for base, per_stream, per_ring in (SUPERVISOR_FDS, CLASSIFIER_FDS, HUB_FDS)
    )


def check_machine(new: CheckedConfig, running: CheckedConfig | None = None) -> None:
    """Raise `ConfigError` unless this machine has the memory and the descriptors that a configuration needs.

    The rings of `running` that stay are left out: they have their memory already.
    """
    rings = count_rings(new)
    further = (len(new.config.engine.devices or (0,)) - 1) * len(new.groups)
    on_gpu = {name for name, stream in new.config.streams.items() if stream.source.decode_device in GPU_DEVICES}
    gpu_rings = sum(count for (name, _), count in rings.items() if name in on_gpu)
    raise_descriptor_limit(len(new.config.streams), sum(rings.values()), further, gpu_rings)
    check_memory(rings - (count_rings(running) if running else Counter()))


def raise_descriptor_limit(streams: int, rings: int, further_classifiers: int = 0, gpu_rings: int = 0) -> None:
    """Raise the soft limit, which children inherit, to what `streams` need; `ConfigError` where that is forbidden."""
    need = needed_descriptors(streams, rings, further_classifiers, gpu_rings)
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


def check_memory(new_rings: Counter[tuple[str, Geometry]]) -> None:
    """Raise `ConfigError` unless new rings, counted by stream and geometry, fit into memory."""
    available = available_bytes()
    need = sum(count * geometry.ring_bytes for (_, geometry), count in new_rings.items())
    if available is not None and need > max(0, available - RESERVE_BYTES):
        streams, rings = len({stream for stream, _ in new_rings}), sum(new_rings.values())
        more = f"{streams} more streams" if streams == rings else f"{rings} more models and regions"
        raise ConfigError(
            f"streams: {more} need {need / 2**20:.1f} MiB of shared memory, and "
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
