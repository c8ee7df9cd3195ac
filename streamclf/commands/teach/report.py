"""Build the HTML report of a taught model: one file without scripts. All text from outside is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

import numpy as np

from streamclf import __version__
from streamclf.commands.report.elements import Labels, clock, confusion_table, html_document, text
from streamclf.commands.report.style import style_sheet
from streamclf.commands.teach.result import next_steps, none_method, none_misses
from streamclf.teach.advice import advise_on_pair
from streamclf.teach.examples import Example
from streamclf.teach.figures import WrongClip
from streamclf.teach.taught import Taught
from streamclf.units import share_text

MAX_WRONG: Final = 60
MAX_STILLS: Final = 12
"""The most stills of a label's examples."""
MAX_LABELS_WITH_STILLS: Final = 40
MAX_LINES: Final = 200


def report_page(taught: Taught) -> str:
    """Return the report as HTML."""
    labels = Labels(taught.labels, range(len(taught.labels)))
    style = style_sheet(taught.labels)
    title = f"{taught.name} {taught.version}"
    body = "\n".join(
        part
        for part in (
            f"<h1>{text(title)}</h1>",
            f'<p class="soft">Encoder of {text(taught.examples.base)}, streamclf {text(__version__)}</p>',
            _tiles(taught),
            _advice(taught),
            _held_out(taught, labels),
            _label_table(taught, labels),
            _none(taught),
            _alike(taught),
            _wrong(taught, labels),
            _examples(taught, labels),
            _lines("Passed over", [f"{film}: {reason}" for film, reason in taught.faults]),
            _lines("Remarks", taught.notes),
            _method(taught),
            f"<h2>Next</h2><pre>{_multiline(next_steps(taught))}</pre>",
        )
        if part
    )
    return html_document(title, style, body)


def _multiline(value: str) -> str:
    return "\n".join(text(line) for line in value.splitlines())


def _tiles(taught: Taught) -> str:
    figures = taught.figures
    low, high = figures.interval
    tiles = [
        (
            "balanced accuracy on held-out films",
            f"{figures.balanced_accuracy:.0%}<small>95 % interval {low:.0%} to {high:.0%}</small>",
        ),
        ("chance", f"{figures.chance:.0%}"),
        ("clips", f"{figures.clips}<small>{figures.groups} recordings, {figures.windows} windows</small>"),
        ("wrong", f"{len(figures.wrong)}"),
    ]
    if taught.none_label is not None and figures.false_alarms is not None:
        tiles.append((text(taught.none_label), f"{figures.false_alarms:.0%}<small>of the labels' own windows</small>"))
    return '<dl class="tiles">' + "".join(f"<div><dt>{a}</dt><dd>{b}</dd></div>" for a, b in tiles) + "</dl>"


def _advice(taught: Taught) -> str:
    return _lines("To improve it", [f"{line}." for line in taught.advice])


