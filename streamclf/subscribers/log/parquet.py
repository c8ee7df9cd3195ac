"""A log of Parquet files in a directory, `events.parquet/date=2026-01-31/part-000000012.parquet`, as DuckDB, Spark and
pandas read it.

Events wait in memory until they fill a file, or are old enough. A file is written under another name and renamed, so
that one is either complete or not there, and says in its metadata how far the log has come with it. What waits when the
process is killed is in no file: the next start asks the service's journal for it again.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from streamclf.errors import JournalError, UsageError
from streamclf.events.positions import Position
from streamclf.events.types import Action, Lost, Prediction, Status, StreamEvent, published_json
from streamclf.runtime.file_lock import open_locked
from streamclf.subscribers.log.rotation import Rotation, drop_oldest, sorted_by_number, sync_directory

if TYPE_CHECKING:
    import pyarrow as pa

MAX_WAITING: Final = 100_000
"""Events in memory, at most, and in one file."""
MAX_WAITING_BYTES: Final = 64 << 20
DEFAULT_AGE_S: Final = 600.0
_NAME: Final = re.compile(r"part-(\d{9,})\.parquet")
_META: Final = b"streamclf"


class ParquetSink:
    """One row an event; a lost range is a row of type `lost`, from `offset` to `last`."""

    def __init__(self, path: Path, rotation: Rotation | None = None) -> None:
        try:
            import pyarrow.parquet  # noqa: F401 - to say now, not after ten minutes, that it is missing
        except ImportError:
            raise UsageError(f"{path}: Parquet needs pyarrow: pip install 'streamclf[parquet]'") from None
        limits = rotation or Rotation()
        if limits.max_bytes is not None and limits.max_bytes > MAX_WAITING_BYTES:
            raise UsageError(f"rotate={limits.max_bytes} bytes: at most 64MiB for Parquet, whose files wait in memory")
        self._path, self._keep = path, limits.keep
        self._max_bytes = limits.max_bytes or MAX_WAITING_BYTES
        self._max_age_s = DEFAULT_AGE_S if limits.max_age_s is None else limits.max_age_s
        self._waiting: list[StreamEvent | Lost] = []
        self._waiting_bytes = 0
        self._since = 0.0
        self._lock_fd = self._lock()
        try:
            for left in path.glob("date=*/*.parquet.new"):
                left.unlink()
            files = self._files()
            self._number = _number(files[-1]) if files else 0
            self._stored = self._seen = self._position_of(files[-1]) if files else None
        except OSError as error:
            os.close(self._lock_fd)
            raise JournalError(f"{path}: {error.strerror}; give a new directory on a writable disk") from error
        except BaseException:
            os.close(self._lock_fd)
            raise

    def position(self) -> Position | None:
        """Where to go on: behind the newest complete file."""
        return self._stored

    def write(self, events: Sequence[StreamEvent | Lost], position: Position | None) -> int:
        """Take them; they are in a file when that is full or old enough, or closed."""
        new = [event for event in events if not self._known(event)]
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting += new
        self._waiting_bytes += sum(0 if isinstance(event, Lost) else len(event.raw) or 512 for event in new)
        self._seen = position or self._seen
        self.tend()
        return sum(not isinstance(event, Lost) for event in new)

    def tend(self) -> None:
        """Complete a file when it is time."""
        full = len(self._waiting) >= MAX_WAITING or self._waiting_bytes >= self._max_bytes
        if full or (self._waiting and time.monotonic() - self._since >= self._max_age_s):
            self._complete()

    def close(self) -> None:
        """Complete the last file."""
        try:
            if self._waiting:
                self._complete()
        finally:
            os.close(self._lock_fd)

    def _known(self, event: StreamEvent | Lost) -> bool:
        if self._seen is None or isinstance(event, Lost) or event.offset is None:
            return False
        return event.epoch == self._seen.epoch and event.offset <= self._seen.offset

    def _complete(self) -> None:
        """One file for each date in what waits, in order: a crash in between leaves out only later ones."""
        waiting = self._waiting
        dates = [_date(item) for item in waiting]
        begin = 0
        for end in range(1, len(waiting) + 1):
            if end == len(waiting) or dates[end] != dates[begin]:
                position = self._seen if end == len(waiting) else _last_position(waiting[:end]) or self._stored
                self._write_file(dates[begin], waiting[begin:end], position)
                self._waiting = waiting[end:]  # not sooner: what a full disk refuses waits for the next try
                begin = end
        self._waiting_bytes = 0
        drop_oldest(self._files(), self._keep)

    def _write_file(self, date: str, items: Sequence[StreamEvent | Lost], position: Position | None) -> None:
        import pyarrow.parquet as pq

        directory = self._path / f"date={date}"
        target = directory / f"part-{self._number + 1:09}.parquet"
        fresh = target.with_name(target.name + ".new")
        try:
            directory.mkdir(exist_ok=True)
            with fresh.open("wb") as file:
                pq.write_table(_table(items, position), file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(target)
            sync_directory(directory)
            sync_directory(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise JournalError(
                f"{target}: {error.strerror}; nothing is lost: free space, and start this command again"
            ) from error
        self._number += 1
        self._stored = position

    def _files(self) -> list[Path]:
        found = [each for day in self._path.glob("date=*") for each in sorted_by_number(day, _NAME)]
        return sorted(found, key=_number)

    def _position_of(self, path: Path) -> Position | None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            meta = orjson.loads((pq.read_schema(path).metadata or {})[_META])
            return None if meta["epoch"] is None else Position(str(meta["epoch"]), int(meta["offset"]))
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise JournalError(f"{path}: not a file of ours ({error}); give a new directory") from None

    def _lock(self) -> int:
        try:
            self._path.mkdir(exist_ok=True)
            # Only what is ours is touched: a directory of somebody else's Parquet files is not.
            foreign = [each for each in self._path.iterdir() if not each.name.startswith(("date=", "."))]
            if foreign:
                raise JournalError(f"{self._path}: holds {foreign[0].name}, which is not ours; give a new directory")
            fd = open_locked(self._path / ".lock")
        except OSError as error:
            raise JournalError(f"{self._path}: {error.strerror}; give the path of a directory") from error
        if fd is None:
            raise JournalError(f"{self._path}: another process writes it; stop that one, or give another path")
        return fd


def _date(item: StreamEvent | Lost) -> str:
    moment = datetime.now(timezone.utc) if isinstance(item, Lost) else item.time.astimezone(timezone.utc)
    return f"{moment:%Y-%m-%d}"


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None  # it was found by this name
    return int(match[1])


def _last_position(items: Sequence[StreamEvent | Lost]) -> Position | None:
    for item in reversed(items):
        offset = item.last if isinstance(item, Lost) else item.offset
        if offset is not None:
            return Position(item.epoch, offset)
    return None


def _table(items: Sequence[StreamEvent | Lost], position: Position | None) -> pa.Table:
    import pyarrow as pa

    names = pa.dictionary(pa.int32(), pa.string())
    meta = {"v": 1, "epoch": position and position.epoch, "offset": position and position.offset}
    schema = pa.schema(
        [
            ("epoch", names),
            ("offset", pa.int64()),
            ("last", pa.int64()),
            ("time", pa.timestamp("us", tz="UTC")),
            ("stream", names),
            ("type", names),
            ("label", names),
            ("probability", pa.float64()),
            ("state", names),
            ("body", pa.string()),
        ],
        metadata={_META: orjson.dumps(meta)},
    )
    return pa.Table.from_pylist([_row(item) for item in items], schema=schema)


def _row(item: StreamEvent | Lost) -> dict[str, Any]:
    if isinstance(item, Lost):
        return {"epoch": item.epoch, "offset": item.first, "last": item.last, "type": "lost"}
    row: dict[str, Any] = {
        "epoch": item.epoch, "offset": item.offset, "time": item.time, "stream": item.stream, "type": item.type,
        "body": published_json(item).decode(),
    }  # fmt: skip
    match item:
        case Prediction():
            row["label"], row["probability"] = item.top[0]
        case Action():
            row |= {"label": item.label, "probability": item.probability, "state": item.phase}
        case Status():
            row["state"] = item.state
    return row
