"""A log of lines, in one file or one after the other; its last line says where to go on.

`events.jsonl` is what is written now. Once it is large or old enough it is renamed to `events.000001.jsonl`, then
`events.000002.jsonl`, and a new one begins. Between the two is a moment without one: then the newest complete file
says where to go on.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from streamclf.errors import JournalError
from streamclf.events.positions import Position
from streamclf.events.types import Lost, StreamEvent
from streamclf.runtime.file_lock import open_locked
from streamclf.subscribers.log.line_formats import LineFormat
from streamclf.subscribers.log.rotation import Rotation, completed, drop_oldest, next_name, sync_directory

_TAIL_BYTES = 1 << 20
_HEAD_BYTES = 1 << 17


class TextSink:
    """Lines in the order of the journal; one process writes them."""

    def __init__(self, path: Path, form: LineFormat, rotation: Rotation | None = None) -> None:
        self._path, self._form, self._rotation = path, form, rotation or Rotation()
        self._fd = self._open()
        try:
            self._position = self._recover()
            self._began_s = self._first_time_s()
        except BaseException:
            os.close(self._fd)
            raise

    def position(self) -> Position | None:
        """Where to go on."""
        return self._position

    def write(self, events: Sequence[StreamEvent | Lost], position: Position | None) -> int:
        """One write, brought to disk; what a crash leaves of it is completed by the next start."""
        known = self._position
        new = [event for event in events if known is None or not _covers(known, event)]
        data = b"".join(self._form.line(event) for event in new)
        end = os.fstat(self._fd).st_size
        try:
            if new and self._rotation.due(end, len(data), time.time() - self._began_s):
                self._rotate()
                end = 0
            if new and end == 0:
                data = self._form.header + data
                self._began_s = time.time()
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

    def tend(self) -> None:
        """Nothing waits here: `write` brings all to disk."""

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _open(self) -> int:
        path = self._path
        try:
            fd = open_locked(path, os.O_APPEND, mode=0o644)
        except OSError as error:
            raise JournalError(f"{path}: cannot be opened ({error.strerror}); give a writable path") from error
        if fd is None:
            raise JournalError(f"{path}: another process writes it; stop that one, or give another path")
        return fd

    def _rotate(self) -> None:
        self._path.rename(next_name(self._path))
        sync_directory(self._path.parent)
        fresh = self._open()
        os.close(self._fd)
        self._fd = fresh
        drop_oldest(completed(self._path), self._rotation.keep)

    def _recover(self) -> Position | None:
        """Cut off a line that a crash left half written, then find the last line, in whichever file, with an offset."""
        begin = os.pread(self._fd, len(self._form.opening), 0)
        if not self._form.opening.startswith(begin):  # before anything is cut off of what may be somebody else's
            raise JournalError(f"{self._path}: begins with {begin!r}, not like a log of ours; give a new file")
        end = _end_of_lines(self._fd)
        os.ftruncate(self._fd, end)
        if position := self._last_position(self._fd, end):
            return position
        for path in reversed(completed(self._path)):
            with path.open("rb") as file:
                if position := self._last_position(file.fileno(), _end_of_lines(file.fileno())):
                    return position
        return None

    def _last_position(self, fd: int, end: int) -> Position | None:
        """Reads backwards, in pieces: very many events without an offset may stand at the end."""
        tail, begin = b"", end
        while begin > 0:
            step = min(_TAIL_BYTES, begin)
            begin -= step
            tail = os.pread(fd, step, begin) + tail
            # The first piece may be the end of a longer line, unless it is the beginning of the file.
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
            return self._form.position(line)
        except ValueError:
            raise JournalError(
                f"{self._path}: holds a line that is not an event of ours ({line[:60]!r}); give a new file"
            ) from None

    def _first_time_s(self) -> float:
        """How old a file is, its first event knows: a restart does not make it any younger."""
        head = os.pread(self._fd, _HEAD_BYTES, 0).removeprefix(self._form.header)
        with contextlib.suppress(ValueError):
            if (line := head.partition(b"\n")[0]) and (time_s := self._form.time_s(line)):
                return time_s
        return time.time()


def _end_of_lines(fd: int) -> int:
    """Where the last complete line ends."""
    end = os.fstat(fd).st_size
    while end > 0:
        step = min(_TAIL_BYTES, end)
        piece = os.pread(fd, step, end - step)
        if b"\n" in piece:
            return end - step + piece.rfind(b"\n") + 1
        end -= step
    return 0


def _covers(position: Position, event: StreamEvent | Lost) -> bool:
    if isinstance(event, Lost) or event.offset is None:
        return False
    return event.epoch == position.epoch and event.offset <= position.offset


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
