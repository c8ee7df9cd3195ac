"""Raise the limit of open descriptors, for a hub with many clients and for a client of many nodes."""

from __future__ import annotations

import resource

_MAX_DESCRIPTORS = 65_536


def raise_descriptor_limit() -> None:
    """Raise this process's limit of descriptors as far as the system permits, to 65,536 at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_MAX_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
