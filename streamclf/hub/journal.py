"""Write the journal, the durable log of events: one SQLite file, committed before anything is published.

The hub is the only writer; readers are in `streamclf.hub.journal_reader`. Offsets come from AUTOINCREMENT's own
counter, so SQLite never assigns one twice, not even after retention. Producers' sequence numbers are committed together
with their events, which makes a resend harmless.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from streamclf.errors import JournalError
from streamclf.events.types import MAX_LISTED_STREAMS
from streamclf.hub.journal_file import SCHEMA, check_database, claim_database, lock_journal, set_aside

log = logging.getLogger(__name__)

FORMAT: Final = 1
RETENTION_STEP: Final = 500
"""Events removed in one transaction: about a millisecond, so that publishing never waits for retention."""
_HEAD_MARK_BYTES = 64
"""Size of the text `epoch head` in the lock file, which shows events that the disk has lost."""
_BUSY_S = 0.25
"""Longest wait for a lock on the database, which a reader holds only for moments."""
_RETRY_S = (0.5, 5.0)
"""After a failed commit, the first pause before the next attempt, and the longest after it has doubled."""
_KEEP_PRODUCERS_S = 86400.0
"""A day: a producer that sends nothing for this long will not send a draft again."""


@dataclass(frozen=True, slots=True)
class Record:
    """One event to journal; `body(offset, previous)` makes its JSON once both offsets are known."""

    stream: str
    type: str
    body: Callable[[int | None, int], bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as journalled and published; `offset` is None if it could not be journalled."""

    offset: int | None
    stream: str
    type: str
    body: bytes


