"""Files that hold every event once: position and data are written together, so neither can be ahead of the other."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from streamclf.errors import JournalError, UsageError
from streamclf.events.positions import Position
from streamclf.events.types import Action, Lost, Prediction, Status, StreamEvent, format_event_time, published_json
from streamclf.subscribers.log.line_formats import Csv, Jsonl
from streamclf.subscribers.log.parquet import ParquetSink
from streamclf.subscribers.log.rotation import Rotation
from streamclf.subscribers.log.text import TextSink

_APPLICATION_ID: Final = 0x73636C67  # "sclg": a log, not the service's own journal

_SCHEMA = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS events(
    id INTEGER PRIMARY KEY, epoch TEXT NOT NULL, offset INTEGER, time TEXT NOT NULL, stream TEXT NOT NULL,
    type TEXT NOT NULL, label TEXT, probability REAL, body TEXT NOT NULL, UNIQUE(epoch, offset));
CREATE INDEX IF NOT EXISTS events_by_stream ON events(stream, time);
CREATE INDEX IF NOT EXISTS events_by_label ON events(label, time);
CREATE INDEX IF NOT EXISTS events_by_time ON events(time);
CREATE INDEX IF NOT EXISTS events_by_type ON events(type, time);
CREATE TABLE IF NOT EXISTS lost(epoch TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER, UNIQUE(epoch, first, last));
CREATE TABLE IF NOT EXISTS position(id INTEGER PRIMARY KEY CHECK(id=1), epoch TEXT NOT NULL, offset INTEGER NOT NULL);
"""


class Sink(Protocol):
    """A file of events that knows how far it has come."""

    def position(self) -> Position | None:
        """Where to go on; None for a new file."""
        ...

    def write(self, events: Sequence[StreamEvent | Lost], position: Position | None) -> int:
        """Write all or nothing, in order; return how many were new."""
        ...

    def tend(self) -> None:
        """Called several times a second, also while nothing comes."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


def open_sink(path: Path, rotation: Rotation | None = None) -> Sink:
    """The sink that the file's name asks for. Raises `UsageError` or, for a file that cannot be had, `JournalError`."""
    if not path.parent.is_dir():
        raise UsageError(f"{path}: directory {path.parent} does not exist; create it first")
    if path.suffix in (".db", ".sqlite", ".sqlite3"):
        if rotation and rotation != Rotation():
            raise UsageError(f"{path}: SQLite stays one file; rotate .jsonl, .csv or .parquet")
        return SqliteSink(path)
    if path.suffix in (".jsonl", ".ndjson"):
        return TextSink(path, Jsonl(), rotation)
    if path.suffix == ".csv":
        return TextSink(path, Csv(), rotation)
    if path.suffix == ".parquet":
        return ParquetSink(path, rotation)
    raise UsageError(
        f"{path}: ends in {path.suffix or 'nothing'}; give a name that ends in .db, .jsonl, .csv or .parquet"
    )


class SqliteSink:
    """Events in a table with indexes on stream and label; position and data in one transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
            self._claim(self._db)
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self.close()
            raise JournalError(f"{path}: {error}; give a new or an own file on a writable disk") from error
        except JournalError:
            self.close()
            raise

    def _claim(self, db: sqlite3.Connection) -> None:
        owner = int(db.execute("PRAGMA application_id").fetchone()[0])
        if owner != _APPLICATION_ID and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise JournalError(f"{self._path}: another program's database (or a service's journal); give a new file")
        db.execute(f"PRAGMA application_id={_APPLICATION_ID}")

    def position(self) -> Position | None:
        """Where to go on."""
        assert self._db is not None
        row = self._db.execute("SELECT epoch, offset FROM position").fetchone()
        return Position(str(row[0]), int(row[1])) if row else None

    def write(self, events: Sequence[StreamEvent | Lost], position: Position | None) -> int:
        """One transaction."""
        assert self._db is not None
        before = self._db.total_changes
        rows = [_row(event) for event in events if not isinstance(event, Lost)]
        lost = [(event.epoch, event.first, event.last) for event in events if isinstance(event, Lost)]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR IGNORE INTO events(epoch,offset,time,stream,type,label,probability,body) "
                "VALUES(?,?,?,?,?,?,?,?)",
                rows,
            )
            written = self._db.total_changes - before
            self._db.executemany("INSERT OR IGNORE INTO lost VALUES(?,?,?)", lost)
            if position:
                self._db.execute(
                    "INSERT INTO position VALUES(1,?,?) "
                    "ON CONFLICT(id) DO UPDATE SET epoch=excluded.epoch, offset=excluded.offset",
                    (position.epoch, position.offset),
                )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise JournalError(
                f"{self._path}: {error}; nothing is lost: free space or mend it, and start this command again"
            ) from error
        return written

    def tend(self) -> None:
        """Nothing waits here: `write` commits all."""

    def close(self) -> None:
        """Close the file."""
        if self._db:
            self._db.close()


def _row(event: StreamEvent) -> tuple[str, int | None, str, str, str, str | None, float | None, str]:
    label, probability = None, None
    match event:
        case Prediction():
            label, probability = event.top[0]
        case Action():
            label, probability = event.label, event.probability
        case Status():
            label = event.state
    body = published_json(event)
    return (
        event.epoch,
        event.offset,
        format_event_time(event),
        event.stream,
        event.type,
        label,
        probability,
        body.decode(),
    )
