"""Lock a file for one process of this machine at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def open_locked(path: Path, flags: int = 0, *, mode: int = 0o600) -> int | None:
    """Open `path` to read and write, creating it if needed, and lock it; return None where another process has it.

    The lock lasts until the descriptor is closed or the process ends. Raises `OSError` where the file cannot be opened
    or locked.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, mode)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_locked(fd: int) -> bool:
    """Return whether another process has the lock of an open file. Raises `OSError` where it cannot be locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