class Journal:
    """The journal's only writer, which holds an exclusive lock on `PATH.lock` until it is closed."""

    def __init__(self, path: Path, *, keep_s: float, keep_bytes: int | None = None) -> None:
        self.path = path
        self.epoch, self.head, self.oldest = "", 0, 1
        self._last_by_stream: dict[str, int] = {}
        self.keep_s = keep_s
        """Retention in seconds; it may be changed at any time, like `keep_bytes`."""
        self.keep_bytes = keep_bytes
        self._lock_fd = lock_journal(path)
        try:
            self._db = self._open_or_replace()
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._retry_at = 0.0
        self._retry_wait_s = _RETRY_S[0]
        self.durable = True
        self.not_durable = 0

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Merge the write-ahead log into the file and release the lock."""
        try:
            self._db.close()
        except sqlite3.Error as error:
            log.warning("journal %s: closed with %s; the next start recovers it", self.path, error)
        os.close(self._lock_fd)

    def append(
        self, records: Sequence[Record], producers: Mapping[bytes, int], notes: Mapping[str, bytes] | None = None
    ) -> list[Entry]:
        """Commit `records`, the producers' sequence numbers and `notes` in one transaction; return what to publish.

        A full or failing disk raises no error. Then the events are returned without an offset, `durable` is False, and
        `not_durable` counts them. After a short pause the next append tries the disk again.
        """
        if time.monotonic() >= self._retry_at:
            try:
                entries = self._commit(records, producers, notes or {})
            except sqlite3.DatabaseError as error:
                self._handle_failure(error)
            else:
                self._record_success()
                return entries
        self.not_durable += len(records)
        previous = self._last_by_stream
        return [Entry(None, r.stream, r.type, r.body(None, previous.get(r.stream, 0))) for r in records]

    def sequence_of(self, instance: bytes) -> int:
        """Return a producer's highest sequence number in the journal, 0 for an unknown producer."""
        row = self._db.execute("SELECT seq FROM producers WHERE instance=?", (instance,)).fetchone()
        return int(row[0]) if row else 0

    def note(self, key: str) -> bytes | None:
        """Return the note that was committed last under `key`."""
        row = self._db.execute("SELECT value FROM notes WHERE key=?", (key,)).fetchone()
        return bytes(row[0]) if row else None

    def last(self) -> dict[str, int]:
        """Return the last offset of each stream, or of the most recently active ones if there are very many."""
        if len(self._last_by_stream) <= MAX_LISTED_STREAMS:
            return self._last_by_stream
        recent = sorted(self._last_by_stream.items(), key=lambda item: -item[1])[:MAX_LISTED_STREAMS]
        return dict(recent)

    def retain(self) -> int:
        """Remove up to `RETENTION_STEP` events that are too old or too many; return how many were removed.

        Every event before an expired one counts as expired too, even if a clock that was set back gave it a later time.
        """
        try:
            return self._retain()
        except sqlite3.DatabaseError as error:
            log.warning("journal %s: retention postponed: %s", self.path, error)
            return 0

    def _retain(self) -> int:
        upto = self._expired_upto(time.time_ns() - int(self.keep_s * 1e9))
        if upto is None:
            return 0
        self._db.execute("BEGIN IMMEDIATE")
        try:
            removed = self._db.execute("DELETE FROM events WHERE offset<=?", (upto,)).rowcount
            self._db.execute("DELETE FROM gone WHERE last<=?", (upto,))
            self._db.execute("DELETE FROM producers WHERE seen_ns<?", (time.time_ns() - int(_KEEP_PRODUCERS_S * 1e9),))
            self._db.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self._db.execute("PRAGMA incremental_vacuum(64)").fetchall()
        self.oldest = max(self.oldest, upto + 1)
        return removed

    def _expired_upto(self, cutoff_ns: int) -> int | None:
        step = "SELECT offset, time_ns FROM events ORDER BY offset LIMIT ?"
        if self.keep_bytes is not None and self._used_bytes() > self.keep_bytes:
            row = self._db.execute(f"SELECT max(offset) FROM ({step})", (RETENTION_STEP,)).fetchone()  # noqa: S608
        else:
            row = self._db.execute(
                f"SELECT max(offset) FROM ({step}) WHERE time_ns<?",  # noqa: S608
                (RETENTION_STEP, cutoff_ns),
            ).fetchone()
        return None if row is None or row[0] is None else int(row[0])

    def _used_bytes(self) -> int:
        pages, free, size = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def _commit(
        self, records: Sequence[Record], producers: Mapping[bytes, int], notes: Mapping[str, bytes]
    ) -> list[Entry]:
        now_ns = time.time_ns()
        last: dict[str, int] = {}
        entries: list[Entry] = []
        for offset, record in enumerate(records, self.head + 1):
            previous = last.get(record.stream) or self._last_by_stream.get(record.stream, 0)
            entries.append(Entry(offset, record.stream, record.type, record.body(offset, previous)))
            last[record.stream] = offset
        newest = {(entry.stream, entry.type): entry.offset for entry in entries}
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                "INSERT INTO events VALUES(?,?,?,?,?,?)",
                [(e.offset, e.stream, e.type, now_ns, zlib.crc32(e.body), e.body) for e in entries],
            )
            self._db.executemany(
                "INSERT INTO last VALUES(?,?,?) ON CONFLICT(stream, type) DO UPDATE SET offset=excluded.offset",
                [(stream, kind, offset) for (stream, kind), offset in newest.items()],
            )
            self._db.executemany(
                "INSERT INTO producers VALUES(?,?,?) "
                "ON CONFLICT(instance) DO UPDATE SET seq=excluded.seq, seen_ns=excluded.seen_ns",
                [(instance, seq, now_ns) for instance, seq in producers.items()],
            )
            if notes:
                self._db.executemany("INSERT OR REPLACE INTO notes VALUES(?,?)", list(notes.items()))
            self._db.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self.head += len(entries)
        self._last_by_stream.update(last)
        self._mark_head()
        return entries

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # SQLite may have rolled back by itself
            self._db.execute("ROLLBACK")

    def _handle_failure(self, error: sqlite3.DatabaseError) -> None:
        if not isinstance(error, sqlite3.OperationalError):  # the file was damaged while open: a retry cannot help
            log.error("journal %s: %s", self.path, error)
            self._db.close()
            set_aside(self.path, str(error))
            self._db = self._open()
            return
        if self.durable:
            log.error(
                "journal %s: %s; events are published without being kept until it can be written again "
                "(free space on its disk)",
                self.path,
                error,
            )
        self.durable = False
        self._retry_at = time.monotonic() + self._retry_wait_s
        self._retry_wait_s = min(2 * self._retry_wait_s, _RETRY_S[1])

    def _record_success(self) -> None:
        if not self.durable:
            log.warning("journal %s: events are kept again; %d were not", self.path, self.not_durable)
        self.durable = True
        self._retry_wait_s = _RETRY_S[0]

    def _open_or_replace(self) -> sqlite3.Connection:
        try:
            return self._open()
        except sqlite3.OperationalError as error:
            raise JournalError(
                f"journal {self.path}: {error}; it must be on a writable local disk, unlocked and with free space"
            ) from error
        except sqlite3.DatabaseError as error:
            set_aside(self.path, str(error))
        try:
            return self._open()
        except sqlite3.Error as error:
            raise JournalError(f"journal {self.path}: cannot be created ({error})") from error

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, timeout=_BUSY_S)
        try:
            check_database(db, self.path)
            claim_database(db, self.path)
            db.executescript(SCHEMA)
            db.execute("PRAGMA synchronous=FULL")
            db.execute("INSERT OR IGNORE INTO meta VALUES('epoch', ?)", (uuid.uuid4().hex,))
            db.execute("INSERT OR IGNORE INTO meta VALUES('format', ?)", (FORMAT,))
            self._load(db)
            self._skip_published(db)
        except BaseException:
            db.close()
            raise
        return db

    def _load(self, db: sqlite3.Connection) -> None:
        meta = dict(db.execute("SELECT key, value FROM meta"))
        if meta["format"] != FORMAT:
            raise JournalError(
                f"journal {self.path}: format {meta['format']}, this version writes {FORMAT}; give another path"
            )
        self.epoch = str(meta["epoch"])
        row = db.execute("SELECT seq FROM sqlite_sequence WHERE name='events'").fetchone()
        self.head = int(row[0]) if row else 0
        lowest = db.execute("SELECT min(offset) FROM events").fetchone()[0]
        self.oldest = self.head + 1 if lowest is None else int(lowest)
        self._last_by_stream = {
            str(stream): int(offset)
            for stream, offset in db.execute("SELECT stream, max(offset) FROM last GROUP BY stream")
        }

    def _skip_published(self, db: sqlite3.Connection) -> None:
        """Skip the offsets of events that were published but that the disk has lost, so that no offset is used twice.

        SQLite silently treats a truncated or damaged write-ahead log as one that ends there.
        """
        epoch, _, head = os.pread(self._lock_fd, _HEAD_MARK_BYTES, 0).decode("ascii", "replace").partition(" ")
        if epoch != self.epoch or not head.strip().isdigit() or int(head) <= self.head:
            return
        first, last = self.head + 1, int(head)
        log.error("journal %s: its disk lost events %d to %d, which had been published", self.path, first, last)
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO gone VALUES(?,?)", (first, last))
        db.execute("DELETE FROM sqlite_sequence WHERE name='events'")
        db.execute("INSERT INTO sqlite_sequence VALUES('events', ?)", (last,))
        db.execute("COMMIT")
        self._load(db)

    def _mark_head(self) -> None:
        os.pwrite(self._lock_fd, f"{self.epoch} {self.head}".ljust(_HEAD_MARK_BYTES).encode(), 0)
