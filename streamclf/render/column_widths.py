"""Fit the columns of a table into the width of a terminal: shrink long texts, then leave out unimportant columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.table import Table

GAP = 2
"""Cells between two columns of a table that `make_table` makes."""
_NARROWEST = 5


@dataclass(frozen=True, slots=True)
class Column:
    """The width that a column needs, in cells of the terminal.

    A column is never narrower than `least`. With too little room, the column with the highest `dropped` is left out
    first; 0 means that the column is always shown.
    """

    name: str
    natural: int
    least: int
    dropped: int = 0


def text_column(name: str, texts: Iterable[str], *, least: int, most: int) -> Column:
    """Describe a column whose texts may be cut to `least` cells; it needs no more than `most`."""
    natural = min(_longest(name, texts), most)
    return Column(name, natural, min(natural, least))


def number_column(name: str, texts: Iterable[str], *, dropped: int = 0) -> Column:
    """Describe a column whose texts are never cut."""
    natural = _longest(name, texts)
    return Column(name, natural, natural, dropped)


def column_widths(columns: Sequence[Column], width: int) -> dict[str, int]:
    """Return the width of each column that is shown; the last column gets the room that is left.

    The other columns grow from `least` to `natural` in their order, so that the first ones are cut last. If even the
    columns that are always shown do not fit, the widest ones become narrower than `least`.
    """
    shown = list(columns)
    while _least_width(shown) > width and (candidates := [column for column in shown if column.dropped]):
        shown.remove(max(candidates, key=lambda column: column.dropped))
    widths = {column.name: column.least for column in shown}
    while sum(widths.values()) + GAP * (len(shown) - 1) > width and max(widths.values()) > _NARROWEST:
        widths[max(widths, key=lambda name: widths[name])] -= 1
    spare = max(0, width - sum(widths.values()) - GAP * (len(shown) - 1))
    for column in shown[:-1]:
        more = min(spare, column.natural - widths[column.name])
        widths[column.name] += more
        spare -= more
    widths[shown[-1].name] += spare
    return widths


def make_table(widths: Mapping[str, int], *, numbers: Collection[str]) -> Table:
    """Make a table without lines that has these columns; `numbers` names those that are aligned to the right."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, GAP, 0, 0))
    for name, width in widths.items():
        header = name if cell_len(name) <= width else name.partition(" ")[0]
        table.add_column(
            header, width=width, no_wrap=True, overflow="ellipsis", justify="right" if name in numbers else "left"
        )
    return table


def _longest(name: str, texts: Iterable[str]) -> int:
    return max(map(cell_len, (name, *texts)))


def _least_width(columns: Sequence[Column]) -> int:
    return sum(column.least for column in columns) + GAP * (len(columns) - 1)
