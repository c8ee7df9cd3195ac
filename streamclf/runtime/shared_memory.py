"""Allocate memory that processes share and that has no name, so that nothing is left however they end.

It is a memfd on Linux, elsewhere a temporary file that is already unlinked. All of it is allocated at once: where
memory is short, that is an error now and not a SIGBUS later in the process that writes to it first.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def allocate(size: int) -> int:
    """Return a descriptor of `size` zeroed bytes, which the caller closes. Raises `OSError` without enough memory."""
    return _memfd(size) if sys.platform == "linux" else _unlinked_file(size)


def available_bytes() -> int | None:
    """Return the bytes that this machine or container can still allocate; None if the system does not report them."""
    meminfo = _text(Path("/proc/meminfo")).splitlines()
    found = [int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:")]
    limit = _text(Path("/sys/fs/cgroup/memory.max")).strip()
    used = _text(Path("/sys/fs/cgroup/memory.current")).strip()
    if limit.isdigit() and used.isdigit():
        found.append(int(limit) - int(used))
    return min(found, default=None)


def _memfd(size: int) -> int:
    import fcntl

    fd = os.memfd_create("streamclf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)

    def fill() -> None:
        os.posix_fallocate(fd, 0, size)
        # No process can shrink it: that would be a SIGBUS in every process that has mapped it.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)

    return _or_close(fd, fill)


def _unlinked_file(size: int) -> int:
    fd, path = tempfile.mkstemp(prefix="streamclf-ring-")
    Path(path).unlink()

    def fill() -> None:
        block = bytes(1 << 20)
        # Written, not only sized: a sparse file would cause a SIGBUS when the disk is full.
        for start in range(0, size, len(block)):
            os.write(fd, block[: size - start])

    return _or_close(fd, fill)


def _or_close(fd: int, prepare: Callable[[], object]) -> int:
    try:
        prepare()
    except BaseException:
        os.close(fd)
        raise
    return fd


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
