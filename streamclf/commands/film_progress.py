"""Show how far a command has read its films: a bar in a terminal, else a line every ten seconds on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final

from rich.console import Console

from engines.printable import printable
from streamclf.commands.progress_bar import make_bar
from streamclf.sources import Frame, Source
from streamclf.units import duration_text

LINE_EVERY_S: Final = 10.0
REDRAW_EVERY_S: Final = 0.1
LEAST_SHARE: Final = 0.002
"""Below this share of the work, the time left would be a guess."""
MAX_NAME_CHARS: Final = 40


class FilmProgress:
    """Progress through films, measured in bytes of their files, because that needs no film to be opened beforehand.

    `passes`: how often each film is read. `begin` starts a film, `watch` is called with each frame, `begin_pass`
    starts the next reading of the same film. The time left assumes that the rest is as fast as the part done.
    """

    def __init__(self, sizes: Sequence[int], *, passes: int, console: Console | None = None) -> None:
        self._sizes, self._passes = [max(1, size) for size in sizes], passes
        self._total = sum(self._sizes) * passes
        self._began_s = time.monotonic()
        self._printed_s = self._drawn_s = self._began_s
        self._film = -1
        self._pass = 0
        self._done = 0
        self._read = 0
        self._name = self._note = ""
        self._bar = make_bar(console or Console(stderr=True))
        self._task = None if self._bar is None else self._bar.add_task("", total=1.0, left="")

    def __enter__(self) -> FilmProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def share(self) -> float:
        """Return the share of the work that is done, 0 to 1."""
        return min(1.0, (self._done + self._read) / self._total)

    @property
    def left_s(self) -> float | None:
        """Return the estimated seconds left; None while too little is done for an estimate."""
        share = self.share
        return None if share < LEAST_SHARE else (time.monotonic() - self._began_s) * (1 - share) / share

    def begin(self, name: str) -> None:
        """Start the next film."""
        self._film += 1
        self._pass = self._read = 0
        if self._film > 0:
            self._done += self._sizes[self._film - 1] * self._passes
        self._name, self._note = printable(name), ""
        self.tick()

    def begin_pass(self, note: str) -> None:
        """Start to read the present film again; `note` names the purpose."""
        self._pass = min(self._pass + 1, self._passes - 1)
        self._read = self._pass * self._sizes[self._film]
        self._note = note
        self.tick()

    def watch(self, source: Source, frame: Frame) -> None:
        """Count a frame that `source` has returned."""
        size = self._sizes[self._film]
        self._read = max(self._read, self._pass * size + min(source.read_bytes, size))
        self.tick()

    def tick(self) -> None:
        """Show the progress, if it is due."""
        now_s = time.monotonic()
        if self._bar is not None and self._task is not None:
            if now_s - self._drawn_s >= REDRAW_EVERY_S:
                self._drawn_s = now_s
                self._bar.update(self._task, completed=self.share, description=self._where(), left=self._left())
        elif now_s - self._printed_s >= LINE_EVERY_S:
            self._printed_s = now_s
            left = self._left()
            print(f"streamclf: {self._where()}, {self.share:.0%}{left and f', {left}'}", file=sys.stderr, flush=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remove the bar while the block prints to the same terminal."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def _where(self) -> str:
        name = self._name if len(self._name) <= MAX_NAME_CHARS else f"…{self._name[1 - MAX_NAME_CHARS :]}"
        count = f"file {self._film + 1} of {len(self._sizes)}: " if len(self._sizes) > 1 else ""
        return f"{count}{name}{self._note and f' ({self._note})'}"

    def _left(self) -> str:
        left_s = self.left_s
        return "" if left_s is None else f"{duration_text(left_s)} left"
