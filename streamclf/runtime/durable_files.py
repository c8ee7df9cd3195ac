"""Write and replace files so that a crash, a power failure or a full disk leaves the old content or the new."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content of `path` by `data` in one step: a crash leaves the old content or the new, never a part.

    The new file can be read by its owner only. Raises `OSError`.
    """
    new_path = path.with_name(path.name + ".new")
    new_path.unlink(missing_ok=True)  # left by a crash, perhaps with other permissions
    fd = os.open(new_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            new_path.unlink()
        raise
    finally:
        os.close(fd)
    new_path.replace(path)
    sync_directory(path.parent)


def append(fd: int, data: bytes) -> None:
    """Append `data` to a file, and write it to disk. Raises `OSError`; the file is then as before."""
    end = os.fstat(fd).st_size
    try:
        write_all(fd, data)
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, end)
        raise


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, however many calls of `os.write` that takes. Raises `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_directory(directory: Path) -> None:
    """Write a directory's entries to disk, so that a new or renamed file survives a power failure."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
