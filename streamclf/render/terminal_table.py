"""Draw a live table for the terminal: the label of each stream, its probability, rate, latency and latest changes.

The table uses the whole width of the terminal, and no more lines than the terminal has.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeAlias

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.segment import Segment
from rich.text import Text

from engines.printable import printable
from streamclf.client.stream_views import ServiceView, StreamState, ViewState
from streamclf.events.types import Action, Heartbeat, Lost, Prediction, Received, Status
from streamclf.events.views import SEPARATOR, UNNAMED, title, view_of
from streamclf.render.palette import STATES, label_hex
from streamclf.render.terminal_rows import (
    NO_LABEL,
    count_rows,
    display_name,
    outlet_table,
    probability_table,
    stream_table,
)

MAX_CHANGES = 6
MAX_EXPLANATIONS = 8
_SEPARATOR = "  ·  "
_FRAME_CELLS = 4
"""Cells of the frame and its margins in a line."""
_FRAME_LINES = 2
_MIN_LINES = 8
_ALL_LINES = 1_000_000
"""In a file or a pipe, the table has as many lines as it needs."""

_Line: TypeAlias = list[Segment]


class LiveTable:
    """Collect events; print it with rich to draw the table of them. Not thread-safe.

    `footer` holds short texts for the lower edge, the most important one first; those that do not fit there are written
    above it. `hint` is always shown after them. `notes` are written above the lower edge.
    """

    def __init__(self, title: str, subject: str = "", *, hint: str = "Ctrl-C ends") -> None:
        self.title = Text.assemble((title, "bold"), f"  {printable(subject)}" if subject else "")
        self.hint = hint
        self.footer: tuple[Text, ...] = ()
        self.notes: tuple[Text, ...] = ()
        self.service = ServiceView()
        self._changes: deque[Text] = deque(maxlen=MAX_CHANGES)

    def apply(self, event: Received, *, age_s: float = 0.0) -> None:
        """Show `event`, which is `age_s` old. An old event is not listed as a change."""
        if age_s == 0:
            self._list_changes(event)
        self.service.apply(event, time.monotonic() - age_s)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = max(_MIN_LINES, console.size.height) if console.is_terminal else _ALL_LINES
        width = options.max_width - _FRAME_CELLS
        subtitle, left_over = self._fit_footer(width)
        page = _Page(console, options.update(width=width, height=None), lines - _FRAME_LINES + 1)
        yield Panel(
            self._fill(page, width, [*left_over, *self.notes]),
            title=self.title,
            subtitle=subtitle or None,
            title_align="left",
            subtitle_align="left",
        )

    def _fill(self, page: _Page, width: int, notes: Sequence[Text]) -> RenderableType:
        """Draw the parts that fit into the page. The important ones take their lines first."""
        views = self.service.streams
        written_notes = page.take(notes)
        names = self._shown(page.lines)
        shown = {name: views[name] for name in names}
        streams, reasons = stream_table(shown, width, is_silent=self.service.is_silent(time.monotonic()))
        rows = page.take([streams])
        if len(names) < len(views):
            more = f"and {len(views) - len(names)} streams more: enlarge the window, or use streamclf status --json"
            rows += page.take([Text(more, "dim")])
        outlets, outlet_reasons = outlet_table(self.service, width)
        explanations = page.take_some([*reasons, *outlet_reasons], MAX_EXPLANATIONS)
        written_outlets = page.take([outlets] if self.service.outlets else [])
        bars = page.take(_bars(next(iter(views.values())), width) if len(views) == 1 else [])
        changes = page.take_newest(list(self._changes))
        sections = [rows, bars, written_outlets, explanations, changes, written_notes]
        return _Lines([section for section in sections if section])

    def _shown(self, lines: int) -> list[str]:
        """Return the names of the streams to show. If not all fit, those that are not live come first."""
        views = self.service.streams
        names = sorted(views)
        most = lines - 4  # the header, the line that counts the others, and a blank line after each
        if sum(count_rows(view) for view in views.values()) < most:
            return names
        explained = min(MAX_EXPLANATIONS, sum(view.state != "live" for view in views.values()))
        most = max(1, most - min(2 * explained, most // 3))
        names.sort(key=lambda name: (views[name].state == "live", name))
        ends = list(accumulate(count_rows(views[name]) for name in names))
        return names[: max(1, sum(end <= most for end in ends))]

    def _fit_footer(self, width: int) -> tuple[Text, list[Text]]:
        """Return the lower edge, and the texts that do not fit into it."""
        shown: list[Text] = []
        left_over: list[Text] = []
        room = width - 2 - cell_len(self.hint)
        for part in self.footer:
            room -= part.cell_len + len(_SEPARATOR)
            (shown if room >= 0 else left_over).append(part)
        texts = [*shown, Text(self.hint)] if self.hint else shown
        return Text(_SEPARATOR).join(texts), left_over

    def _list_changes(self, event: Received) -> None:
        """Compare a new event with the view of its stream, which does not hold the event yet."""
        if isinstance(event, Heartbeat | Lost) or (view := self.service.find_or_add(event.stream)) is None:
            return
        name = display_name(event.stream, view)
        if not isinstance(event, Status):
            name = title(name, view_of(event))
        match event:
            case Status():
                name = printable(event.name) if event.name else name
                if (event.state, event.reason) != (view.state, view.reason):
                    self._add_change(name, Text(event.state, STATES[event.state]), event.reason or "")
                if view.hop is not None and event.hop not in (None, view.hop):
                    self._add_change(name, Text(f"hop {event.hop}"), f"it was {view.hop}")
            case Prediction():
                before = view.views.get(view_of(event), ViewState()).present
                if before is not None and {each for each, _ in before} != {each for each, _ in event.present}:
                    probability = f"{event.present[0][1]:.2f} " if event.present else ""
                    detail = f"{probability}at {event.window.end_s:.1f} s"
                    self._add_change(name, _labels_text([label for label, _ in event.present]), detail)
            case Action() if event.phase != "update":
                change = Text(f"{printable(event.label)} {event.phase}", label_hex(event.label))
                self._add_change(name, change, "")

    def _add_change(self, name: str, change: Text, detail: str) -> None:
        line = Text.assemble((time.strftime("%H:%M:%S "), "dim"), (f"{name}  ", "bold"), change)
        self._changes.append(line.append(f"  {printable(detail)}", "dim") if detail else line)


def _bars(view: StreamState, width: int) -> list[RenderableType]:
    """Draw the probabilities of a stream, each named view below its name."""
    parts: list[RenderableType] = []
    for key, part in view.ordered_views():
        if key != UNNAMED and part.top:
            parts.append(Text(SEPARATOR.join(key.names), "bold"))
        parts.append(probability_table(part, width))
    return parts


def _labels_text(labels: Sequence[str]) -> Text:
    if not labels:
        return Text(NO_LABEL, "dim")
    return Text(", ").join(Text(printable(label), label_hex(label)) for label in labels)


class _Page:
    """Give the parts of the table their lines, and a blank line between two parts, as long as there are some."""

    def __init__(self, console: Console, options: ConsoleOptions, lines: int) -> None:
        self._console, self._options = console, options
        self.lines = lines
        """Lines that are left."""

    def take(self, parts: Sequence[RenderableType]) -> list[_Line]:
        """Return the lines of `parts`; the last lines are left out if they do not fit."""
        return self._use(self._draw(Group(*parts)) if parts else [])

    def take_some(self, texts: Sequence[Text], most: int) -> list[_Line]:
        """Return the lines of the first texts, each one complete, and a line that counts the others."""
        drawn = [self._draw(text) for text in texts]
        shown: list[_Line] = []
        for number, lines in enumerate(drawn):
            rest = len(drawn) - number
            if number == most or len(shown) + len(lines) + (rest > 1) > self.lines - 1:
                shown += self._draw(Text(f"and {rest} more: streamclf status --json", "dim"))
                break
            shown += lines
        return self._use(shown)

    def take_newest(self, texts: Sequence[Text]) -> list[_Line]:
        """Return the lines of the last texts, each one complete."""
        shown: list[_Line] = []
        for text in reversed(texts):
            lines = self._draw(text)
            if len(shown) + len(lines) > self.lines - 1:
                break
            shown = lines + shown
        return self._use(shown)

    def _use(self, lines: list[_Line]) -> list[_Line]:
        fitting = lines[: max(0, self.lines - 1)]
        if fitting:
            self.lines -= 1 + len(fitting)
        return fitting

    def _draw(self, part: RenderableType) -> list[_Line]:
        return self._console.render_lines(part, self._options, pad=False)


class _Lines:
    """Sections of lines that are drawn already, with a blank line between two of them."""

    def __init__(self, sections: Sequence[Sequence[_Line]]) -> None:
        self._sections = sections

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, lines in enumerate(self._sections):
            if number > 0:
                yield Segment.line()
            for line in lines:
                yield from line
                yield Segment.line()
