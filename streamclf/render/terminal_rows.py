"""Draw the tables that the live table consists of: streams, outlets, and the probabilities of one stream."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from engines.printable import printable
from streamclf.client.stream_views import ServiceView, StreamState, ViewState
from streamclf.events.outlet_status import OutletState
from streamclf.events.views import SEPARATOR, UNNAMED
from streamclf.render.column_widths import Column, column_widths, make_table, number_column, text_column
from streamclf.render.palette import INK, STATES, label_hex

MAX_LABELS = 7
MIN_NAME_CELLS = 24
"""A column is left out before a name is cut to less than this."""
MIN_LABEL_CELLS = 14
"""A column is left out before a label is cut to less than this."""
MAX_TEXT_CELLS = 40
"""Longer names and labels are cut, so that the other columns keep their width."""
TIMELINE_CELLS = 10
"""The least number of predictions in the timeline of a stream, one cell each."""
BAR_CELLS = (8, 60)
"""The shortest and the longest bar of a probability."""
NO_LABEL: Final = "none"
"""The text for a model that can report several labels, and reports none now."""
BLOCKS = " ▁▂▃▄▅▆▇█"
_OUTLET_STATES: Final[dict[OutletState, str]] = {
    "starting": STATES["connecting"],
    "running": STATES["live"],
    "waiting": STATES["stalled"],
    "restarting": STATES["stalled"],
    "parked": STATES["offline"],
}
_NUMBERS: Final = frozenset({"p", "rate", "latency", "age", "since", "delivered", "refused", "lost"})
_TIMELINE: Final = "last predictions"


def display_name(stream: str, view: StreamState) -> str:
    """Return the stream's name for people, or its key in the configuration if it has none."""
    return printable(view.name) if view.name else stream


def stream_table(views: Mapping[str, StreamState], width: int, *, is_silent: bool) -> tuple[Table, list[Text]]:
    """Draw a row for each stream, and one for each named view below it.

    Also return the reasons and notes that do not fit into their row. The states of a silent service are shown as
    unknown.
    """
    now_s = time.monotonic()
    rows = [row for stream, view in views.items() for row in _rows_of(stream, view, now_s, is_silent=is_silent)]
    longest_name = min(MIN_NAME_CELLS, max((cell_len(row.name) for row in rows), default=0))
    columns = [
        text_column("stream", (row.full_name for row in rows), least=longest_name, most=MAX_TEXT_CELLS),
        number_column("state", (row.state for row in rows)),
        text_column("label", (f" {row.label} " for row in rows), least=MIN_LABEL_CELLS, most=MAX_TEXT_CELLS),
        number_column("p", (row.probability for row in rows)),
        number_column("rate", (row.rate for row in rows), dropped=2),
        number_column("latency", (row.latency for row in rows), dropped=3),
        number_column("age", (row.age for row in rows), dropped=1),
        Column(_TIMELINE, TIMELINE_CELLS, TIMELINE_CELLS),
    ]
    widths = column_widths(columns, width)
    table = make_table(widths, numbers=_NUMBERS)
    explanations: list[Text] = []
    for row in rows:
        reason = row.reason
        if reason and cell_len(reason) > widths[_TIMELINE]:
            explanations.append(Text.assemble((f"{row.name}  ", "bold"), (reason, "dim")))
            reason = ""
        if row.note:
            explanations.append(Text.assemble((f"{row.name}  ", "bold"), (row.note, "dim")))
        cells: dict[str, Text | str] = {
            "stream": row.name_cell(widths["stream"]),
            "state": Text(row.state, STATES.get(row.state, "dim")),
            "label": row.label_cell(widths["label"]),
            "p": row.probability,
            "rate": row.rate,
            "latency": row.latency,
            "age": row.age,
            _TIMELINE: Text(reason, "dim") if reason else _timeline(row.part, widths[_TIMELINE]),
        }
        table.add_row(*(cells[name] for name in widths))
    return table, explanations


def count_rows(view: StreamState) -> int:
    """Return how many rows of the table a stream needs."""
    return 1 + sum(key != UNNAMED for key, _ in view.ordered_views())


def _rows_of(stream: str, view: StreamState, now_s: float, *, is_silent: bool) -> list[_Row]:
    """Return the row of a stream, which shows its unnamed view if it has one, and the rows of its named views."""
    parts = view.ordered_views()
    name = display_name(stream, view)
    whole = next((part for key, part in parts if key == UNNAMED), None)
    first = _Row(name, whole or ViewState(), now_s, has_label=whole is not None)
    first.full_name = f"{name} ({stream})" if name != stream else stream
    first.state = "unknown" if is_silent else view.state
    first.reason = printable(view.reason) if view.reason and view.state != "live" else ""
    notes = [printable(view.note or ""), "decoded fast" if view.decode == "fast" else ""]
    first.note = "; ".join(filter(None, notes))
    if view.hop is not None:
        first.rate = f"{first.rate} hop {view.hop}".strip()
    more = [_Row(f"  {SEPARATOR.join(key.names)}", part, now_s) for key, part in parts if key != UNNAMED]
    return [first, *more]


