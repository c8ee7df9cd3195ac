"""Store the last offset of each view in the journal, for snapshots. Streams without named views need only `last`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Protocol

from streamclf.events.views import UNNAMED, ViewKey


class _Entry(Protocol):
    @property
    def offset(self) -> int | None: ...
    @property
    def stream(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def view(self) -> ViewKey: ...


class LastInViews:
    """Write the table `last_in_views` within the journal's transactions."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._streams = {str(stream) for (stream,) in db.execute("SELECT DISTINCT stream FROM last_in_views")}

    def write(self, entries: Sequence[_Entry]) -> None:
        """Write the offsets of `entries`, before table `last` has them."""
        new = _streams_with_views(entries) - self._streams
        for stream in new:  # its earlier events have no names
            self._db.execute(
                "INSERT OR IGNORE INTO last_in_views "
                "SELECT stream, type, '', '', offset FROM last WHERE stream=? AND type<>'status'",
                (stream,),
            )
        streams = self._streams | new
        newest = {
            (entry.stream, entry.type, entry.view.region or "", entry.view.model_name or ""): entry.offset
            for entry in entries
            if entry.type != "status" and entry.stream in streams
        }
        if newest:
            self._db.executemany(
                "INSERT INTO last_in_views VALUES(?,?,?,?,?) "
                "ON CONFLICT(stream, type, region, model_name) DO UPDATE SET offset=excluded.offset",
                [(*key, offset) for key, offset in newest.items()],
            )

    def note_committed(self, entries: Sequence[_Entry]) -> None:
        """Remember the streams of `entries` that have named views; they are on disk now."""
        self._streams |= _streams_with_views(entries)


def _streams_with_views(entries: Iterable[_Entry]) -> set[str]:
    return {entry.stream for entry in entries if entry.view != UNNAMED}
