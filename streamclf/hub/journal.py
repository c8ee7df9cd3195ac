"""Write the journal, the durable log of events: one SQLite file, committed before anything is published.

The hub is the only writer; readers are in `streamclf.hub.journal_reader`. Offsets come from AUTOINCREMENT's own
counter, so SQLite never assigns one twice, not even after retention. Producers' sequence numbers are committed together
with their events, which makes a resend harmless.
"""

from __future__ import annotations

import logging
import sqlite3
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from streamclf.errors import JournalError
from streamclf.events.types import MAX_LISTED_STREAMS
from streamclf.events.views import UNNAMED, ViewKey
from streamclf.hub.journal_file import MAX_CHECK_S, JournalFiles, open_database, set_aside
from streamclf.hub.last_in_views import LastInViews
from streamclf.hub.retention import Retention
from streamclf.units import NS

log = logging.getLogger(__name__)

_RETRY_S = (0.5, 5.0)
"""After a failed commit, the first pause before the next attempt, and the longest after it has doubled."""
_RUNNING_CHECK_S = 1.0
"""Longest check of a file that is opened while events wait."""
_NOT_KEPT = "events are published without being kept"
_KEEP_PRODUCERS_S = 86400.0
"""A day: a producer that sends nothing for this long will not send a draft again."""


