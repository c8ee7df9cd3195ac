"""Show the progress of teaching: a bar or lines on a terminal, or one JSON object a line on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import orjson
from rich.console import Console

from engines.printable import printable
from streamclf.commands.progress_bar import make_bar
from streamclf.teach.limits import MIN_CLIPS
from streamclf.teach.listener import Stage
from streamclf.units import duration_text

JSON_EVERY_S: Final = 0.2
REDRAW_EVERY_S: Final = 0.1
LINE_EVERY_S: Final = 10.0
LEAST_SHARE: Final = 0.02
"""Below this share of the work, the time left would be a guess."""
MAX_NAME_CHARS: Final = 40
STAGES: Final[Mapping[Stage, str]] = {
    "read": "reading",
    "measure": "measuring on held-out films",
    "fit": "fitting the head",
    "write": "writing the bundle",
}


class _Clock:
    """Estimate the time left, and limit how often progress is shown."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self._began_s, self._shown_s = every_s, time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Return whether to show the progress now; the next time is then later."""
        now_s = time.monotonic()
        if now_s - self._shown_s < self._every_s:
            return False
        self._shown_s = now_s
        return True

    def left_s(self, share: float) -> float | None:
        """Return the estimated seconds left; None while too little is done for an estimate."""
        return None if share < LEAST_SHARE else (time.monotonic() - self._began_s) * (1 - share) / share


class JsonListener:
    """Print each event as one JSON object on stdout. `docs/teach.md` describes them."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._clock = _Clock(JSON_EVERY_S)
        self._films = 0
        self._last: tuple[str, int] = ("", 0)

    def start(self, base: str, labels: Mapping[str, int], films: int) -> None:
        """See `Listener`."""
        self._films = films
        self.print(event="start", base=base, output=self._output, labels=dict(labels), films=films, needed=MIN_CLIPS)

    def progress(self, stage: Stage, share: float, film: str | None = None, number: int = 0) -> None:
        """See `Listener`."""
        due = self._clock.is_due()
        if not due and self._last == (stage, number):
            return
        self._last = (stage, number)
        left_s = self._clock.left_s(share)
        event = {"event": "progress", "stage": stage, "share": round(share, 4), "text": STAGES[stage]}
        if film is not None:
            event |= {"film": film, "film_number": number, "films": self._films}
        self.print(**event, left_s=None if left_s is None else round(left_s, 1))

    def fault(self, film: str, reason: str) -> None:
        """See `Listener`."""
        self.print(event="fault", film=film, reason=reason)

    def note(self, text: str) -> None:
        """See `Listener`."""
        self.print(event="note", text=text)

    def print(self, **event: Any) -> None:
        """Print one event."""
        sys.stdout.buffer.write(orjson.dumps(event) + b"\n")
        sys.stdout.buffer.flush()


class TerminalListener:
    """Show a bar on a terminal, else a line every ten seconds, on stderr."""

    def __init__(self) -> None:
        self._bar = make_bar(Console(stderr=True))
        self._clock = _Clock(LINE_EVERY_S if self._bar is None else REDRAW_EVERY_S)
        self._films = 0
        self._task = None if self._bar is None else self._bar.add_task("", total=1.0, left="")

    def __enter__(self) -> TerminalListener:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, base: str, labels: Mapping[str, int], films: int) -> None:
        """See `Listener`."""
        self._films = films
        shown = ", ".join(f"{printable(label)} {count}" for label, count in list(labels.items())[:12])
        self._print(f"clips: {shown}{', …' if len(labels) > 12 else ''}; encoder of {printable(base)}")

    def progress(self, stage: Stage, share: float, film: str | None = None, number: int = 0) -> None:
        """See `Listener`."""
        if not self._clock.is_due():
            return
        name = printable(film or "")
        name = name if len(name) <= MAX_NAME_CHARS else f"…{name[1 - MAX_NAME_CHARS :]}"
        where = STAGES[stage] if film is None else f"film {number} of {self._films}: {name}"
        left_s = self._clock.left_s(share)
        left = "" if left_s is None else f"{duration_text(left_s)} left"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=share, description=where, left=left)
        else:
            self._print(f"{where}, {share:.0%}{left and f', {left}'}")

    def fault(self, film: str, reason: str) -> None:
        """See `Listener`."""
        self._print(f"passed over: {printable(film)}: {printable(reason)}")

    def note(self, text: str) -> None:
        """See `Listener`."""
        self._print(f"note: {printable(text)}")

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.stop()
        print(f"streamclf teach: {text}", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.start()