def _lines(heading: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    shown = "".join(f"<li>{text(line)}</li>" for line in lines[:MAX_LINES])
    more = f"<p>… and {len(lines) - MAX_LINES} more</p>" if len(lines) > MAX_LINES else ""
    return f"<h2>{text(heading)}</h2><ul>{shown}</ul>{more}"


def _held_out(taught: Taught, labels: Labels) -> str:
    figures = taught.figures
    rows, columns = range(len(figures.confusion)), range(len(figures.labels))
    return "<h2>Held-out films</h2>" + confusion_table(figures.confusion, rows, columns, labels, "clips")


def _label_table(taught: Taught, labels: Labels) -> str:
    rows = "".join(
        f"<tr><th scope=row>{labels.chip(number)}</th><td class=n>{label.clips}</td><td class=n>{label.groups}</td>"
        f"<td class=n>{label.recall:.0%}</td>"
        f"<td class=n>{share_text(label.precision)}</td>"
        f"<td class=n>{'–' if label.threshold is None else f'{label.threshold:.2f}'}</td></tr>"
        for number, label in enumerate(taught.figures.per_label)
    )
    return (
        '<h3>Each label</h3><div class="scroll"><table><thead><tr><th scope=col>label</th><th scope=col class=n>clips'
        "</th><th scope=col class=n>recordings</th><th scope=col class=n>recall</th>"
        "<th scope=col class=n>precision</th>"
        f"<th scope=col class=n>threshold</th></tr></thead><tbody>{rows}</tbody></table></div>"
        '<p class="soft">Recall is the share of a label\'s clips that got it. Precision is the share of right ones '
        "among the clips that got the label, as if all labels had equally many clips. An action starts at the "
        "threshold, unless the configuration gives another.</p>"
    )


def _none(taught: Taught) -> str:
    figures = taught.figures
    if taught.none_label is None:
        return ""
    if taught.head.none is not None:
        measured = f"{none_misses(taught) or 0:.0%} of the held-out films of the folder got another label."
    else:
        measured = _left_out(taught)
    return (
        f"<h2>{text(taught.none_label)}</h2><p>Recognised by {text(none_method(taught))}. "
        f"{figures.false_alarms or 0:.1%} of the held-out windows of the other labels got it. {measured}</p>"
    )


def _left_out(taught: Taught) -> str:
    novelty = taught.held_out.novelty
    return (
        "How often scenes unlike the examples are missed could not be measured with these labels."
        if novelty.misses is None
        else f"Each label was left out once: {novelty.misses:.0%} of its clips then passed for another label, and the "
        f"others for {text(taught.none_label)} (area under the ROC curve {novelty.separation:.2f}; chance is 0.5). "
        "Scenes that differ more are recognised more often."
    )


def _alike(taught: Taught) -> str:
    if not taught.figures.alike:
        return ""
    rows = "".join(
        f"<li><b>{text(pair.labels[0])}</b> and <b>{text(pair.labels[1])}</b>: distinguished in "
        f"{pair.accuracy:.0%} of the clips (chance is 50 %). "
        f"{text(advise_on_pair(pair, taught.figures, taught.examples.items))}.</li>"
        for pair in taught.figures.alike[:MAX_LINES]
    )
    return f"<h2>Too alike</h2><ul>{rows}</ul>"


def _wrong(taught: Taught, labels: Labels) -> str:
    wrong = taught.figures.wrong
    if not wrong:
        return "<h2>Wrong clips</h2><p>None of the held-out clips is wrong.</p>"
    figures = "".join(_wrong_figure(taught, clip, labels) for clip in wrong[:MAX_WRONG])
    more = f"<p>{len(wrong) - MAX_WRONG} more are not shown.</p>" if len(wrong) > MAX_WRONG else ""
    return f'<h2>Wrong clips</h2><div class="stills">{figures}</div>{more}'


def _wrong_figure(taught: Taught, wrong: WrongClip, labels: Labels) -> str:
    number = taught.labels.index
    caption = (
        f"{labels.chip(number(wrong.predicted))} <b>{wrong.probability:.0%}</b>, but it is "
        f"{labels.chip(number(wrong.label))}<br>{text(wrong.name)}, {clock(wrong.start_s)} to {clock(wrong.end_s)}"
    )
    return _still(taught.examples.items[wrong.clip], wrong.window, caption)


def _examples(taught: Taught, labels: Labels) -> str:
    parts = ["<h2>Examples</h2>"]
    for number, name in enumerate(taught.figures.taught[:MAX_LABELS_WITH_STILLS]):
        items = [item for item in taught.examples.items if item.row.label == name]
        chosen = np.linspace(0, len(items) - 1, min(MAX_STILLS, len(items))).round().astype(int)
        stills = "".join(
            _still(items[index], len(items[index].content.stills) // 2, text(items[index].row.name)) for index in chosen
        )
        parts.append(f'<h3>{labels.chip(number)} ({len(items)} clips)</h3><div class="stills">{stills}</div>')
    return "\n".join(parts)


def _still(item: Example, window: int, caption: str) -> str:
    data = base64.b64encode(item.content.stills[window]).decode()
    described = text(f"Frame of {item.row.name}")
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{described}"><figcaption>{caption}</figcaption>'
        "</figure>"
    )


def _method(taught: Taught) -> str:
    chosen = taught.head.head.chosen
    return (
        "<h2>How this was measured</h2>"
        '<p class="soft">The clips were divided into groups: clips of one recording, and films that are almost the '
        "same, are in one group. Up to five times, a head was fitted without a part of the groups, and applied to that "
        "part. So no recording is on both sides. The prediction for a clip is the label with the highest mean "
        "probability over its windows. The interval treats each recording as one trial. The thresholds and the limit "
        "of &quot;none of these&quot; were chosen on the same held-out results. The head of the bundle is fitted to "
        "all clips.</p>"
        f'<p class="soft">Head: the mean of {len(chosen)} linear discriminants. The first reads '
        f"{text(', '.join(chosen[0].parts))} (summaries over time: {text(chosen[0].pooling)}). "
        "Every window of a clip is assumed to show its label. Seconds: "
        f"{text(', '.join(f'{name} {value:.1f}' for name, value in taught.seconds.items()))}.</p>"
    )
