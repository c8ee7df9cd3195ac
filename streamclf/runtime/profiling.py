"""Measure the processor time of each stage of a process, for `streamclf bench` only.

With `$STREAMCLF_STAGES`, a directory, each process maps a file in it and counts there. A reader compares the files at
two moments. Without the variable the same calls do nothing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

VARIABLE: Final = "STREAMCLF_STAGES"
STAGES: Final = ("decode", "convert", "ring", "encode", "head", "publish")
_BYTES: Final = 2 * 8 * len(STAGES)
_NOTHING: Final = contextlib.nullcontext()

ItemT = TypeVar("ItemT")


class Stages:
    """Stages that count nothing, for a process that is not measured."""

    def __call__(self, stage: str, items: int = 1) -> AbstractContextManager[None]:
        """Return a context manager that counts its time and `items` for `stage`."""
        return _NOTHING

    def through(self, stage: str, source: Iterable[ItemT]) -> Iterable[ItemT]:
        """Return the items of `source`; the time to produce each one counts for `stage`."""
        return source


class CountedStages(Stages):
    """Count nanoseconds of `clock` and items by stage; for one thread only.

    A stage inside another one is not counted twice: its time counts for the inner stage alone.
    """

    def __init__(self, path: Path, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._since = 0
        self._open: list[int] = []
        self._single = {stage: _OpenStage(self, place, 1) for place, stage in enumerate(STAGES)}
        with path.open("w+b") as file:
            file.truncate(_BYTES)
            memory = mmap.mmap(file.fileno(), _BYTES)
        self._counts = memoryview(memory).cast("q")

    def __call__(self, stage: str, items: int = 1) -> AbstractContextManager[None]:
        """See `Stages`."""
        return self._single[stage] if items == 1 else _OpenStage(self, STAGES.index(stage), items)

    def through(self, stage: str, source: Iterable[ItemT]) -> Iterator[ItemT]:
        """See `Stages`."""
        place, iterator = STAGES.index(stage), iter(source)
        while True:
            self.enter(place)
            made = 0
            try:
                item = next(iterator)
                made = 1
            except StopIteration:
                return
            finally:
                self.leave(made)
            yield item

    def enter(self, place: int) -> None:
        """Begin the stage at `place`."""
        now = self._clock()
        if self._open:
            self._counts[2 * self._open[-1]] += now - self._since
        self._open.append(place)
        self._since = now

    def leave(self, items: int) -> None:
        """End the stage that began last, with `items` done."""
        now = self._clock()
        place = self._open.pop()
        self._counts[2 * place] += now - self._since
        self._counts[2 * place + 1] += items
        self._since = now


class _OpenStage:
    def __init__(self, stages: CountedStages, place: int, items: int) -> None:
        self._stages, self._place, self._items = stages, place, items

    def __enter__(self) -> None:
        self._stages.enter(self._place)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stages.leave(self._items if error is None else 0)


def open_stages(process: str, *, clock: Callable[[], int] = time.thread_time_ns) -> Stages:
    """Return the counters of this process, called `process`.

    `clock` is the thread's time, or `time.process_time_ns` where a library computes in threads of its own.
    """
    folder = os.environ.get(VARIABLE)
    return CountedStages(Path(folder) / f"{process}.{os.getpid()}", clock) if folder else Stages()


def read_stages(folder: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Return (nanoseconds, items) so far by process, also of ended processes, and stage."""
    found = {}
    for path in sorted(folder.iterdir()):
        counts = memoryview(path.read_bytes().ljust(_BYTES, b"\0")).cast("q")
        found[path.name] = {stage: (counts[2 * i], counts[2 * i + 1]) for i, stage in enumerate(STAGES)}
    return found
