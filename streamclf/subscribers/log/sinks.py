"""Store every event exactly once: a log file holds the position together with the events."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final, Protocol

from streamclf.config.log_file import SQLITE_SUFFIXES, Rotation, check_log_file
from streamclf.errors import JournalError, UsageError
from streamclf.events.positions import Position
from streamclf.events.types import (
    TIME_FORMAT,
    Action,
    Clip,
    Lost,
    Prediction,
    Status,
    StreamEvent,
    format_event_time,
    published_json,
)
from streamclf.events.views import UNNAMED, view_of
from streamclf.subscribers.log.jsonl import JsonlSink

APPLICATION_ID: Final = 0x73636C67
"""The bytes "sclg" mark an SQLite file as a log; a service's journal has another mark."""

_SCHEMA = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS events(
    id INTEGER PRIMARY KEY, epoch TEXT NOT NULL, offset INTEGER, time TEXT NOT NULL, stream TEXT NOT NULL,
    type TEXT NOT NULL, label TEXT, probability REAL, body TEXT NOT NULL, region TEXT, model_name TEXT,
    UNIQUE(epoch, offset));
"""
_NEW_COLUMNS: Final = ("region", "model_name")
"""Columns that a log of an earlier version does not have."""
_INDEXES = """
CREATE INDEX IF NOT EXISTS events_by_region ON events(region, time) WHERE region IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_by_model ON events(model_name, time) WHERE model_name IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_by_stream ON events(stream, time);
CREATE INDEX IF NOT EXISTS events_by_label ON events(label, time);
CREATE INDEX IF NOT EXISTS events_by_time ON events(time);
CREATE INDEX IF NOT EXISTS events_by_type ON events(type, time);
CREATE TABLE IF NOT EXISTS lost(epoch TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER, UNIQUE(epoch, first, last));
CREATE TABLE IF NOT EXISTS position(id INTEGER PRIMARY KEY CHECK(id=1), epoch TEXT NOT NULL, offset INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS other_positions(epoch TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;
"""
_REMOVE_OLD = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE time < ? ORDER BY time LIMIT ?)"
_REMOVE_OLDEST = "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT ?)"
_USED_BYTES = (
    "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)
_REMOVED_PER_WRITE = 100
"""With each write, remove so many more old events than are new, until the limits are kept: no write takes long."""


class Sink(Protocol):
    """A log file, which stores events together with the position."""

    def position(self) -> Position | None:
        """Return where to resume; None for a new log."""
        ...

    def write(self, events: Sequence[StreamEvent | Lost], position: Position | None) -> None:
        """Write all events in order and the position, or nothing. Skip events that the file already holds."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def open_sink(path: Path, rotation: Rotation | None = None) -> Sink:
    """Open the log `path`, in the format of its suffix.

    Raises `UsageError` for a name without a known suffix, and `JournalError` for a file that cannot be used.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{path}: directory {path.parent} does not exist; create it first")
    rotation = rotation or Rotation()
    check_log_file(path, rotation)
    if path.suffix in SQLITE_SUFFIXES:
        return SqliteSink(path, keep_s=rotation.keep_s, keep_bytes=rotation.keep_bytes)
    return JsonlSink(path, rotation)


class SqliteSink:
    """Write events into a table with indexes on stream, label, type and time, in one transaction with the position."""

    def __init__(self, path: Path, *, keep_s: float | None = None, keep_bytes: int | None = None) -> None:
        """Open or create the log.

        Events older than `keep_s` seconds are removed, and the oldest ones while the log uses more than `keep_bytes`, a
        few with each write. The file does not shrink; SQLite uses the pages again.
        """
        self._path, self._keep_s, self._keep_bytes = path, keep_s, keep_bytes
        self._db: sqlite3.Connection | None = None
        self._others: set[tuple[str, int]] = set()
        """The rows of `other_positions` that this process has written."""
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
            self._claim(self._db)
            self._db.executescript(_SCHEMA)
            self._add_columns(self._db)
            self._db.executescript(_INDEXES)
        except sqlite3.Error as error:
            self.close()
            raise JournalError(f"{path}: {error}; give a new file or a log, on a writable disk") from error
        except JournalError:
            self.close()
            raise

    def _claim(self, db: sqlite3.Connection) -> None:
        """Mark a new database as a log. Raise `JournalError` for a database of another program."""
        owner = int(db.execute("PRAGMA application_id").fetchone()[0])
        if owner != APPLICATION_ID and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise JournalError(f"{self._path}: another program's database, or a service's journal; give a new file")
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")

    @staticmethod
    def _add_columns(db: sqlite3.Connection) -> None:
        """Add the columns that a log of an earlier version does not have; its events have no such values."""
        known = {row[1] for row in db.execute("PRAGMA table_info(events)")}
        for column in _NEW_COLUMNS:
            if column not in known:
                db.execute(f"ALTER TABLE events ADD COLUMN {column} TEXT")

    def position(self) -> Position | None:
        """Return where to resume; None for a new log. Raises `JournalError` for a damaged one."""
        assert self._db is not None
        try:
            row = self._db.execute("SELECT epoch, offset FROM position").fetchone()
            others = self._db.execute("SELECT epoch, offset FROM other_positions ORDER BY epoch").fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"{self._path}: {error}; give a new file, or repair the disk") from error
        return (
            Position(str(row[0]), int(row[1]), tuple((str(epoch), int(offset)) for epoch, offset in others))
            if row
            else None
        )

    def write(self, events: Sequence[StreamEvent | Lost], position: Position | None) -> None:
        """Write events, lost ranges and position in one transaction. Raises `JournalError`."""
        assert self._db is not None
        rows = [_row(event) for event in events if not isinstance(event, Lost)]
        lost = [(event.epoch, event.first, event.last) for event in events if isinstance(event, Lost)]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR IGNORE INTO events(epoch,offset,time,stream,type,label,probability,body,region,model_name) "
                "VALUES(?,?,?,?,?,?,?,?,?,?)",
                rows,
            )
            self._db.executemany("INSERT OR IGNORE INTO lost VALUES(?,?,?)", lost)
            if self._keep_s is not None:
                oldest = datetime.now(timezone.utc) - timedelta(seconds=self._keep_s)
                self._db.execute(_REMOVE_OLD, (f"{oldest:{TIME_FORMAT}}Z", _REMOVED_PER_WRITE + len(rows)))
            if self._keep_bytes is not None and self._db.execute(_USED_BYTES).fetchone()[0] > self._keep_bytes:
                self._db.execute(_REMOVE_OLDEST, (_REMOVED_PER_WRITE + len(rows),))
            if position:
                self._db.execute(
                    "INSERT INTO position VALUES(1,?,?) "
                    "ON CONFLICT(id) DO UPDATE SET epoch=excluded.epoch, offset=excluded.offset",
                    (position.epoch, position.offset),
                )
                self._write_other_positions(position)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise JournalError(
                f"{self._path}: {error}; nothing is lost: free space or repair the disk, and start this command again"
            ) from error

    def _write_other_positions(self, position: Position) -> None:
        assert self._db is not None
        if position.others or self._others:
            changed = set(position.others) - self._others
            self._db.execute("DELETE FROM other_positions WHERE epoch=?", (position.epoch,))
            self._db.executemany("INSERT OR REPLACE INTO other_positions VALUES(?,?)", changed)
            self._others = set(position.others)

    def close(self) -> None:
        """Close the file."""
        if self._db:
            self._db.close()


def _row(event: StreamEvent) -> tuple[object, ...]:
    """Return the row of `event` in table `events`.

    The label of a status is its state. A prediction of a model with several labels has its most probable present label,
    or none.
    """
    label: str | None = None
    probability: float | None = None
    match event:
        case Prediction():
            label, probability = event.present[0] if event.present else (None, event.top[0][1])
        case Action() | Clip():
            label, probability = event.label, event.probability
        case Status():
            label = event.state
    return (
        event.epoch,
        event.offset,
        format_event_time(event),
        event.stream,
        event.type,
        label,
        probability,
        published_json(event).decode(),
        *(UNNAMED if isinstance(event, Status) else view_of(event)),
    )
