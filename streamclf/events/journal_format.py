"""Identify a journal's SQLite file: the hub writes it, and `streamclf query` and `streamclf backup` read it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from streamclf.errors import JournalError

APPLICATION_ID: Final = 0x73636C66
"""The bytes "sclf" distinguish a journal from any other SQLite file."""
DATABASE_HEAD: Final = b"SQLite format 3\0"
"""The first bytes of every SQLite file that is not empty (https://sqlite.org/fileformat.html, 1.3.1)."""
FORMAT: Final = 1
"""The version of the tables. It grows with a change that an older version of this project would misread."""


def check_format(db: sqlite3.Connection, path: Path) -> None:
    """Raise `JournalError` for a journal of a newer version. An empty file and an older journal pass."""
    has_meta = db.execute("SELECT 1 FROM sqlite_master WHERE type='table' AND name='meta'").fetchone()
    row = db.execute("SELECT value FROM meta WHERE key='format'").fetchone() if has_meta else None
    if row is not None and not (isinstance(row[0], int) and row[0] <= FORMAT):
        raise JournalError(
            f"journal {path}: format {row[0]}, and this version of streamclf reads formats up to {FORMAT}; "
            "install the version that wrote it, or give another path"
        )
