"""What this machine allows a service: file descriptors and memory, compared with what its streams need."""

from __future__ import annotations

import resource

from streamclf.errors import ConfigError
from streamclf.runtime.shared_memory import available_bytes
from streamclf.supervisor.stream_plan import Geometry
from streamclf.windows.ring import RESERVE_BYTES

SUPERVISOR_FDS = (64, 6)
"""In each process: file descriptors of its own, and for each stream. Here ring, four pipe ends, control socket."""
CLASSIFIER_FDS = (256, 3)
HUB_FDS = (256, 4)
"""Two connections of each capture, and as many subscribers again."""


def needed_descriptors(streams: int) -> int:
    """File descriptors of the process that needs most of them."""
    return max(own + each * streams for own, each in (SUPERVISOR_FDS, CLASSIFIER_FDS, HUB_FDS))


def secure_descriptors(streams: int) -> None:
    """Raise the soft limit, which children inherit, to what `streams` need; `ConfigError` where that is forbidden."""
    need = needed_descriptors(streams)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
    except (OSError, ValueError):
        raise ConfigError(
            f"streams: {streams} of them need {need} file descriptors, and at most {hard} are allowed here; "
            "raise the limit (ulimit -Hn, LimitNOFILE= in systemd, --ulimit nofile= in Docker) or serve fewer streams"
        ) from None


def check_memory(new_streams: int, geometry: Geometry) -> None:
    """Raise `ConfigError` unless the rings of so many more streams find room."""
    available = available_bytes()
    need = new_streams * geometry.ring_bytes
    if available is not None and need > max(0, available - RESERVE_BYTES):
        raise ConfigError(
            f"streams: {new_streams} of them need {need / 2**20:.1f} MiB of shared memory, and "
            f"{max(0, available - RESERVE_BYTES) / 2**20:.0f} MiB are free for it; serve fewer streams on this "
            "machine, or give it (or its container) more memory"
        )
