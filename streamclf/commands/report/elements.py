"""Make the elements of the report that repeat: timelines, stills, tables. All text from outside is escaped here."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from engines.arrays import I64
from engines.printable import printable
from streamclf.commands.report.film_summary import Curve, ExplainedStill, FilmSummary
from streamclf.commands.report.stills import Still
from streamclf.commands.report.style import policy, shade

WIDTH, HEIGHT, STRIP = 1000, 120, 14
"""The timeline's own units; the page stretches it to any width. The strip at its bottom shows the events."""
MAX_MATRIX: Final = 30


class Labels:
    """The labels of the report, each with the number of its colour."""

    def __init__(self, names: Sequence[str], used: Sequence[int]) -> None:
        self._names = names
        self._numbers: Mapping[int, int] = {label: number for number, label in enumerate(used)}

    def name(self, label: int) -> str:
        """Return the label's name as HTML."""
        return text(self._names[label])

    def colour(self, label: int) -> str:
        """Return the class of its colour."""
        return f"c c{self._numbers.get(label, 0)}"

    def chip(self, label: int) -> str:
        """Return a spot of its colour, followed by its name."""
        return f'<span class="chip {self.colour(label)}" aria-hidden="true"></span>{self.name(label)}'


def html_document(title: str, style: str, body: str) -> str:
    """Make a self-contained page, which may load nothing. `style` is CSS, `body` HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(style)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return each film's path without the folders that all of them are in."""
    folder = os.path.commonpath([os.path.dirname(name) or "." for name in names]) if _agree(names) else ""  # noqa: PTH120
    return {name: os.path.relpath(name, folder) if folder else name for name in names}


def _agree(names: Sequence[str]) -> bool:
    """Tell whether the paths are all absolute or all relative."""
    return len({os.path.isabs(name) for name in names}) == 1  # noqa: PTH117


def text(value: object) -> str:
    """Return text from outside as HTML: escaped, and without control characters."""
    return html.escape(printable(value))


def clock(seconds: float) -> str:
    """Return a time of a film, such as 1:02.5 or 2:03:04."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    if minutes >= 60:
        return f"{minutes // 60}:{minutes % 60:02}:{rest // 10:02}"
    return f"{minutes}:{rest // 10:02}.{rest % 10}"


def timeline(film: FilmSummary, labels: Labels) -> str:
    """Return the chart of a film's probabilities, its axis and its legend."""
    if not film.curves:
        return ""
    lines = "".join(
        f'<path class="{labels.colour(curve.label)} d{number}" d="{_path(curve)}"/>'
        for number, curve in reversed(list(enumerate(film.curves)))
    )
    lanes = _lanes(film)
    lane = STRIP / max(1, len(set(lanes.values())))
    strip = "".join(
        f'<rect class="{labels.colour(part.label)}" x="{WIDTH * part.begin:.1f}" '
        f'y="{HEIGHT - STRIP + lane * lanes[part.label]:.4g}" '
        f'width="{max(WIDTH * (part.end - part.begin), 0.8):.1f}" height="{lane:.4g}" stroke="none">'
        f"<title>{labels.name(part.label)}, {clock(part.begin * film.length_s)} to {clock(part.end * film.length_s)}"
        "</title></rect>"
        for part in film.stretches
    )
    plot = HEIGHT - STRIP - 6
    grid = "".join(f'<path class="grid" d="M0 {plot * share + 3:.0f}H{WIDTH}"/>' for share in (0, 0.5, 1))
    described = ", ".join(f"{labels.name(curve.label)} up to {_highest(curve):.0%}" for curve in film.curves)
    legend = "".join(
        f'<li><svg viewBox="0 0 32 10" aria-hidden="true"><path class="{labels.colour(curve.label)} d{number}" '
        f'd="M0 5H32"/></svg>{labels.name(curve.label)} (up to {_highest(curve):.0%})</li>'
        for number, curve in enumerate(film.curves)
    )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="Probabilities over time: {described}">{grid}{strip}{lines}</svg>'
        f'<div class="axis" aria-hidden="true"><span>0:00.0</span><span>{clock(film.length_s / 2)}</span>'
        f"<span>{clock(film.length_s)}</span></div>"
        f'<ul class="legend">{legend}</ul>'
    )


