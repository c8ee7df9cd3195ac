"""Lock, create, check and set aside the journal's SQLite file."""

from __future__ import annotations

import logging
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Final

from streamclf.errors import JournalError
from streamclf.runtime.file_lock import open_locked

log = logging.getLogger(__name__)

APPLICATION_ID: Final = 0x73636C66
"""The bytes "sclf" distinguish a journal from any other SQLite file."""
MAX_CHECK_S: Final = 10.0
"""The check of a large file ends after this time, because the service cannot start before."""

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
CREATE TABLE IF NOT EXISTS producers(
    instance BLOB PRIMARY KEY, seq INTEGER NOT NULL, seen_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gone(first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
COMMIT;
"""


def lock_journal(path: Path) -> int:
    """Lock `PATH.lock` and return its descriptor. Raises `JournalError` if another service writes the journal."""
    lock_path = Path(f"{path}.lock")
    try:
        fd = open_locked(lock_path)
    except OSError as error:
        raise JournalError(
            f"journal {path}: {lock_path} cannot be created ({error.strerror}); give a path in a writable directory"
        ) from error
    if fd is None:
        raise JournalError(
            f"journal {path}: another service writes it; stop that service, or give this one another publish.journal"
        )
    return fd


def claim_database(db: sqlite3.Connection, path: Path) -> None:
    """Mark a new database as a journal. Raises `JournalError` for a database of another program."""
    owner = int(db.execute("PRAGMA application_id").fetchone()[0])
    if owner != APPLICATION_ID and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise JournalError(f"journal {path}: another program's database; give another path")
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")


def check_database(db: sqlite3.Connection, path: Path) -> None:
    """Raise `sqlite3.DatabaseError` for a damaged file; the check of a large file ends after `MAX_CHECK_S`."""
    deadline = time.monotonic() + MAX_CHECK_S
    db.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
    try:
        verdict = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            raise
        log.warning("journal %s: large; its check was stopped after %.0f s", path, MAX_CHECK_S)
        return
    finally:
        db.set_progress_handler(None, 0)
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def set_aside(path: Path, why: str) -> None:
    """Rename a damaged journal, so that a new one can begin. Raises `JournalError` if that fails."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    target = path.with_name(f"{path.name}.damaged-{stamp}-{uuid.uuid4().hex[:4]}")
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
