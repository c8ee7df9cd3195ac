"""Draw a live table for the terminal: the label of each stream, its probability, rate, latency and latest changes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Final

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from engines.printable import printable
from streamclf.client.stream_views import ServiceView, StreamView
from streamclf.events.outlet_status import OutletState
from streamclf.events.types import Action, Heartbeat, Lost, Prediction, Received, Status
from streamclf.render.palette import INK, STATES, label_hex

HISTORY = 48
"""Predictions in the timeline of a stream, one column each."""
MAX_CHANGES = 6
MAX_LABELS = 7
MAX_EXPLANATIONS = 8
BAR_CELLS = 20
LABEL_CELLS = 40
"""Longer labels are cut, so that the other columns keep their width."""
BLOCKS = " ▁▂▃▄▅▆▇█"
_OUTLET_STATES: Final[dict[OutletState, str]] = {
    "starting": STATES["connecting"],
    "running": STATES["live"],
    "waiting": STATES["stalled"],
    "restarting": STATES["stalled"],
    "parked": STATES["offline"],
}


class LiveTable:
    """Collect events and render them as a table. Not thread-safe."""

    def __init__(self, title: str, subject: str = "") -> None:
        self.title = Text.assemble((title, "bold"), f"  {printable(subject)}" if subject else "")
        self.footer = Text()
        self.service = ServiceView()
        self._changes: deque[Text] = deque(maxlen=MAX_CHANGES)

    def apply(self, event: Received, *, age_s: float = 0.0) -> None:
        """Show `event`, which is `age_s` old. An old event is not part of the rate and is not listed as a change."""
        if age_s == 0:
            self._list_changes(event)
        self.service.apply(event, time.monotonic() - age_s)

    def render(self) -> RenderableType:
        """Return the table, the probabilities if there is one stream, reasons and notes, and the latest changes."""
        streams = self.service.streams
        parts: list[RenderableType] = [self._table()]
        if len(streams) == 1:
            (view,) = streams.values()
            parts.append(_probabilities(view))
        if self.service.outlets:
            parts += [Text(""), self._outlet_table()]
        if explanations := _explanations(streams):
            parts += [Text(""), *explanations]
        if self._changes:
            parts += [Text(""), *self._changes]
        return Panel(
            Group(*parts), title=self.title, subtitle=self.footer or None, title_align="left", subtitle_align="left"
        )

    def _list_changes(self, event: Received) -> None:
        """Compare a new event with the view of its stream, which does not hold the event yet."""
        if isinstance(event, Heartbeat | Lost) or (view := self.service.find_or_add(event.stream)) is None:
            return
        match event:
            case Status():
                if (event.state, event.reason) != (view.state, view.reason):
                    self._add_change(event.stream, Text(event.state, STATES[event.state]), event.reason or "")
                if view.hop is not None and event.hop not in (None, view.hop):
                    self._add_change(event.stream, Text(f"hop {event.hop}"), f"it was {view.hop}")
            case Prediction():
                label, probability = event.top[0]
                if view.top and view.top[0][0] != label:
                    detail = f"{probability:.2f} at {event.window.end_s:.1f} s"
                    self._add_change(event.stream, Text(printable(label), label_hex(label)), detail)
            case Action() if event.phase != "update":
                change = Text(f"{printable(event.label)} {event.phase}", label_hex(event.label))
                self._add_change(event.stream, change, "")

    def _add_change(self, stream: str, change: Text, detail: str) -> None:
        line = Text.assemble((time.strftime("%H:%M:%S "), "dim"), (f"{stream}  ", "bold"), change)
        self._changes.append(line.append(f"  {printable(detail)}", "dim") if detail else line)

    def _table(self) -> Table:
        now_s = time.monotonic()
        table = Table(box=None, expand=True, header_style="dim", pad_edge=False)
        for name in ("stream", "state"):
            table.add_column(name, no_wrap=True)
        table.add_column("label", no_wrap=True, overflow="ellipsis", max_width=LABEL_CELLS)
        table.add_column("p", justify="right", no_wrap=True)
        table.add_column("rate", justify="right", no_wrap=True)
        table.add_column("latency", justify="right", no_wrap=True)
        table.add_column("age", justify="right", no_wrap=True)
        table.add_column("last predictions", no_wrap=True, ratio=1)
        is_silent = self.service.is_silent(now_s)
        for stream, view in sorted(self.service.streams.items()):
            state = "unknown" if is_silent else view.state  # an old state must not look like the present one
            label, probability = view.top[0] if view.top else ("…", 0.0)
            latency_ms = view.latency_ms
            table.add_row(
                Text(stream, "bold"),
                Text(state, STATES.get(state, "dim")),
                Text(f" {printable(label)} ", f"bold {INK} on {label_hex(label)}" if view.top else "dim"),
                f"{probability:.2f}" if view.top else "",
                f"{view.rate_per_s(now_s):.1f}/s" + (f" hop {view.hop}" if view.hop is not None else ""),
                f"{latency_ms:.0f} ms" if latency_ms is not None else "",
                "" if view.predicted_at_s is None else short_age(now_s - view.predicted_at_s),
                _timeline(view) if view.state == "live" or not view.reason else Text(printable(view.reason), "dim"),
            )
        return table

    def _outlet_table(self) -> Table:
        heartbeat = self.service.heartbeat
        table = Table(box=None, expand=True, header_style="dim", pad_edge=False)
        for name in ("outlet", "state"):
            table.add_column(name, no_wrap=True)
        for name in ("since", "delivered", "refused", "lost"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("reason", no_wrap=True, overflow="ellipsis", ratio=1)
        for name, outlet in sorted(self.service.outlets.items()):
            age_s = (heartbeat.time - outlet.since).total_seconds() if heartbeat else 0.0
            table.add_row(
                Text(printable(name), "bold"),
                Text(outlet.state, _OUTLET_STATES[outlet.state]),
                short_age(age_s),
                str(outlet.delivered),
                Text(str(outlet.refused), "bold red" if outlet.refused else ""),
                Text(str(outlet.lost), "bold red" if outlet.lost else ""),
                Text(printable(outlet.reason or ""), "dim"),
            )
        return table


def short_age(seconds: float) -> str:
    """Format an age in one unit: `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    for limit, unit, size in ((10, "s", 1), (120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{max(0.0, seconds):.1f} s" if limit == 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _explanations(streams: Mapping[str, StreamView]) -> list[Text]:
    """Write out the reasons and notes of the streams: the column for them is narrow."""
    lines = [
        Text.assemble((f"{stream}  ", "bold"), (printable(text), "dim"))
        for stream, view in sorted(streams.items())
        for text in (view.reason if view.state != "live" else None, view.note)
        if text
    ]
    left_out = len(lines) - MAX_EXPLANATIONS
    if left_out > 0:
        lines[MAX_EXPLANATIONS:] = [Text(f"and {left_out} more: streamclf status ENDPOINT --json", "dim")]
    return lines


def _timeline(view: StreamView) -> Text:
    """Draw a block for each of the latest predictions: its colour is the label, its height the probability."""
    text = Text()
    for label, probability in list(view.history)[-HISTORY:]:
        text.append(BLOCKS[round(probability * (len(BLOCKS) - 1))], label_hex(label))
    return text


def _probabilities(view: StreamView) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=LABEL_CELLS)
    for label, probability in view.top[:MAX_LABELS]:
        cells = round(probability * BAR_CELLS)
        bar = Text("█" * cells, label_hex(label)).append("░" * (BAR_CELLS - cells), "dim")
        table.add_row(Text(printable(label), justify="right"), bar, f"{probability:.2f}")
    return table
