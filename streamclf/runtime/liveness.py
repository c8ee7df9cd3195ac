"""Detect hung child processes: each child's work loop keeps extending a deadline in shared memory.

One table in shared memory serves the whole service and has one row for each child. A deadline is a point on
CLOCK_MONOTONIC, which all processes of a machine share. It is written as one aligned 8-byte word, so a reader never
sees half of it, and neither side makes a system call or wakes the other. Only the thread that does the work extends its
deadline (`streamclf.runtime.child.ChildControl`). A library call that hangs stops that, and no other thread hides it.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, get_args

from streamclf.errors import RingError
from streamclf.runtime.shared_memory import allocate
from streamclf.units import NS

ROWS: Final = 1024
"""Largest number of children of one service."""
ROW_BYTES: Final = 64
"""A cache line: children that extend their deadlines at the same time do not slow each other down."""
MAX_CHECK_INTERVAL_NS: Final = 3 * NS
"""After a longer pause between two checks, the supervisor assumes that it did not run itself."""
GRACE_NS: Final = 5 * NS
"""After such a pause, children have this long to extend their deadlines before they are checked again."""

Phase = Literal["starting", "connecting", "reading", "compiling", "classifying", "serving"]
_PHASES: Final = get_args(Phase)


class _Word(IntEnum):
    DUE_NS = 0
    LIMIT_NS = 1
    PHASE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """The time by which a child has to report progress again: `due_ns` on CLOCK_MONOTONIC."""

    due_ns: int
    limit_ns: int
    phase: Phase

    def silence_s(self, now_ns: int) -> float | None:
        """Return the seconds since the child last extended its deadline, if that has passed, else None."""
        return None if now_ns <= self.due_ns else (now_ns - self.due_ns + self.limit_ns) / NS


class Liveness:
    """The child's side: write the deadline of one row. Without a descriptor (a loop run by hand) it does nothing."""

    def __init__(self, fd: int | None = None, row: int = 0) -> None:
        self._words: memoryview | None = None
        self._limit_ns = 0
        if fd is not None:
            start = row * ROW_BYTES
            self._words = memoryview(mmap.mmap(fd, ROWS * ROW_BYTES))[start : start + ROW_BYTES].cast("q")
            self._limit_ns = self._words[_Word.LIMIT_NS]

    def enter_phase(self, phase: Phase, limit_s: float) -> None:
        """Begin `phase`, in which one step of the loop takes at most `limit_s`; extend the deadline by that."""
        self._limit_ns = round(limit_s * NS)
        if self._words is not None:
            self._words[_Word.PHASE] = _PHASES.index(phase)
            self._words[_Word.LIMIT_NS] = self._limit_ns
        self.extend()

    def extend(self) -> None:
        """Extend the deadline by the phase's limit. Call it from the thread that does the work."""
        if self._words is not None:
            self._words[_Word.DUE_NS] = time.monotonic_ns() + self._limit_ns


class LivenessTable:
    """The supervisor's side: the shared memory with the deadlines of all children."""

    def __init__(self) -> None:
        size = ROWS * ROW_BYTES
        try:
            self.fd = allocate(size)
        except OSError as error:
            raise RingError(f"{size // 1024} KiB of shared memory: {error.strerror}; free some memory") from error
        self._memory = mmap.mmap(self.fd, size)
        self._words = memoryview(self._memory).cast("q")
        self._free = list(range(ROWS - 1, -1, -1))

    def close(self) -> None:
        """Release the memory. Children that still run keep their mapping."""
        self._words.release()
        self._memory.close()
        os.close(self.fd)

    def claim(self) -> int:
        """Return a free row for a new child. Raises `RingError` where none is left."""
        if not self._free:
            raise RingError(f"more than {ROWS} processes; serve fewer streams on this machine")
        return self._free.pop()

    def release(self, row: int) -> None:
        """Make a row free again, after its child was removed."""
        self._free.append(row)

    def start(self, row: int, limit_s: float) -> None:
        """Set the deadline of a process that is being started: it must extend it within `limit_s`."""
        first = row * ROW_BYTES // 8
        self._words[first + _Word.PHASE] = _PHASES.index("starting")
        self._words[first + _Word.LIMIT_NS] = round(limit_s * NS)
        self._words[first + _Word.DUE_NS] = time.monotonic_ns() + round(limit_s * NS)

    def deadline(self, row: int) -> Deadline:
        """Return the present deadline of the row's child."""
        first = row * ROW_BYTES // 8
        phase = self._words[first + _Word.PHASE]
        return Deadline(
            due_ns=self._words[first + _Word.DUE_NS],
            limit_ns=self._words[first + _Word.LIMIT_NS],
            phase=_PHASES[phase] if 0 <= phase < len(_PHASES) else "starting",
        )


class LivenessWatch:
    """Find children whose deadline has passed; the supervisor checks about once a second.

    When the machine was suspended, or the supervisor itself was stopped, every deadline has passed although no child
    hangs. After such a pause all children get `GRACE_NS` to extend their deadlines.
    """

    def __init__(self, table: LivenessTable, now_ns: int) -> None:
        self._table = table
        self._checked_ns = now_ns
        self._not_before_ns = now_ns

    def find_overdue(self, rows: Iterable[tuple[str, int]], now_ns: int) -> Iterator[tuple[str, str]]:
        """Yield (name, reason) for each child that is overdue; `rows` are (name of a child, its row)."""
        if now_ns - self._checked_ns > MAX_CHECK_INTERVAL_NS:
            self._not_before_ns = now_ns + GRACE_NS
        self._checked_ns = now_ns
        if now_ns < self._not_before_ns:
            return
        for name, row in rows:
            deadline = self._table.deadline(row)
            silence_s = deadline.silence_s(now_ns)
            if silence_s is not None:
                yield name, f"hung: no progress for {silence_s:.1f} s while {deadline.phase}"
