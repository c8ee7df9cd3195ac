"""Write events as JSON lines into one file or a sequence of files. The last line holds the position.

The current file is `events.jsonl`. Once it is large or old enough, it is renamed to `events.000001.jsonl`, then
`events.000002.jsonl` and so on, and a new one begins. Between the rename and the new file there is no current file; the
newest complete file then holds the position.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import orjson

from streamclf.config.log_file import Rotation
from streamclf.errors import JournalError
from streamclf.events.positions import Position
from streamclf.events.types import TIME_FORMAT, Lost, StreamEvent, published_json
from streamclf.runtime.durable_files import append, sync_directory
from streamclf.runtime.file_lock import open_locked
from streamclf.subscribers.log.rotation import complete_files, next_name, surplus

_READ_BYTES = 1 << 20
_FIRST_LINE_BYTES = 1 << 17
"""More than the longest line: an event has at most 64 KiB."""
_OPENING = b'{"'
"""The first bytes of every log."""


class JsonlSink:
    """Write each event as one line, byte for byte as published, in the order of the journal.

    A lost range is a line of type `lost`. One process at a time writes a log; the current file is locked.
    """

    def __init__(self, path: Path, rotation: Rotation | None = None) -> None:
        self._path, self._rotation = path, (rotation or Rotation()).for_lines()
        self._fd = self._open()
        try:
            self._position = self._recover()
            self._began_s = self._first_time_s()
            self._remove_old()
        except OSError as error:
            os.close(self._fd)
            raise self._fault(error) from error
        except BaseException:
            os.close(self._fd)
            raise

    def position(self) -> Position | None:
        """Return where to resume; None for a new log."""
        return self._position

    def write(self, events: Sequence[StreamEvent | Lost], position: Position | None) -> None:
        """Append `events` in one write and sync it to the disk. After a crash, the next start repairs the last line.

        Events that the log already holds are left out. Raises `JournalError`; the file is then as before.
        """
        known = self._position
        new = [event for event in events if known is None or not _covers(known, event)]
        data = b"".join(line_of(event) for event in new)
        end = os.fstat(self._fd).st_size
        try:
            if new and self._rotation.is_due(end, len(data), time.time() - self._began_s):
                self._rotate()
                end = 0
            if new and end == 0:
                self._began_s = time.time()
            append(self._fd, data)
        except OSError as error:
            raise self._fault(error) from error
        self._position = position or known

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _fault(self, error: OSError) -> JournalError:
        return JournalError(
            f"{error.filename or self._path}: {error.strerror}; nothing is lost: free space or correct the "
            "permissions, and start this command again"
        )

    def _open(self) -> int:
        path = self._path
        try:
            fd = open_locked(path, os.O_APPEND, mode=0o644)
        except OSError as error:
            raise JournalError(f"{path}: cannot be opened ({error.strerror}); give a writable path") from error
        if fd is None:
            raise JournalError(f"{path}: another process writes it; stop that process, or give another path")
        return fd

    def _rotate(self) -> None:
        self._path.rename(next_name(self._path))
        sync_directory(self._path.parent)
        new_fd = self._open()
        os.close(self._fd)
        self._fd = new_fd
        self._remove_old()

    def _remove_old(self) -> None:
        """Remove the complete files that the limits do not allow; the current file needs room for its full size."""
        limits = self._rotation
        found: list[tuple[Path, os.stat_result]] = []
        for path in complete_files(self._path):
            with contextlib.suppress(FileNotFoundError):  # moved away meanwhile, or a link to a disk that is away
                found.append((path, path.stat()))
        count = surplus(
            [(each.st_size, each.st_mtime) for _, each in found],
            keep=limits.keep,
            keep_bytes=None if limits.keep_bytes is None else limits.keep_bytes - (limits.max_bytes or 0),
            oldest_s=None if limits.keep_s is None else time.time() - limits.keep_s,
        )
        for path, _ in found[:count]:
            path.unlink(missing_ok=True)

    def _recover(self) -> Position | None:
        """Cut off a line that a crash left half written, then find the last line with an offset, in any file."""
        opening = os.pread(self._fd, len(_OPENING), 0)
        if not _OPENING.startswith(
            opening
        ):  # checked before anything is cut off: the file may belong to another program
            raise JournalError(f"{self._path}: begins with {opening!r}, not like a log of streamclf; give a new file")
        end = _end_of_lines(self._fd)
        os.ftruncate(self._fd, end)
        if position := self._last_position(self._fd, end):
            return position
        for path in reversed(complete_files(self._path)):
            with path.open("rb") as file:
                if position := self._last_position(file.fileno(), _end_of_lines(file.fileno())):
                    return position
        return None

    def _last_position(self, fd: int, end: int) -> Position | None:
        """Find the last position before `end`. Read backwards in pieces: the last lines may have no offset."""
        tail, begin = b"", end
        while begin > 0:
            size = min(_READ_BYTES, begin)
            begin -= size
            tail = os.pread(fd, size, begin) + tail
            # The first piece may be the end of a longer line, unless it is at the beginning of the file.
            first, *lines = tail.split(b"\n")
            if begin == 0:
                lines.insert(0, first)
            for line in reversed(lines):
                if line and (position := self._position_of(line)):
                    return position
            tail = first + b"\n"
        return None

    def _position_of(self, line: bytes) -> Position | None:
        try:
            return position_of(line)
        except ValueError:
            raise JournalError(
                f"{self._path}: holds a line that is not an event of streamclf ({line[:60]!r}); give a new file"
            ) from None

    def _first_time_s(self) -> float:
        """Take the file's age from its first event, so that a restart does not make the file younger."""
        head = os.pread(self._fd, _FIRST_LINE_BYTES, 0)
        with contextlib.suppress(ValueError):
            if (line := head.partition(b"\n")[0]) and (time_s := _time_of_s(line)):
                return time_s
        return time.time()


def line_of(item: StreamEvent | Lost) -> bytes:
    """Return the line of an event or lost range: one JSON object and a line break, with no other line break in it."""
    if not isinstance(item, Lost):
        return published_json(item) + b"\n"
    return orjson.dumps({"type": "lost", "epoch": item.epoch, "first": item.first, "last": item.last}) + b"\n"


def position_of(line: bytes) -> Position | None:
    """Return where a log that ends with `line` resumes; None for an event without offset. Raises `ValueError`."""
    try:
        event = orjson.loads(line)
        offset = event["last"] if event["type"] == "lost" else event["offset"]
        return None if offset is None else Position(str(event["epoch"]), int(offset))
    except (KeyError, TypeError) as error:  # orjson raises a ValueError if the line is not JSON
        raise ValueError("not an event") from error


def _time_of_s(line: bytes) -> float | None:
    """Return the time of the event in `line`, in seconds since 1970; None if it has no time. Raises `ValueError`."""
    event = orjson.loads(line)
    text = event.get("time", "") if isinstance(event, dict) else ""
    try:
        return datetime.strptime(text.removesuffix("Z"), TIME_FORMAT).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def _end_of_lines(fd: int) -> int:
    """Return the offset in bytes after the last complete line."""
    end = os.fstat(fd).st_size
    while end > 0:
        size = min(_READ_BYTES, end)
        piece = os.pread(fd, size, end - size)
        if b"\n" in piece:
            return end - size + piece.rfind(b"\n") + 1
        end -= size
    return 0


def _covers(position: Position, event: StreamEvent | Lost) -> bool:
    if isinstance(event, Lost) or event.offset is None:
        return False
    return event.epoch == position.epoch and event.offset <= position.offset
