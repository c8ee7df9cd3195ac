"""Create and open the SQLite database of the history, in a file or in memory."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path
from typing import Final

from streamclf.errors import JournalError

log = logging.getLogger(__name__)

APPLICATION_ID: Final = 0x73636C77
"""The bytes "sclw" mark an SQLite file as the history of a page."""
FORMAT: Final = 1
CACHE_KIB: Final = 8192
REMEDY: Final = "remove the file, so that the page reads the journal again, or repair the disk"

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS actions(
    id INTEGER PRIMARY KEY, epoch TEXT NOT NULL, offset INTEGER NOT NULL, has_start INTEGER NOT NULL,
    end_offset INTEGER, stream TEXT NOT NULL, label TEXT NOT NULL, started_s REAL NOT NULL,
    at_s REAL NOT NULL, began_us INTEGER NOT NULL, ended_us INTEGER, peak REAL NOT NULL, reason TEXT,
    deleted INTEGER NOT NULL DEFAULT 0, search TEXT NOT NULL, UNIQUE(epoch, offset));
CREATE INDEX IF NOT EXISTS actions_by_time ON actions(began_us, id);
CREATE INDEX IF NOT EXISTS actions_by_key ON actions(epoch, stream, label, offset);
CREATE INDEX IF NOT EXISTS actions_by_stream ON actions(stream, began_us);
CREATE INDEX IF NOT EXISTS actions_by_label ON actions(label, began_us);
CREATE TABLE IF NOT EXISTS clips(
    id INTEGER PRIMARY KEY, epoch TEXT NOT NULL, offset INTEGER, stream TEXT NOT NULL, label TEXT NOT NULL,
    part INTEGER NOT NULL, last INTEGER NOT NULL, began_us INTEGER NOT NULL, start_s REAL NOT NULL, end_s REAL NOT NULL,
    file TEXT NOT NULL UNIQUE, still TEXT, drawn TEXT, bytes INTEGER NOT NULL, probability REAL NOT NULL,
    starred INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS clip_actions(
    epoch TEXT NOT NULL, action INTEGER NOT NULL, clip INTEGER NOT NULL, PRIMARY KEY(epoch, action, clip)
    ) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS actions_of_clip ON clip_actions(clip);
CREATE TABLE IF NOT EXISTS states(
    id INTEGER PRIMARY KEY, stream TEXT NOT NULL, time_us INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT,
    UNIQUE(stream, time_us));
CREATE INDEX IF NOT EXISTS states_by_time ON states(time_us);
CREATE TABLE IF NOT EXISTS covered(
    epoch TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY(epoch, first)) WITHOUT ROWID;
"""
"""`actions.end_offset` is NULL while the action runs, and -1 if its end is missing. `covered` holds the ranges of
offsets whose events the history has read."""


_VIEW_COLUMNS: Final = tuple((table, column) for table in ("actions", "clips") for column in ("region", "model_name"))
"""Columns that a history of an earlier version lacks; empty for the whole picture and for the model without a name."""


def open_database(path: Path | None) -> sqlite3.Connection:
    """Open or create the database `path`; None for one in memory. A damaged file is set aside.

    Raises `JournalError` for a file that cannot be used.
    """
    if path is None:
        return _open(":memory:")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # events may name people
        try:
            return _open(str(path))
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            _set_aside(path, str(error))
            return _open(str(path))
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"{path}: the page's history cannot be opened ({error}); {REMEDY}") from error


def _open(name: str) -> sqlite3.Connection:
    db = sqlite3.connect(name, isolation_level=None, timeout=5.0, check_same_thread=False)
    try:
        owner, version = (int(db.execute(f"PRAGMA {key}").fetchone()[0]) for key in ("application_id", "user_version"))
        is_empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if not is_empty and (owner, version) != (APPLICATION_ID, FORMAT):
            raise JournalError(f"{name}: not the history of a page, or of another version; {REMEDY}")
        db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-{CACHE_KIB};")
        db.executescript(_SCHEMA)
        for table, column in _VIEW_COLUMNS:
            if column not in {row[1] for row in db.execute(f"PRAGMA table_info({table})")}:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
        db.executescript(f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT};")
        db.create_function("contains", 2, _contains, deterministic=True)
    except BaseException:
        db.close()
        raise
    return db


def _contains(text: str, part: str) -> bool:
    return part in text


def _set_aside(path: Path, why: str) -> None:
    """Rename a damaged database. The history can be read again from the journal."""
    log.warning("%s: damaged (%s); set aside, and a new history begins", path, why)
    path.replace(path.with_name(f"{path.name}.damaged"))
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
