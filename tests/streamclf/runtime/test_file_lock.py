"""A file lock has one owner, and a file system without locks is reported as such."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from streamclf.runtime.file_lock import open_locked


def test_a_lock_has_one_owner_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = open_locked(path)
    assert first is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_locked(path) is None
    os.close(first)
    second = open_locked(path, os.O_APPEND)
    assert second is not None
    os.write(second, b"kept")
    os.close(second)
    third = open_locked(path, os.O_APPEND)
    assert third is not None
    os.write(third, b" whole")
    os.close(third)
    assert path.read_bytes() == b"kept whole"


def test_a_file_system_without_locks_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have no locks. A message about another process would send the user on a vain search."""
    opened: list[int] = []

    def without_locks(fd: int, operation: int) -> None:
        opened.append(fd)
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with pytest.raises(OSError, match="No locks available"):
        open_locked(tmp_path / "lock")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_a_file_that_cannot_be_opened_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_locked(tmp_path / "nowhere" / "lock")