class _Row:
    """The texts of one view, or of a stream."""

    def __init__(self, name: str, part: ViewState, now_s: float, *, has_label: bool = True) -> None:
        self.name = self.full_name = name
        self.part = part
        self.state = self.reason = self.note = ""
        present = part.present
        self.label = "…" if present is None and has_label else ""
        self.colour: str | None = None
        self.probability = ""
        if present:
            self.label = ", ".join(printable(label) for label, _ in present)
            self.colour = label_hex(present[0][0])
            self.probability = f"{present[0][1]:.2f}"
        elif present is not None:
            self.label = NO_LABEL
        rate_per_s = part.rate_per_s(now_s)
        self.rate = "" if rate_per_s is None or not has_label else f"{rate_per_s:.1f}/s"
        self.latency = "" if part.latency_ms is None else f"{part.latency_ms:.0f} ms"
        self.age = "" if part.predicted_at_s is None else short_age(now_s - part.predicted_at_s)

    def name_cell(self, width: int) -> Text:
        """Return the name, and the key in the configuration if both fit."""
        if self.full_name == self.name or cell_len(self.full_name) > width:
            return Text(self.name, "bold")
        return Text.assemble((self.name, "bold"), (self.full_name[len(self.name) :], "dim"))

    def label_cell(self, width: int) -> Text:
        """Return the present labels on the colour of the first one."""
        if not self.label:
            return Text()
        text = Text(f" {self.label} ", "dim" if self.colour is None else f"bold {INK} on {self.colour}")
        text.truncate(width, overflow="ellipsis")
        return text


def outlet_table(service: ServiceView, width: int) -> tuple[Table, list[Text]]:
    """Draw a row for each outlet; also return the reasons that do not fit into their row."""
    heartbeat, outlets = service.heartbeat, service.outlets
    names = {name: printable(name) for name in sorted(outlets)}
    ages = {name: (heartbeat.time - outlets[name].since).total_seconds() if heartbeat else 0.0 for name in names}
    columns = [
        text_column("outlet", names.values(), least=MIN_NAME_CELLS, most=MAX_TEXT_CELLS),
        number_column("state", (outlet.state for outlet in outlets.values())),
        number_column("since", map(short_age, ages.values()), dropped=2),
        *(
            number_column(count, (str(getattr(outlet, count)) for outlet in outlets.values()), dropped=dropped)
            for count, dropped in (("delivered", 3), ("refused", 1), ("lost", 1))
        ),
        Column("reason", 6, 6),
    ]
    widths = column_widths(columns, width)
    table = make_table(widths, numbers=_NUMBERS)
    explanations: list[Text] = []
    for name, text in names.items():
        outlet = outlets[name]
        reason = printable(outlet.reason or "")
        if cell_len(reason) > widths["reason"]:
            explanations.append(Text.assemble((f"{text}  ", "bold"), (reason, "dim")))
            reason = ""
        cells: dict[str, Text | str] = {
            "outlet": Text(text, "bold"),
            "state": Text(outlet.state, _OUTLET_STATES[outlet.state]),
            "since": short_age(ages[name]),
            "delivered": str(outlet.delivered),
            "refused": Text(str(outlet.refused), "bold red" if outlet.refused else ""),
            "lost": Text(str(outlet.lost), "bold red" if outlet.lost else ""),
            "reason": Text(reason, "dim"),
        }
        table.add_row(*(cells[column] for column in widths))
    return table, explanations


def probability_table(view: ViewState, width: int) -> Table:
    """Draw a bar for each of the view's best labels."""
    labels = [printable(label) for label, _ in view.top[:MAX_LABELS]]
    numbers = [f"{probability:.2f}" for _, probability in view.top[:MAX_LABELS]]
    shortest, longest = BAR_CELLS
    columns = [
        text_column("", labels, least=MIN_LABEL_CELLS, most=MAX_TEXT_CELLS),
        number_column("p", numbers),
        Column("bar", shortest, shortest),
    ]
    widths = column_widths(columns, width)
    cells = min(longest, widths["bar"])
    table = make_table(widths, numbers={"", "p"})
    table.show_header = False
    for label, number, (name, probability) in zip(labels, numbers, view.top, strict=False):
        filled = round(probability * cells)
        bar = Text("█" * filled, label_hex(name)).append("░" * (cells - filled), "dim")
        table.add_row(Text(label), number, bar)
    return table


def short_age(seconds: float) -> str:
    """Format an age in one unit: `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    for limit, unit, size in ((10, "s", 1), (120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{max(0.0, seconds):.1f} s" if limit == 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _timeline(view: ViewState, cells: int) -> Text:
    """Draw a block for each of the latest predictions: its colour is the label, its height the probability."""
    text = Text()
    for label, probability in list(view.history)[-cells:]:
        text.append(BLOCKS[round(probability * (len(BLOCKS) - 1))], label_hex(label))
    return text
