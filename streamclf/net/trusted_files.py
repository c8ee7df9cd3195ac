"""Read the small files that decide whom and what to trust: configurations, keys, secrets and certificates.

A path may lead to a pipe or a device, whose reading never ends, or to a file that another user may change. All checks
are made on the open descriptor, so that nobody can exchange the file between a check and the reading. Symbolic links
are followed, because Kubernetes mounts secrets as links; the checks apply to the file that the link leads to.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from engines.regular_file import NotRegularFileError, open_regular
from streamclf.errors import UsageError


def read_small_file(path: Path, *, max_bytes: int, remedy: str) -> bytes:
    """Return the bytes of a regular file of at most `max_bytes`. Raises `UsageError`, which ends with `remedy`."""
    return _read(path, max_bytes, remedy)[0]


def read_small_text(path: Path, *, max_bytes: int, remedy: str) -> str:
    """Return the text of such a file, in UTF-8 with or without a byte order mark. Raises `UsageError`."""
    data = read_small_file(path, max_bytes=max_bytes, remedy=remedy)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: not a text file in UTF-8 (byte {error.start}); save it in UTF-8, or {remedy}"
        ) from None


def read_key_file(path: Path, *, max_bytes: int, remedy: str) -> tuple[bytes, int]:
    """Return the bytes and the mode of a file of keys, which only this user or root may change.

    If it holds a secret, call `check_secrecy` with the mode. Raises `UsageError`, which ends with a remedy.
    """
    data, status = _read(path, max_bytes, remedy)
    check_owner(path, status)
    return data, stat.S_IMODE(status.st_mode)


def check_secrecy(path: Path, mode: int) -> None:
    """Raise `UsageError` if a file of this mode can be read by other users than its owner."""
    if mode & 0o077:
        raise UsageError(f"{path}: mode {mode:04o} lets others read the secret; chmod 600 {path}")


def check_key_directory(path: Path) -> None:
    """Raise `UsageError` unless `path` is a directory whose files only this user or root may add and replace."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {_reason(error)}; create it, and put public keys into it") from None
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{path}: not a directory; give a directory with public keys")
    check_owner(path, status)


def check_owner(path: Path, status: os.stat_result) -> None:
    """Raise `UsageError` if other users than this one and root may change the file or directory."""
    if status.st_uid not in (0, os.geteuid()):
        raise UsageError(
            f"{path}: belongs to user {status.st_uid}, who may change it; it has to belong to user {os.geteuid()}, who "
            f"runs this command, or to root: chown {os.geteuid()} {path}"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets other users change it; chmod go-w {path}"
        )


def _read(path: Path, max_bytes: int, remedy: str) -> tuple[bytes, os.stat_result]:
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            data = file.read(max_bytes + 1)
    except NotRegularFileError as error:
        kind = "Is a directory" if error.is_directory else "a pipe, socket or device, not a file"
        raise UsageError(f"{path}: cannot be read ({kind}); {remedy}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{_printable(path)}: cannot be read ({_reason(error)}); {remedy}") from None
    if len(data) > max_bytes:
        size = max(status.st_size, len(data))
        raise UsageError(f"{path}: {size} bytes, more than the limit: at most {max_bytes}; {remedy}")
    return data, status


def _reason(error: OSError | ValueError) -> str:
    """Return the system's reason; a path with a NUL character raises `ValueError`."""
    return (error.strerror or "it fails") if isinstance(error, OSError) else "its path contains a NUL character"


def _printable(path: Path) -> str:
    return str(path).replace("\0", "\\0")
