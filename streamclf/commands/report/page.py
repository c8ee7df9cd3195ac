"""Build the HTML of the report and write it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from streamclf import __version__
from streamclf.commands.report.accuracy import Accuracy, compute_accuracy
from streamclf.commands.report.elements import (
    Labels,
    best_still,
    clock,
    confusion_table,
    event_table,
    explained_still,
    html_document,
    short_names,
    text,
    timeline,
)
from streamclf.commands.report.film_summary import FilmSummary
from streamclf.commands.report.stills import Still
from streamclf.commands.report.style import style_sheet
from streamclf.errors import OutputError
from streamclf.units import share_text

MAX_FILMS: Final = 500
"""The most films that the report shows one by one. All of them count in its figures."""
MAX_OPEN: Final = 8
"""With more films than this, their parts of the page are closed at first."""
"""The most labels in the confusion matrix."""
MAX_FAULTS: Final = 200
FEW_FILMS: Final = 30
"""With fewer films than this, the report warns that its figures are rough."""
OCCLUSION_TEXT: Final = (
    "Heat shows occlusion: one part of all pictures of a window is hidden with the mean colour, and the window is "
    "classified again. The heat is the drop of the probability, relative to the largest drop, or to 0.10 if all drops "
    "are smaller. It does not show where an object is, or why the model decides so. A part without heat may matter "
    "together with another part, since only one is hidden at a time, and a hidden part is itself an unusual picture. "
    "Where the probability is near 0 % or 100 %, drops are small although the part matters."
)
"""The explanation of heat by occlusion in the report."""


@dataclass(slots=True)
class ReportData:
    """All that the report shows. `faults`: a line for each film that could not be classified.

    `unlabelled`: the number of films without a true label of the model, where true labels were given.
    `method`: how heat was made, in a sentence; None without heat.
    """

    title: str
    model: str
    labels: Sequence[str]
    films: list[FilmSummary] = field(default_factory=list)
    stills: Sequence[Still] = ()
    faults: list[str] = field(default_factory=list)
    has_truth: bool = False
    unknown_labels: dict[str, int] = field(default_factory=dict)
    method: str | None = None
    independent: bool = False
    """Whether several labels may be present at once."""


def write_report(path: Path, data: ReportData) -> None:
    """Write the report to `path`, whole or not at all. Raises `OutputError`."""
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        partial.write_text(report_page(data), encoding="utf-8", errors="replace")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"--report {path}: {error.strerror or error}; free space or give a writable path") from error
    finally:
        partial.unlink(missing_ok=True)


def report_page(data: ReportData) -> str:
    """Return the report as HTML."""
    data = _with_short_names(data)
    used = _used_labels(data)
    labels = Labels(data.labels, used)
    style = style_sheet(data.labels[label] for label in used)
    body = "\n".join(
        part
        for part in (
            f"<h1>{text(data.title)}</h1>",
            f'<p class="soft">Model {text(data.model)}, streamclf {text(__version__)}</p>',
            _tiles(data),
            _accuracy_part(data, labels),
            _time_by_label(data, labels),
            _stills_part(data, labels),
            _films_part(data, labels),
            _faults_part(data),
            _notes_part(data),
        )
        if part
    )
    return html_document(data.title, style, body)


def _with_short_names(data: ReportData) -> ReportData:
    short = short_names([film.name for film in data.films])
    return replace(
        data,
        films=[replace(film, name=short[film.name]) for film in data.films],
        stills=[replace(still, film=short.get(still.film, still.film)) for still in data.stills],
    )


def _used_labels(data: ReportData) -> list[int]:
    used = {still.label for still in data.stills}
    for film in data.films:
        used.update(film.seconds_by_label, (curve.label for curve in film.curves), film.labels, film.truth or ())
    return sorted(used)


def _tiles(data: ReportData) -> str:
    films = data.films
    tiles = [
        ("films", f"{len(films)}"),
        ("length", clock(sum(film.length_s for film in films))),
        ("windows", f"{sum(film.windows for film in films):,}"),
        ("events", f"{sum(film.event_count for film in films):,}"),
    ]
    if data.faults:
        tiles.append(("not classified", f"{len(data.faults)}"))
    return '<dl class="tiles">' + "".join(f"<div><dt>{a}</dt><dd>{b}</dd></div>" for a, b in tiles) + "</dl>"


def _accuracy_part(data: ReportData, labels: Labels) -> str:
    if not data.has_truth:
        return ""
    pairs = [(film.truth, film.labels) for film in data.films if film.truth is not None]
    found = compute_accuracy(pairs, len(data.labels), independent=data.independent)
    rest = len(data.films) - len(pairs)
    parts = ["<h2>Accuracy</h2>"]
    if found is None:
        return "\n".join([*parts, "<p>No classified film has a true label of the model.</p>"])
    low, high = found.interval
    share = "all labels right" if data.independent else "accuracy"
    mean, of_mean = ("macro F1", found.f1) if data.independent else ("balanced accuracy", found.balanced)
    counted = (
        f"mean of {len(found.shown)} labels"
        if data.independent
        else f"mean recall of {sum(value is not None for value in found.recall)} labels"
    )
    parts.append(
        '<dl class="tiles">'
        f"<div><dt>films with a true label</dt><dd>{found.films}</dd></div>"
        f"<div><dt>{share}</dt><dd>{found.accuracy:.1%}<small>{found.right} of {found.films}; 95 % interval "
        f"{low:.0%} to {high:.0%}</small></dd></div>"
        f"<div><dt>{mean}</dt><dd>{of_mean:.1%}<small>{counted}</small></dd></div></dl>"
    )
    remarks = [
        "A film counts as right if the labels that are present in any of its windows are exactly its true labels."
        if data.independent
        else "The prediction for a film is the label with the highest mean probability over all of its windows.",
    ]
    if found.films < FEW_FILMS:
        remarks.append(f"{found.films} films are few: the interval shows how uncertain the figures are.")
    if rest:
        unknown = ", ".join(f"{text(name)} ({count})" for name, count in sorted(data.unknown_labels.items())[:10])
        remarks.append(
            f"{rest} films have no true label of the model, and are not counted{f': {unknown}' if unknown else ''}."
        )
    parts.append(f'<p class="soft">{" ".join(remarks)}</p>')
    if found.confusion is not None:
        parts.append(confusion_table(found.confusion, found.shown, found.shown, labels, "films"))
    parts.append(_label_table(found, labels))
    return "\n".join(parts)


def _label_table(found: Accuracy, labels: Labels) -> str:
    rows = "".join(
        f"<tr><th scope=row>{labels.chip(label)}</th><td class=n>{int(found.given[label])}</td>"
        f"<td class=n>{share_text(found.recall[label])}</td><td class=n>{share_text(found.precision[label])}</td></tr>"
        for label in found.shown
    )
    return (
        '<h3>Each label</h3><div class="scroll"><table><thead><tr><th scope=col>label</th>'
        "<th scope=col class=n>films</th><th scope=col class=n>recall</th><th scope=col class=n>precision</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _time_by_label(data: ReportData, labels: Labels) -> str:
    seconds: dict[int, float] = {}
    events: dict[int, int] = {}
    for film in data.films:
        for label, length_s in film.seconds_by_label.items():
            seconds[label] = seconds.get(label, 0.0) + length_s
            events[label] = events.get(label, 0) + 1
    if not seconds:
        return ""
    # Independent labels are present at the same time, so that their shares do not add up to 100 %.
    length_s = sum(film.length_s for film in data.films) if data.independent else sum(seconds.values())
    total = max(length_s, 1e-9)
    caption = "How long each label was present" if data.independent else "How long each label was the most probable one"
    rows = "".join(
        f"<tr><th scope=row>{labels.chip(label)}</th><td class=n>{clock(label_s)}</td>"
        f"<td class=n>{label_s / total:.1%}</td><td class=n>{events[label]}</td></tr>"
        for label, label_s in sorted(seconds.items(), key=lambda item: -item[1])
    )
    return (
        f'<h2>Labels</h2><div class="scroll"><table><caption>{caption}</caption>'
        "<thead><tr><th scope=col>label</th><th scope=col class=n>time</th><th scope=col class=n>share</th>"
        f"<th scope=col class=n>films</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _stills_part(data: ReportData, labels: Labels) -> str:
    if not data.stills:
        return ""
    parts = ["<h2>Most probable stills</h2>"]
    for label in dict.fromkeys(still.label for still in data.stills):
        figures = "".join(best_still(still, labels) for still in data.stills if still.label == label)
        parts.append(f'<h3>{labels.chip(label)}</h3><div class="stills">{figures}</div>')
    return "\n".join(parts)


def _films_part(data: ReportData, labels: Labels) -> str:
    if not data.films:
        return "<h2>Films</h2><p>No film could be classified.</p>"
    is_open = " open" if len(data.films) <= MAX_OPEN else ""
    parts = ["<h2>Films</h2>"]
    for film in data.films[:MAX_FILMS]:
        verdict = ""
        if film.truth is not None:
            is_right = set(film.truth) == set(film.labels)
            sign, kind = ("✓", "good") if is_right else ("✗", "bad")
            verdict = f' <span class="{kind}">{sign} true label: {_names(film.truth, labels)}</span>'
        notes = "".join(f'<p class="soft">{text(note)}</p>' for note in film.notes)
        heat = "".join(explained_still(explained, labels) for explained in film.explained)
        heat = f'<h3>Explained windows</h3><div class="stills">{heat}</div>' if heat else ""
        probability = "" if data.independent else f" {film.probability:.0%}"
        parts.append(
            f"<details{is_open}><summary>{text(film.name)} <span>{clock(film.length_s)}, {film.windows} windows, "
            f"{_names(film.labels, labels)}{probability}</span>{verdict}</summary>"
            f"{notes}{timeline(film, labels)}{heat}{event_table(film, labels)}</details>"
        )
    if len(data.films) > MAX_FILMS:
        parts.append(
            f"<p>{len(data.films) - MAX_FILMS} more films are counted above and not shown here; <code>--csv</code> "
            "lists all.</p>"
        )
    return "\n".join(parts)


def _names(found: Sequence[int], labels: Labels) -> str:
    return " + ".join(map(labels.name, found)) or "no label"


def _faults_part(data: ReportData) -> str:
    if not data.faults:
        return ""
    lines = "".join(f"<li>{text(fault)}</li>" for fault in data.faults[:MAX_FAULTS])
    rest = len(data.faults) - MAX_FAULTS
    more = f"<p>… and {rest} more</p>" if rest > 0 else ""
    return f"<h2>Not classified</h2><ul>{lines}</ul>{more}"


def _notes_part(data: ReportData) -> str:
    notes = [
        "A probability is the model's own figure. It is not the chance that the label is right: a model also gives a "
        "high probability to scenes that it has never seen. "
        + (
            "The labels are independent: a window may have several of them, or none."
            if data.independent
            else "Every window gets one of the model's labels, also where none fits."
        ),
        "An event is a run of windows "
        + (
            "in which a label is at or above its threshold. Where its windows overlap windows without the label"
            if data.independent
            else "with the same most probable label. Where windows of two events overlap"
        )
        + ", the border is in the middle. The chart shows the highest probability of each interval of time.",
    ]
    if data.method is not None:
        notes.append(data.method)
    return "<h2>How to read this</h2>" + "".join(f'<p class="soft">{note}</p>' for note in notes)
