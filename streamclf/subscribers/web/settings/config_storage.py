"""Read and replace the configuration file, as the service follows it: through symbolic links, in one step."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from streamclf.config.service import MAX_CONFIG_BYTES
from streamclf.errors import ConfigError
from streamclf.net.trusted_files import read_small_file
from streamclf.runtime.durable_files import sync_directory, write_all

LOCK_S: Final = 5.0
"""Longest wait for another page that edits a file of the same folder."""
_POLL_S: Final = 0.05
_MOUNTED: Final = "mounted by itself, so it cannot be replaced; mount its folder instead"
_BY_HAND: Final = "edit it by hand where it can be written"


def read_config_bytes(path: Path) -> bytes:
    """Return the content of the file. Raises `UsageError`."""
    return read_small_file(path, max_bytes=MAX_CONFIG_BYTES, remedy="give the path of a YAML file")


def reason_read_only(path: Path) -> str | None:
    """Return why the file cannot be replaced by this process, or None if it can."""
    target = Path(os.path.realpath(path))
    try:
        status = target.stat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return f"{path}: not a regular file"
    if not status.st_mode & 0o222 or not os.access(target, os.W_OK):
        return f"{path}: read-only for this process; {_BY_HAND}"
    if not os.access(target.parent, os.W_OK | os.X_OK):
        return f"{path}: its folder {target.parent} is read-only for this process; {_BY_HAND}"
    if os.path.ismount(target):
        return f"{path}: {_MOUNTED}"
    return None


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other pages from editing the file meanwhile. Raises `ConfigError` if one edits it for longer than 5 s.

    The lock is on the folder, because each edit replaces the file.
    """
    end_s = time.monotonic() + LOCK_S
    fd = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end_s:
                    raise ConfigError(f"{path}: another page edits it; try again") from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(fd)


def replace_config(path: Path, data: bytes) -> None:
    """Replace the content of the file in one step, with its mode, owner and attributes. Raises `ConfigError`.

    A crash leaves the old content or the new. The new file is readable by its owner alone until its mode is set.
    """
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        draft.unlink(missing_ok=True)  # left by a crashed process that had the same id
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, data)
            _copy_attributes(target, fd, path)
            os.fsync(fd)
            draft.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        finally:
            os.close(fd)
        sync_directory(target.parent)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EXDEV):
            raise ConfigError(f"{path}: {_MOUNTED}") from None
        raise ConfigError(f"{path}: cannot be replaced ({error.strerror}); nothing was changed") from None


def _copy_attributes(source: Path, fd: int, path: Path) -> None:
    status = source.stat()
    if (status.st_uid, status.st_gid) != (os.fstat(fd).st_uid, os.fstat(fd).st_gid):
        try:
            os.fchown(fd, status.st_uid, status.st_gid)
        except PermissionError:
            raise ConfigError(
                f"{path}: belongs to user {status.st_uid} and group {status.st_gid}, which an edit could not keep; "
                f"run the page as that user, or {_BY_HAND}"
            ) from None
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    if not hasattr(os, "listxattr"):
        return
    with contextlib.suppress(OSError):  # a file system without attributes, or with some that only root may set
        for name in os.listxattr(source):
            os.setxattr(fd, name, os.getxattr(source, name))
