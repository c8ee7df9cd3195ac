"""Read the journal in bounded pages, for replay, while the hub goes on writing it."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class JournalReader:
    """A read-only connection to the journal; any thread may use it, but one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connect()

    def _connect(self) -> None:
        self._inode = self._path.stat().st_ino
        uri = f"{self._path.absolute().as_uri()}?mode=ro"
        self._db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=1.0)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def consistent_view(self) -> Iterator[None]:
        """Let all reads in the `with` block see one state of the journal, whatever is written or removed meanwhile."""
        if self._path.stat().st_ino != self._inode:  # the writer set a damaged file aside
            self._db.close()
            self._connect()
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def bounds(self) -> tuple[str, int, int]:
        """Return the epoch, the oldest offset that is left (head + 1 if there is none) and the head."""
        epoch = str(self._db.execute("SELECT value FROM meta WHERE key='epoch'").fetchone()[0])
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name='events'").fetchone()
        head = int(row[0]) if row else 0
        lowest = self._db.execute("SELECT min(offset) FROM events").fetchone()[0]
        return epoch, head + 1 if lowest is None else int(lowest), head

    def page(
        self, after: int, upto: int, limit: int, streams: Sequence[str] = (), types: Sequence[str] = ()
    ) -> Iterator[tuple[int, bytes | None]]:
        """Yield (offset, body) in order for `after < offset <= upto`; the body is None if its checksum is wrong."""
        where, values = _conditions(streams, types)
        rows = self._db.execute(
            f"SELECT offset, crc, body FROM events WHERE offset>? AND offset<=?{where} ORDER BY offset LIMIT ?",  # noqa: S608
            (after, upto, *values, limit),
        )
        for offset, crc, body in rows:
            yield int(offset), bytes(body) if zlib.crc32(body) == crc else None

    def gone(self, after: int, upto: int) -> list[tuple[int, int]]:
        """Return the ranges within `after < offset <= upto` that were published but that the disk did not keep."""
        rows = self._db.execute(
            "SELECT max(first, ?), min(last, ?) FROM gone WHERE last>? AND first<=?", (after + 1, upto, after, upto)
        )
        return [(int(first), int(last)) for first, last in rows]

    def snapshot(self, limit: int, streams: Sequence[str] = (), types: Sequence[str] = ()) -> list[bytes]:
        """Return the last event of each stream, type and view that is left and undamaged, oldest first."""
        where, values = _conditions(streams, types)
        rows = self._db.execute(
            f"SELECT crc, body FROM events WHERE offset IN (SELECT offset FROM last WHERE 1{where} "  # noqa: S608
            f"UNION SELECT offset FROM last_in_views WHERE 1{where} ORDER BY offset DESC LIMIT ?) ORDER BY offset",
            (*values, *values, limit),
        )
        return [bytes(body) for crc, body in rows if zlib.crc32(body) == crc]


def _conditions(streams: Sequence[str], types: Sequence[str]) -> tuple[str, list[str]]:
    """Return further SQL conditions and their values; an empty sequence adds no condition."""
    where = ""
    values: list[str] = []
    for column, wanted in (("stream", streams), ("type", types)):
        if wanted:
            where += f" AND {column} IN ({','.join('?' * len(wanted))})"
            values.extend(wanted)
    return where, values
