"""Files that hold every event once: position and data are written together, so neither can be ahead of the other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import orjson

from streamclf.errors import JournalError, UsageError
from streamclf.events import Action, Lost, Prediction, Status, StreamEvent, to_json
from streamclf.subscription import Position

_APPLICATION_ID: Final = 0x73636C67  # "sclg": a log, not the service's own journal
_TAIL_BYTES = 1 << 20

_SCHEMA = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS events(
    id INTEGER PRIMARY KEY, epoch TEXT NOT NULL, offset INTEGER, time TEXT NOT NULL, stream TEXT NOT NULL,
    type TEXT NOT NULL, label TEXT, probability REAL, body TEXT NOT NULL, UNIQUE(epoch, offset));
CREATE INDEX IF NOT EXISTS events_by_stream ON events(stream, time);
CREATE INDEX IF NOT EXISTS events_by_label ON events(label, time);
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

    def close(self) -> None:
        """Finish the file."""
        ...


def open_sink(path: Path) -> Sink:
    """The sink that the file's name asks for. Raises `UsageError` or, for a file that cannot be had, `JournalError`."""
    if not path.parent.is_dir():
        raise UsageError(f"{path}: directory {path.parent} does not exist; create it first")
    if path.suffix in (".db", ".sqlite", ".sqlite3"):
        return SqliteSink(path)
    if path.suffix in (".jsonl", ".ndjson"):
        return JsonlSink(path)
    raise UsageError(f"{path}: ends in {path.suffix or 'nothing'}; give a name that ends in .db or .jsonl")


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

    def close(self) -> None:
        """Close the file."""
        if self._db:
            self._db.close()


class JsonlSink:
    """One JSON object a line; the last line says where to go on. Lost offsets are lines of type `lost`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise JournalError(f"{path}: cannot be opened ({error.strerror}); give a writable path") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise JournalError(f"{path}: another process writes it; stop that one, or give another path") from error
        try:
            self._position = self._recover()
        except BaseException:
            os.close(self._fd)
            raise

    def _recover(self) -> Position | None:
        """Cut off a line that a crash left half written, then find the last line that has an offset."""
        end = os.fstat(self._fd).st_size
        tail, begin = b"", end
        while begin > 0:
            step = min(_TAIL_BYTES, begin)
            begin -= step
            tail = os.pread(self._fd, step, begin) + tail
            complete = tail.rfind(b"\n") + 1
            if complete < len(tail):
                if not complete and begin:
                    continue
                os.ftruncate(self._fd, begin + complete)
                tail = tail[:complete]
            # The first piece may be the end of a longer line, unless it is the beginning of the file.
            lines = tail.splitlines()
            for line in reversed(lines if begin == 0 else lines[1:]):
                if position := self._line_position(line):
                    return position
            tail = lines[0] + b"\n" if lines else b""
        return None

    def _line_position(self, line: bytes) -> Position | None:
        try:
            event = orjson.loads(line)
            epoch, offset = event["epoch"], event["last"] if event["type"] == "lost" else event["offset"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise JournalError(
                f"{self._path}: holds a line that is not an event of ours ({line[:60]!r}); give a new file"
            ) from None
        return Position(str(epoch), int(offset)) if offset is not None else None

    def position(self) -> Position | None:
        """Where to go on."""
        return self._position

    def write(self, events: Sequence[StreamEvent | Lost], position: Position | None) -> int:
        """One write, brought to disk; what a crash leaves of it is completed by the next start."""
        known = self._position
        new = [event for event in events if known is None or not _covers(known, event)]
        data = b"".join(_line(event) for event in new)
        end = os.fstat(self._fd).st_size
        try:
            _write_all(self._fd, data)
            os.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, end)
            raise JournalError(
                f"{self._path}: {error.strerror}; nothing is lost: free space, and start this command again"
            ) from error
        self._position = position or known
        return sum(not isinstance(event, Lost) for event in new)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _covers(position: Position, event: StreamEvent | Lost) -> bool:
    if isinstance(event, Lost) or event.offset is None:
        return False
    return event.epoch == position.epoch and event.offset <= position.offset


def _line(event: StreamEvent | Lost) -> bytes:
    if not isinstance(event, Lost):
        return _published(event) + b"\n"
    return orjson.dumps({"type": "lost", "epoch": event.epoch, "first": event.first, "last": event.last}) + b"\n"


def _published(event: StreamEvent) -> bytes:
    """As it was published; JSON may hold line breaks between its tokens, a line of ours may not."""
    return event.raw if event.raw and b"\n" not in event.raw else to_json(event)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _row(event: StreamEvent) -> tuple[str, int | None, str, str, str, str | None, float | None, str]:
    label, probability = None, None
    match event:
        case Prediction():
            label, probability = event.top[0]
        case Action():
            label, probability = event.label, event.probability
        case Status():
            label = event.state
    body = _published(event)
    return (
        event.epoch,
        event.offset,
        f"{event.time:%Y-%m-%dT%H:%M:%S.%fZ}",
        event.stream,
        event.type,
        label,
        probability,
        body.decode(),
    )
