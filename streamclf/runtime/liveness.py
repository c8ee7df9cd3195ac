"""Signs of life: each child's work loop promises when it will be heard of again; the supervisor holds it to that.

One page of shared memory for a service, one line of it for a child. A promise is a point on CLOCK_MONOTONIC, which all
processes of a machine share, written as one aligned 8-byte word: no reader ever sees half of it, and neither side makes
a system call or wakes the other. Only a loop's own thread gives signs of life (`streamclf.runtime.child.Stop`): a
library call that hangs keeps it from doing so, which no thread beside it can hide.
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

NS: Final = 1_000_000_000
LINES: Final = 1024
LINE_BYTES: Final = 64
"""A cache line: children that beat at the same time do not slow each other down."""

Phase = Literal["starting", "connecting", "reading", "compiling", "classifying", "serving"]
_PHASES: Final = get_args(Phase)


class _Word(IntEnum):
    DUE_NS = 0
    LIMIT_NS = 1
    PHASE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """What a child last said: it would be heard of again before `due_ns` (CLOCK_MONOTONIC)."""

    due_ns: int
    limit_ns: int
    phase: Phase

    def silence_s(self, now_ns: int) -> float | None:
        """Seconds since the last sign of life, if that is longer than was promised."""
        return None if now_ns <= self.due_ns else (now_ns - self.due_ns + self.limit_ns) / NS


class Liveness:
    """A child's end. Without a line (a loop run by hand) it says nothing to nobody."""

    def __init__(self, fd: int | None = None, line: int = 0) -> None:
        self._words: memoryview | None = None
        self._limit_ns = 0
        if fd is not None:
            start = line * LINE_BYTES
            self._words = memoryview(mmap.mmap(fd, LINES * LINE_BYTES))[start : start + LINE_BYTES].cast("q")
            self._limit_ns = self._words[_Word.LIMIT_NS]

    def expect(self, phase: Phase, limit_s: float) -> None:
        """From now on signs of life come at least every `limit_s`: the longest that one step of `phase` may take."""
        self._limit_ns = round(limit_s * NS)
        if self._words is not None:
            self._words[_Word.PHASE] = _PHASES.index(phase)
            self._words[_Word.LIMIT_NS] = self._limit_ns
        self.beat()

    def beat(self) -> None:
        """A sign of life; to be given by the thread that does the work."""
        if self._words is not None:
            self._words[_Word.DUE_NS] = time.monotonic_ns() + self._limit_ns


class LivenessTable:
    """The supervisor's end: all lines."""

    def __init__(self) -> None:
        size = LINES * LINE_BYTES
        try:
            self.fd = allocate(size)
        except OSError as error:
            raise RingError(f"{size // 1024} KiB of shared memory: {error.strerror}; free some memory") from error
        self._memory = mmap.mmap(self.fd, size)
        self._words = memoryview(self._memory).cast("q")
        self._free = list(range(LINES - 1, -1, -1))

    def close(self) -> None:
        """Give the memory back; children still running keep theirs."""
        self._words.release()
        self._memory.close()
        os.close(self.fd)

    def take(self) -> int:
        """A line for a new child."""
        if not self._free:
            raise RingError(f"more than {LINES} processes; serve fewer streams on this machine")
        return self._free.pop()

    def give_back(self, line: int) -> None:
        """The child of this line is gone for good."""
        self._free.append(line)

    def begin(self, line: int, limit_s: float) -> None:
        """A process is being started: its first sign of life is due in `limit_s`."""
        first = line * LINE_BYTES // 8
        self._words[first + _Word.PHASE] = _PHASES.index("starting")
        self._words[first + _Word.LIMIT_NS] = round(limit_s * NS)
        self._words[first + _Word.DUE_NS] = time.monotonic_ns() + round(limit_s * NS)

    def read(self, line: int) -> Deadline:
        """What the child of this line said last."""
        first = line * LINE_BYTES // 8
        phase = self._words[first + _Word.PHASE]
        return Deadline(
            due_ns=self._words[first + _Word.DUE_NS],
            limit_ns=self._words[first + _Word.LIMIT_NS],
            phase=_PHASES[phase] if 0 <= phase < len(_PHASES) else "starting",
        )


OVERSLEPT_NS = 3 * NS


GRACE_NS = 5 * NS


class LivenessWatch:
    """Looks at the promises about once a second.

    A judge that overslept judges nobody: when the machine was suspended, or the supervisor itself was stopped, every
    promise is overdue and no child is to blame. All get some time to be heard of again.
    """

    def __init__(self, board: LivenessTable, now_ns: int) -> None:
        self._board = board
        self._looked_ns = now_ns
        self._not_before_ns = now_ns

    def hung(self, lines: Iterable[tuple[str, int]], now_ns: int) -> Iterator[tuple[str, str]]:
        """(name, reason) of each child of `lines`, pairs of its name and its line of the board, that is overdue."""
        if now_ns - self._looked_ns > OVERSLEPT_NS:
            self._not_before_ns = now_ns + GRACE_NS
        self._looked_ns = now_ns
        if now_ns < self._not_before_ns:
            return
        for name, line in lines:
            promise = self._board.read(line)
            silence_s = promise.silence_s(now_ns)
            if silence_s is not None:
                yield name, f"hung: no sign of life for {silence_s:.1f} s while {promise.phase}"
