"""Files that one process of this machine at a time may have."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def open_locked(path: Path, flags: int = 0, *, mode: int = 0o600) -> int | None:
    """A descriptor of `path` to read and write, made where there is none; None where another process has it.

    It is held until it is closed, or its process dies. Raises `OSError` where it cannot be opened or locked.
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
