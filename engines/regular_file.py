"""Open regular files only: opening a pipe would wait for its other end for ever, and a device never ends."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO


class NotRegularFileError(Exception):
    """A directory (`is_directory`), a pipe, a socket or a device stands where a regular file is needed."""

    def __init__(self, path: Path, *, is_directory: bool) -> None:
        super().__init__(f"{path}: not a regular file")
        self.is_directory = is_directory


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading, without waiting. Raises `NotRegularFileError`, `OSError`, `ValueError` for a NUL."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise NotRegularFileError(path, is_directory=stat.S_ISDIR(mode))
    return os.fdopen(fd, "rb")
