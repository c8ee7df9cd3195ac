"""Store actions, clips and state changes, in whatever order the events arrive, and find them again.

The page reads the newest events first, so the end of an action often arrives before its start.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final

from streamclf.errors import JournalError
from streamclf.events.types import MAX_LISTED_STREAMS, StreamEvent
from streamclf.subscribers.web.history import search
from streamclf.subscribers.web.history.database import REMEDY, open_database
from streamclf.subscribers.web.history.recording import Recorder
from streamclf.subscribers.web.history.records import ActionFilter, ActionPage, ActionRecord, ClipRecord, StateChange

MAX_ACTIONS: Final = 50_000
"""Actions that are kept, the newest ones, besides those with a starred clip."""
MAX_STATES: Final = 10_000
_PRUNED_AT_ONCE: Final = 500


class History:
    """The actions and clips of one service, newest first. Any thread may call it.

    `path` None keeps them in memory. With `streams`, only events of these are read and found.
    """

    def __init__(self, path: Path | None = None, streams: Collection[str] | None = None) -> None:
        self.path = path
        self.streams = None if streams is None else tuple(sorted(streams))
        self._db = open_database(path)
        self._lock = threading.RLock()
        self._version = 1
        self._epochs: frozenset[str] = frozenset()
        self._recorder = Recorder(self._db)

    def __enter__(self) -> History:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @property
    def version(self) -> int:
        """A number that grows with each change, so that a page knows when to read again."""
        return self._version

    @property
    def count(self) -> int:
        """The number of actions, deleted ones included."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM actions").fetchone()[0])

    # Writing

    def add(self, events: Iterable[StreamEvent], covered: tuple[str, int, int] | None = None) -> None:
        """Store events, which may be stored already. Raises `JournalError`.

        `covered` is a range (epoch, first, last): `events` has all actions and clips with these offsets.
        """
        with self._transaction():
            changed = [self._recorder.add(event) for event in events]
            if covered is not None:
                self._cover(*covered)
            if any(changed):
                self._prune()
                self._version += 1

    def set_epoch(self, *epochs: str) -> None:
        """Set the present journals, several in a fleet: an action of another one cannot run any more."""
        if self._epochs != (present := frozenset(epochs)):
            self._epochs = present
            self._version += 1

    def uncovered(self, epoch: str, first: int, last: int) -> list[tuple[int, int]]:
        """Return the ranges of offsets from `first` to `last` that were not read yet, newest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT first, last FROM covered WHERE epoch=? AND last>=? AND first<=? ORDER BY first DESC",
                (self._scope(epoch), first, last),
            ).fetchall()
        missing = []
        for low, high in rows:
            if high < last:
                missing.append((high + 1, last))
            last = low - 1
        return [*missing, (first, last)] if first <= last else missing

    def star(self, file: str, *, starred: bool) -> None:
        """Record that the clip `file` has a star, or has none any more."""
        with self._transaction():
            self._db.execute("UPDATE clips SET starred=? WHERE file=?", (starred, file))
            self._version += 1

    def forget_clip(self, file: str) -> None:
        """Remove a clip whose file is gone."""
        with self._transaction():
            self._db.execute("DELETE FROM clip_actions WHERE clip IN (SELECT id FROM clips WHERE file=?)", (file,))
            self._db.execute("DELETE FROM clips WHERE file=?", (file,))
            self._version += 1

    def adopt(self, clip: ClipRecord) -> None:
        """Add a starred clip from the folder, unless it is known: the journal no longer has its events."""
        with self._transaction():
            if self._recorder.adopt(clip):
                self._version += 1

    def delete(self, action: ActionRecord) -> None:
        """Hide an action for ever; the caller has removed the files of its clips."""
        with self._transaction():
            key = (action.epoch, action.offset)
            self._db.execute("UPDATE actions SET deleted=1 WHERE epoch=? AND offset=?", key)
            self._db.execute("DELETE FROM clip_actions WHERE epoch=? AND action=?", key)
            self._db.execute("DELETE FROM clips WHERE id NOT IN (SELECT clip FROM clip_actions)")
            self._version += 1

    # Reading

    def find(
        self, chosen: ActionFilter, *, limit: int, cursor: str | None = None, names: Mapping[str, str] | None = None
    ) -> ActionPage:
        """Return up to `limit` actions, newest first. A text may match the display names in `names`."""
        with self._lock:
            return search.find(
                self._db, self._restricted(chosen), limit, cursor, names or {}, self._epochs, self._version
            )

    def get(self, offset: int, epoch: str | None = None) -> ActionRecord | None:
        """Return one action, of the present journal or else the newest with this offset; None if there is none."""
        with self._lock:
            found = search.get(self._db, offset, epoch, self._epochs)
        return found if found is None or self.streams is None or found.stream in self.streams else None

    def _restricted(self, chosen: ActionFilter) -> ActionFilter:
        if self.streams is None:
            return chosen
        streams = [each for each in chosen.streams or self.streams if each in self.streams]
        return replace(chosen, streams=tuple(streams) or ("",))  # no stream has this name

    def clip_users(self, file: str) -> list[tuple[str, int]]:
        """Return (epoch, offset) of the actions that are in a clip and not deleted."""
        with self._lock:
            rows = self._db.execute(
                "SELECT u.epoch, u.action FROM clips c JOIN clip_actions u ON u.clip=c.id LEFT JOIN actions a "
                "ON a.epoch=u.epoch AND a.offset=u.action WHERE c.file=? AND coalesce(a.deleted, 0)=0",
                (file,),
            )
            return [(str(epoch), int(action)) for epoch, action in rows]

    def known_labels(self) -> list[str]:
        """Return the labels of all actions, sorted."""
        return self._known("label", 1000)

    def known_streams(self) -> list[str]:
        """Return the streams of all actions, sorted."""
        return self._known("stream", MAX_LISTED_STREAMS)

    def known_regions(self) -> list[str]:
        """Return the regions of all actions, sorted; "" for the whole picture."""
        return self._known("region", 1000)

    def known_models(self) -> list[str]:
        """Return the names of the models of all actions, sorted; "" for the model without a name."""
        return self._known("model_name", 1000)

    def _known(self, column: str, limit: int) -> list[str]:
        streams = self.streams or ()
        where = "" if self.streams is None else f" WHERE stream IN ({','.join('?' * len(streams))})"
        sql = f"SELECT DISTINCT {column} FROM actions{where} ORDER BY 1 LIMIT ?"  # noqa: S608 - no values in it
        with self._lock:
            return [str(row[0]) for row in self._db.execute(sql, (*streams, limit))]

    def state_changes(self, limit: int, stream: str | None = None) -> list[StateChange]:
        """Return the newest changes of the streams' states, newest first."""
        with self._lock:
            return search.state_changes(self._db, limit, stream)

    def _cover(self, epoch: str, first: int, last: int) -> None:
        """Add a range to the covered ones, joined with those that it touches."""
        scope = self._scope(epoch)
        touched = (scope, last + 1, first - 1)
        where = "epoch=? AND first<=? AND last>=?"
        low, high = self._db.execute(f"SELECT min(first), max(last) FROM covered WHERE {where}", touched).fetchone()  # noqa: S608
        self._db.execute(f"DELETE FROM covered WHERE {where}", touched)  # noqa: S608
        joined = (first, last) if low is None else (min(first, low), max(last, high))
        self._db.execute("INSERT INTO covered VALUES(?,?,?)", (scope, *joined))

    def _scope(self, epoch: str) -> str:
        """Return the key of the covered ranges: with other streams, the same offsets have to be read again."""
        return epoch if self.streams is None else f"{epoch}/{zlib.crc32(','.join(self.streams).encode()):08x}"

    def _prune(self) -> None:
        """Remove the oldest actions and state changes beyond the limits."""
        excess = self.count - MAX_ACTIONS
        if excess >= _PRUNED_AT_ONCE:
            self._db.execute(
                "DELETE FROM actions WHERE id IN (SELECT a.id FROM actions a WHERE NOT EXISTS (SELECT 1 FROM "
                "clip_actions u JOIN clips c ON c.id=u.clip WHERE u.epoch=a.epoch AND u.action=a.offset AND c.starred) "
                "ORDER BY a.began_us LIMIT ?)",
                (excess,),
            )
            self._db.execute(
                "DELETE FROM clip_actions WHERE NOT EXISTS (SELECT 1 FROM actions a WHERE a.epoch=clip_actions.epoch "
                "AND a.offset=clip_actions.action) AND action < (SELECT max(action) FROM clip_actions)"
            )
            self._db.execute("DELETE FROM clips WHERE id NOT IN (SELECT clip FROM clip_actions)")
        self._db.execute(
            "DELETE FROM states WHERE id IN (SELECT id FROM states ORDER BY time_us DESC LIMIT -1 OFFSET ?)",
            (MAX_STATES,),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise JournalError(f"{self.path or 'history'}: {error}; free space, or {REMEDY}") from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
