"""Lock, create, check, watch and set aside the journal's SQLite file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import stat
import struct
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamclf.errors import JournalError
from streamclf.events.journal_format import APPLICATION_ID, FORMAT, check_format
from streamclf.runtime.file_lock import is_locked, open_locked

log = logging.getLogger(__name__)

MAX_CHECK_S: Final = 10.0
"""The check of a large file ends after this time, because the service cannot start before."""
_BUSY_S: Final = 0.25
"""Longest wait for a lock on the database, which a reader holds only for moments."""
_HEAD_MARK_BYTES: Final = 64
"""Size of the text `epoch head` in the lock file, which shows events that the disk has lost."""
_HEADER_BYTES: Final = 100
"""The header of an SQLite file (https://sqlite.org/fileformat.html, 1.3)."""
_OUR_BYTE: Final = 1 << 62
"""The locked byte of the database file; SQLite locks bytes after 1 << 30 only."""
_IN_USE = "another service writes it; stop that service, or give this one another publish.journal"

SCHEMA: Final = """
PRAGMA auto_vacuum=INCREMENTAL;
PRAGMA journal_mode=WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events(
    offset INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, type TEXT NOT NULL,
    time_ns INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS last(
    stream TEXT NOT NULL, type TEXT NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY(stream, type)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS last_in_views(
    stream TEXT NOT NULL, type TEXT NOT NULL, region TEXT NOT NULL, model_name TEXT NOT NULL, offset INTEGER NOT NULL,
    PRIMARY KEY(stream, type, region, model_name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS producers(
    instance BLOB PRIMARY KEY, seq INTEGER NOT NULL, seen_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gone(first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class _Files:
    """The state of a journal's files; two states are equal while nobody but this process changes the files."""

    database: tuple[int, ...] | None
    header: bytes
    log: tuple[int, ...] | None
    index: tuple[int, ...] | None


class JournalFiles:
    """Lock a journal's files for this process, and notice if somebody else removes, replaces or changes them.

    Two locks are held. `PATH.lock` also stores the last published offset. A byte of the database file itself is locked
    too (Linux), because the same file can have several names, by hard links for example. Symbolic links are resolved.
    """

    def __init__(self, path: Path) -> None:
        """Lock the journal. Raises `JournalError` if another service writes it, or if it cannot be created."""
        self.path = Path(os.path.realpath(path))
        self._lock_fd = self._database_fd = -1
        try:
            self.claim()
        except BaseException:
            self.close()
            raise
        self._recorded = self._state()

    def close(self) -> None:
        """Release the locks. Close every connection to the database first."""
        # Closing any descriptor of a file ends the POSIX locks that SQLite holds on it in this process.
        for fd in (self._lock_fd, self._database_fd):
            if fd >= 0:
                os.close(fd)
        self._lock_fd = self._database_fd = -1

    def claim(self) -> None:
        """Lock the files that have the journal's names now, and create them if they are missing.

        Raises `JournalError` if another service has them, or if they cannot be opened.
        """
        lock_path = Path(f"{self.path}.lock")
        if not _is_same_file(self._lock_fd, lock_path):
            try:
                fd = open_locked(lock_path)
            except OSError as error:
                raise JournalError(
                    f"journal {self.path}: {lock_path} cannot be created ({error.strerror}); "
                    "give a path in a writable directory"
                ) from error
            if fd is None:
                raise JournalError(f"journal {self.path}: {_IN_USE}")
            self._lock_fd, old = fd, self._lock_fd
            if old >= 0:
                os.close(old)
        if not _is_same_file(self._database_fd, self.path):
            self._database_fd, old = _open_database(self.path), self._database_fd
            if old >= 0:
                os.close(old)

    def record(self) -> None:
        """Record the state of the files, after this process has changed them."""
        self._recorded = self._state()

    def changed(self) -> str | None:
        """Return what somebody else did to the files since `record`, or None."""
        now, then = self._state(), self._recorded
        if now == then:
            return None
        return self.moved() or "another program has changed it"

    def moved(self) -> str | None:
        """Return whether the files were removed, replaced or shortened, as a text, or None.

        Unlike `changed`, this is also valid right after this process has changed them.
        """
        now, then = self._state(), self._recorded
        for name, new, old in (
            ("", now.database, then.database),
            ("-wal", now.log, then.log),
            ("-shm", now.index, then.index),
        ):
            if old is not None and new is None:
                return f"{self.path.name}{name} was removed"
            if old is not None and new is not None and new[:2] != old[:2]:
                return f"{self.path.name}{name} was replaced"
            # SQLite shortens the database file only itself. It does not shorten the others while they are open.
            if name and old is not None and new is not None and new[2] < old[2]:
                return f"{self.path.name}{name} was truncated"
        return None

    def extend_index(self) -> None:
        """Give a truncated `-shm` file its size again: SQLite has it in its memory, and would end the process."""
        index, then = _stat(Path(f"{self.path}-shm")), self._recorded.index
        if index is not None and then is not None and index[:2] == then[:2] and index[2] < then[2]:
            os.truncate(f"{self.path}-shm", then[2])

    def detach_log(self) -> None:
        """Rename the write-ahead log of a database that was replaced: SQLite would apply it to the new database."""
        then = self._recorded
        if then.database is None or _identity(self.path) == then.database[:2]:
            return
        for suffix, old in (("-wal", then.log), ("-shm", then.index)):
            part = Path(f"{self.path}{suffix}")
            if old is not None and _identity(part) == old[:2]:
                part.rename(f"{_new_name(self.path, 'replaced')}{suffix}")

    def _state(self) -> _Files:
        try:
            header = os.pread(self._database_fd, _HEADER_BYTES, 0)
        except OSError:
            header = b""
        database, log_, index = (_stat(Path(f"{self.path}{suffix}")) for suffix in ("", "-wal", "-shm"))
        return _Files(database, header, log_, index)

    def read_head(self) -> tuple[str, int] | None:
        """Return the epoch and the offset that `mark_head` stored last, or None."""
        return _read_head(self._lock_fd)

    def mark_head(self, epoch: str, head: int) -> None:
        """Store the last offset that is published.

        A full disk may refuse it after it has taken the events: then the next start only checks less.
        """
        with contextlib.suppress(OSError):
            os.pwrite(self._lock_fd, f"{epoch} {head}".ljust(_HEAD_MARK_BYTES).encode(), 0)


def read_running_epoch(path: Path) -> str | None:
    """Return the epoch of the journal at `path` that a service on this machine has open now; None if none has it."""
    try:
        fd = os.open(f"{os.path.realpath(path)}.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        head = _read_head(fd)
        return head[0] if head is not None and is_locked(fd) else None
    except OSError:
        return None
    finally:
        os.close(fd)


def _read_head(fd: int) -> tuple[str, int] | None:
    epoch, _, head = os.pread(fd, _HEAD_MARK_BYTES, 0).decode("ascii", "replace").partition(" ")
    return (epoch, int(head)) if head.strip().isdecimal() else None


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size


def _identity(path: Path) -> tuple[int, ...] | None:
    status = _stat(path)
    return None if status is None else status[:2]


def _is_same_file(fd: int, path: Path) -> bool:
    """Return whether `fd` is the file that has the name `path` now."""
    if fd < 0:
        return False
    mine = os.fstat(fd)
    return _identity(path) == (mine.st_dev, mine.st_ino)


def _open_database(path: Path) -> int:
    """Open the database file, creating it if needed, and lock it against services that use another of its names."""
    try:
        # O_NONBLOCK: never wait for the other end of a FIFO.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise JournalError(
            f"journal {path}: {error.strerror}; it must be on a writable local disk, unlocked and with free space"
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise JournalError(f"journal {path}: not a regular file; give the path of a file on a writable local disk")
        if hasattr(fcntl, "F_OFD_SETLK"):
            # `struct flock` (fcntl.h). Such a lock belongs to this descriptor, so SQLite cannot release it.
            lock = struct.pack("@hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, _OUR_BYTE, 1, 0)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise JournalError(f"journal {path}: {_IN_USE}") from error
        raise JournalError(f"journal {path}: cannot be locked ({error.strerror}); give a local disk") from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_database(path: Path, max_check_s: float) -> sqlite3.Connection:
    """Open the journal's database to write, creating its tables and its epoch if they are missing.

    Raises `JournalError` for a database of another program or version, and `sqlite3.DatabaseError` for a damaged one.
    """
    db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S)
    try:
        _check(db, path, max_check_s)
        _claim(db, path)
        # Migrations of an older format belong after this check; until now, all new tables could simply be added.
        check_format(db, path)
        db.executescript(SCHEMA)
        db.execute("PRAGMA synchronous=FULL")
        db.execute("INSERT OR IGNORE INTO meta VALUES('epoch', ?)", (uuid.uuid4().hex,))
        db.execute("INSERT OR IGNORE INTO meta VALUES('format', ?)", (FORMAT,))
    except BaseException:
        db.close()
        raise
    return db


def _claim(db: sqlite3.Connection, path: Path) -> None:
    """Mark a new database as a journal. Raises `JournalError` for a database of another program."""
    owner = int(db.execute("PRAGMA application_id").fetchone()[0])
    if owner != APPLICATION_ID and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise JournalError(f"journal {path}: another program's database; give another path")
    if owner != APPLICATION_ID:
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")


def _check(db: sqlite3.Connection, path: Path, max_s: float) -> None:
    """Raise `sqlite3.DatabaseError` for a damaged file; the check of a large file ends after `max_s`."""
    deadline = time.monotonic() + max_s
    db.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
    try:
        verdict = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            raise
        log.warning("journal %s: large; its check was stopped after %.0f s", path, max_s)
        return
    finally:
        db.set_progress_handler(None, 0)
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def set_aside(path: Path, why: str) -> None:
    """Rename a damaged journal, so that a new one can begin. Raises `JournalError` if that fails."""
    target = _new_name(path, "damaged")
    try:
        for suffix in ("", "-wal", "-shm"):
            part = Path(f"{path}{suffix}")
            if part.exists():
                part.rename(f"{target}{suffix}")
    except OSError as error:
        raise JournalError(
            f"journal {path}: damaged ({why}) and cannot be set aside ({error.strerror}); move it away"
        ) from error
    log.error("journal %s: damaged (%s); set aside as %s, a new journal begins", path, why, target.name)


def _new_name(path: Path, why: str) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return path.with_name(f"{path.name}.{why}-{stamp}-{uuid.uuid4().hex[:4]}")