@dataclass(frozen=True, slots=True)
class Record:
    """One event to journal; `body(offset, previous)` makes its JSON once both offsets are known."""

    stream: str
    type: str
    body: Callable[[int | None, int], bytes]
    view: ViewKey = UNNAMED


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as journalled and published; `offset` is None if it could not be journalled."""

    offset: int | None
    stream: str
    type: str
    body: bytes
    view: ViewKey = UNNAMED


class Journal:
    """The journal's only writer, which locks the files until it is closed."""

    def __init__(self, path: Path, *, keep_s: float, keep_bytes: int | None = None) -> None:
        self._files = JournalFiles(path)
        self.path = self._files.path
        """The path without symbolic links; `damaged` files are set aside in its directory."""
        self.epoch, self.head, self.oldest = "", 0, 1
        self._last_by_stream: dict[str, int] = {}
        self._is_open, self._lost_because = False, ""
        self.keep_s = keep_s
        """Retention in seconds; it may be changed at any time, like `keep_bytes`."""
        self.keep_bytes = keep_bytes
        try:
            self._db = self._open_or_replace(MAX_CHECK_S)
        except BaseException:
            self._files.close()
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
        self._files.close()

    def append(
        self, records: Sequence[Record], producers: Mapping[bytes, int], notes: Mapping[str, bytes] | None = None
    ) -> list[Entry]:
        """Commit `records`, the producers' sequence numbers and `notes` in one transaction; return what to publish.

        A full or failing disk raises no error. Then the events are returned without an offset, `durable` is False, and
        `not_durable` counts them. After a short pause the next append tries the disk again.
        """
        self.check()
        if self._is_open and time.monotonic() >= self._retry_at:
            try:
                entries = self._commit(records, producers, notes or {})
            except sqlite3.DatabaseError as error:
                self._handle_failure(error)
            else:
                if entries is not None:
                    self._record_success()
                    return entries
        self.not_durable += len(records)
        previous = self._last_by_stream
        return [Entry(None, r.stream, r.type, r.body(None, previous.get(r.stream, 0)), r.view) for r in records]

    def sequence_of(self, instance: bytes) -> int:
        """Return a producer's highest sequence number in the journal, 0 for an unknown producer."""
        if not self._is_open:
            return 0
        row = self._db.execute("SELECT seq FROM producers WHERE instance=?", (instance,)).fetchone()
        return int(row[0]) if row else 0

    def note(self, key: str) -> bytes | None:
        """Return the note that was committed last under `key`."""
        row = self._db.execute("SELECT value FROM notes WHERE key=?", (key,)).fetchone()
        return bytes(row[0]) if row else None

    def __contains__(self, stream: object) -> bool:
        """Return whether a stream has ever had an event in this journal."""
        return stream in self._last_by_stream

    def last(self) -> dict[str, int]:
        """Return the last offset of each stream, or of the most recently active ones if there are very many."""
        if len(self._last_by_stream) <= MAX_LISTED_STREAMS:
            return self._last_by_stream
        recent = sorted(self._last_by_stream.items(), key=lambda item: -item[1])[:MAX_LISTED_STREAMS]
        return dict(recent)

    def retain(self) -> int:
        """Remove up to `RETENTION_STEP` events that are too old or too many; return how many were removed."""
        try:
            return self._retain() if self._is_open and self._files.changed() is None else 0
        except sqlite3.DatabaseError as error:
            log.warning("journal %s: retention postponed: %s", self.path, error)
            return 0

    def _retain(self) -> int:
        now_ns = time.time_ns()
        upto = self._retention.step_upto(now_ns, self.keep_s, self.keep_bytes)
        if upto is None:
            return 0
        self._db.execute("BEGIN IMMEDIATE")
        try:
            removed = self._retention.remove(upto)
            self._db.execute("DELETE FROM producers WHERE seen_ns<?", (now_ns - int(_KEEP_PRODUCERS_S * NS),))
            self._db.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self._db.execute("PRAGMA incremental_vacuum(64)").fetchall()
        self._files.record()
        self.oldest = max(self.oldest, upto + 1)
        return removed

    def _commit(
        self, records: Sequence[Record], producers: Mapping[bytes, int], notes: Mapping[str, bytes]
    ) -> list[Entry] | None:
        """Return what was committed, or None if the files were removed or replaced at the same time."""
        now_ns = time.time_ns()
        last: dict[str, int] = {}
        entries: list[Entry] = []
        for offset, record in enumerate(records, self.head + 1):
            previous = last.get(record.stream) or self._last_by_stream.get(record.stream, 0)
            entries.append(Entry(offset, record.stream, record.type, record.body(offset, previous), record.view))
            last[record.stream] = offset
        newest = {(entry.stream, entry.type): entry.offset for entry in entries}
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                "INSERT INTO events VALUES(?,?,?,?,?,?)",
                [(e.offset, e.stream, e.type, now_ns, zlib.crc32(e.body), e.body) for e in entries],
            )
            self._last_in_views.write(entries)
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
        if why := self._files.moved():  # the events are in a file that nobody can open again
            self._replace(why, is_damaged=False)
            return None
        self._last_in_views.note_committed(entries)
        self.head += len(entries)
        self._last_by_stream.update(last)
        self._files.mark_head(self.epoch, self.head)
        self._files.record()
        return entries

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # SQLite may have rolled back by itself
            self._db.execute("ROLLBACK")

    def _handle_failure(self, error: sqlite3.DatabaseError) -> None:
        if type(error) is sqlite3.DatabaseError:  # the file was damaged while open: a retry cannot help
            self._replace(str(error), is_damaged=True)
        elif isinstance(error, sqlite3.IntegrityError):
            self._replace(f"{error}: another program writes to it", is_damaged=False)
        else:
            self._report_failure(f"{error}; {_NOT_KEPT} until it can be written again (free space on its disk)")

    def _report_failure(self, text: str) -> None:
        if self.durable:
            log.error("journal %s: %s", self.path, text)
        self.durable = False
        self._retry_at = time.monotonic() + self._retry_wait_s
        self._retry_wait_s = min(2 * self._retry_wait_s, _RETRY_S[1])

    def _record_success(self) -> None:
        if not self.durable:
            log.warning("journal %s: events are kept again; %d were not", self.path, self.not_durable)
        self.durable = True
        self._retry_wait_s = _RETRY_S[0]

    def check(self) -> None:
        """Open the journal again, or begin a new one, if somebody has removed, replaced or changed its files.

        `append` checks too; this is for times without events.
        """
        if time.monotonic() >= self._retry_at and (why := self._changed()):
            self._replace(why, is_damaged=False)

    def _changed(self) -> str | None:
        return self._files.changed() if self._is_open else self._lost_because

    def _replace(self, why: str, *, is_damaged: bool) -> None:
        """Open the file that has the journal's name now; without one, or with a damaged one, a new journal begins."""
        epoch, head = self.epoch, self.head
        self._files.extend_index()
        self._db.close()
        self._is_open, self._lost_because = False, why
        try:
            self._files.detach_log()
            if is_damaged:
                set_aside(self.path, why)
            self._db = self._open_or_replace(_RUNNING_CHECK_S)
        except (JournalError, sqlite3.Error, OSError) as error:
            self._report_failure(f"{why}; {_NOT_KEPT}, because no other can be opened: {error}")
            return
        if self.epoch == epoch:
            log.error("journal %s: %s; opened again, with events up to %d", self.path, why, self.head)
        else:
            log.error(
                "journal %s: %s; a new journal begins, and events up to %d of the old one cannot be replayed",
                self.path,
                why,
                head,
            )

    def _open_or_replace(self, max_check_s: float) -> sqlite3.Connection:
        try:
            return self._open(max_check_s)
        except sqlite3.OperationalError as error:
            raise JournalError(
                f"journal {self.path}: {error}; it must be on a writable local disk, unlocked and with free space"
            ) from error
        except sqlite3.DatabaseError as error:
            set_aside(self.path, str(error))
        try:
            return self._open(max_check_s)
        except sqlite3.Error as error:
            raise JournalError(f"journal {self.path}: cannot be created ({error})") from error

    def _open(self, max_check_s: float = MAX_CHECK_S) -> sqlite3.Connection:
        self._files.claim()
        db = open_database(self.path, max_check_s)
        try:
            self._load(db)
            self._skip_published(db)
            self._retention = Retention(db)
        except BaseException:
            db.close()
            raise
        self._files.record()
        self._is_open = True
        return db

    def _load(self, db: sqlite3.Connection) -> None:
        self.epoch = str(db.execute("SELECT value FROM meta WHERE key='epoch'").fetchone()[0])
        row = db.execute("SELECT seq FROM sqlite_sequence WHERE name='events'").fetchone()
        self.head = int(row[0]) if row else 0
        lowest = db.execute("SELECT min(offset) FROM events").fetchone()[0]
        self.oldest = self.head + 1 if lowest is None else int(lowest)
        self._last_in_views = LastInViews(db)
        self._last_by_stream = {
            str(stream): int(offset)
            for stream, offset in db.execute("SELECT stream, max(offset) FROM last GROUP BY stream")
        }

    def _skip_published(self, db: sqlite3.Connection) -> None:
        """Skip the offsets of events that were published but that the disk has lost, so that no offset is used twice.

        SQLite silently treats a truncated or damaged write-ahead log as one that ends there.
        """
        marked = self._files.read_head()
        if marked is None or marked[0] != self.epoch or marked[1] <= self.head:
            return
        first, last = self.head + 1, marked[1]
        log.error("journal %s: its disk lost events %d to %d, which had been published", self.path, first, last)
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO gone VALUES(?,?)", (first, last))
        db.execute("DELETE FROM sqlite_sequence WHERE name='events'")
        db.execute("INSERT INTO sqlite_sequence VALUES('events', ?)", (last,))
        db.execute("COMMIT")
        self._load(db)