def _lanes(film: FilmSummary) -> dict[int, int]:
    """Return the lane of each label in the strip: one for all, or one each where two labels are present at once."""
    parts = sorted(film.stretches, key=lambda part: part.begin)
    overlap = any(after.begin < before.end - 1e-9 for before, after in pairwise(parts))
    return {part.label: number * overlap for number, part in enumerate({p.label: p for p in film.stretches}.values())}


def _highest(curve: Curve) -> float:
    return max(value for _, value in curve.points)


def _path(curve: Curve) -> str:
    """Return the line of a curve."""
    plot = HEIGHT - STRIP - 6
    points = [
        (round(WIDTH * share), round(3 + plot * (1 - min(1.0, max(0.0, value))))) for share, value in curve.points
    ]
    if len(points) == 1:  # a film of one window
        points = [(0, points[0][1]), (WIDTH, points[0][1])]
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def event_table(film: FilmSummary, labels: Labels) -> str:
    """Return the table of a film's events."""
    rows = "".join(
        f"<tr><td class=n>{clock(event.start_s)}</td><td class=n>{clock(event.end_s)}</td>"
        f"<td>{labels.chip(event.label)}</td><td class=n>{event.mean:.2f}</td><td class=n>{event.peak:.2f}</td></tr>"
        for event in film.events
    )
    rest = film.event_count - len(film.events)
    more = f"; {rest} less probable ones are left out, <code>--csv</code> lists all" if rest else ""
    return (
        f'<div class="scroll"><table><caption>Events{more}</caption><thead><tr><th scope=col class=n>from</th>'
        "<th scope=col class=n>to</th><th scope=col>label</th><th scope=col class=n>mean p</th>"
        f"<th scope=col class=n>peak p</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def confusion_table(confusion: I64, rows: Sequence[int], columns: Sequence[int], labels: Labels, counted: str) -> str:
    """Make the table of a confusion matrix from the numbers of the true labels, `rows`, and of the predicted ones.

    `confusion` has a row for each true label; `counted` names what it counts, like films.
    """
    if len(columns) > MAX_MATRIX:
        return f'<p class="soft">{len(columns)} labels are too many for a confusion matrix.</p>'
    head = "".join(f"<th scope=col>{labels.name(label)}</th>" for label in columns)
    lines = []
    for truth in rows:
        total = max(int(confusion[truth].sum()), 1)
        cells = "".join(
            f'<td class="{shade(int(confusion[truth, other]) / total)}{" right" if truth == other else ""}">'
            f"{int(confusion[truth, other]) or ''}</td>"
            for other in columns
        )
        lines.append(f"<tr><th scope=row>{labels.name(truth)}</th>{cells}</tr>")
    return (
        '<div class="scroll"><table class="matrix"><caption>Confusion matrix: a row for each true label, a column for '
        f"each prediction, numbers of {counted}</caption>"
        f"<thead><tr><th scope=col>true / predicted</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def still_figure(still: Still, labels: Labels, *, caption: str) -> str:
    """Return a still with its caption, which is HTML."""
    data = base64.b64encode(still.jpeg).decode()
    described = f"Frame at {clock(still.time_s)} of {text(still.film)}: {labels.name(still.label)}"
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" width="{still.width}" height="{still.height}" '
        f'alt="{described}"><figcaption>{caption}</figcaption></figure>'
    )


def best_still(still: Still, labels: Labels) -> str:
    """Return one of the best stills of its label."""
    caption = f"<b>{still.probability:.0%}</b> at {clock(still.time_s)}<br>{text(still.film)}"
    return still_figure(still, labels, caption=caption)


def explained_still(explained: ExplainedStill, labels: Labels) -> str:
    """Return a still with heat."""
    still = explained.still
    drop = "" if explained.largest is None else f"<br>hiding one part lowers p by {_drop(explained.largest)}"
    caption = f"{labels.chip(still.label)} <b>{still.probability:.0%}</b> at {clock(still.time_s)}{drop}"
    return still_figure(still, labels, caption=caption)


def _drop(largest: float) -> str:
    return "less than 0.01" if largest < 0.01 else f"up to {largest:.2f}"
