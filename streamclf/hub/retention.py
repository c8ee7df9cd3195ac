"""Find the events that the journal no longer keeps, in the journal's order, whatever the system's clock did."""

from __future__ import annotations

import sqlite3
from typing import Final

from streamclf.units import NS

RETENTION_STEP: Final = 500
"""Events removed in one transaction: about a millisecond, so that publishing never waits for retention."""
_HIGHEST: Final = "retention"
"""Key in the table `meta`: the latest time of the events that were removed."""


class Retention:
    """Find expired events step by step; each event is examined about once.

    An event has the time of the system's clock, which may have been wrong. An event expires when its own time, or the
    time of a later event, is too old. So a time in the future does not keep events for ever. And an event that is older
    than its predecessor was stamped while the clock was set back: it expires only together with a later event.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        row = db.execute("SELECT value FROM meta WHERE key=?", (_HIGHEST,)).fetchone()
        self._highest_ns = int(row[0]) if row else 0
        self._examined = self._expired = 0

    def step_upto(self, now_ns: int, keep_s: float, keep_bytes: int | None) -> int | None:
        """Return the offset up to which the next step removes events, or None if all of them are kept."""
        step = "SELECT offset FROM events ORDER BY offset LIMIT ?"
        first, last = self._db.execute(f"SELECT min(offset), max(offset) FROM ({step})", (RETENTION_STEP,)).fetchone()  # noqa: S608
        if first is None:
            return None
        if keep_bytes is not None and self._used_bytes() > keep_bytes:
            return int(last)
        self._examine(now_ns, now_ns - keep_s * NS)
        return min(int(last), self._expired) if self._expired >= first else None

    def remove(self, upto: int) -> int:
        """Remove the events up to an offset, within the caller's transaction; return how many were removed."""
        removed = self._db.execute("DELETE FROM events WHERE offset<=?", (upto,)).rowcount
        self._db.execute("DELETE FROM last_in_views WHERE offset<=?", (upto,))
        self._db.execute("DELETE FROM gone WHERE last<=?", (upto,))
        self._db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (_HIGHEST, self._highest_ns))
        return removed

    def _examine(self, now_ns: int, oldest_ns: float) -> None:
        if self._highest_ns > now_ns:  # stamped by a clock that was ahead
            self._highest_ns = 0
        rows = self._db.execute(
            "SELECT offset, time_ns FROM events WHERE offset>? ORDER BY offset LIMIT ?",
            (self._examined, RETENTION_STEP),
        )
        for offset, time_ns in rows:
            if oldest_ns <= time_ns <= now_ns:
                return  # this event is kept, and so is every later one
            if self._highest_ns <= time_ns < oldest_ns:
                self._highest_ns, self._expired = int(time_ns), int(offset)
            self._examined = int(offset)

    def _used_bytes(self) -> int:
        pages, free, size = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size
