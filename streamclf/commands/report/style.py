"""The style of the report: light and dark, on paper and on a telephone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from streamclf.render.palette import label_hex

_SHADES = 10
"""The steps of the shading of the confusion matrix."""

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --card: #f5f6f8; --ink: #16191f; --soft: #555c68; --line: #d5d9e0;
  --good: #186a34; --bad: #a3231d; --shade: 37 99 168; }
@media (prefers-color-scheme: dark) { :root { --paper: #11141a; --card: #1a1f28; --ink: #e9edf3; --soft: #a5aebc;
  --line: #343b48; --good: #7bd88f; --bad: #ff8a80; --shade: 96 165 240; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1rem 0 .4rem; }
p, li, summary, figcaption, td, th { overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1rem 0;
  padding: 0; }
.tiles div { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
.tiles dt { color: var(--soft); font-size: .875rem; }
.tiles dd { margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles dd small { font-size: .8rem; font-weight: 400; color: var(--soft); display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .875rem; padding: .5rem 0 .3rem; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
td.n, th.n { text-align: right; }
.matrix th, .matrix td { padding: .35rem .5rem; border: 1px solid var(--line); text-align: center; }
.matrix th[scope=row] { text-align: right; }
.matrix .right { outline: 2px solid var(--good); outline-offset: -2px; }
.chip { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin-right: .4em;
  vertical-align: baseline; }
.good { color: var(--good); } .bad { color: var(--bad); }
.stills { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .75rem; padding: 0;
  margin: 0; }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; border-radius: .35rem;
  background: var(--card); }
figcaption b { color: var(--ink); }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .6rem 0; padding: .2rem .9rem;
  break-inside: avoid; }
summary { cursor: pointer; padding: .45rem 0; font-weight: 600; }
summary span { font-weight: 400; color: var(--soft); }
summary:focus-visible { outline: 2px solid currentColor; outline-offset: 2px; }
.chart { width: 100%; height: 7.5rem; display: block; background: var(--card); border-radius: .35rem; }
.chart path { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.d1 { stroke-dasharray: 7 3; } .d2 { stroke-dasharray: 2 3; } .d3 { stroke-dasharray: 9 3 2 3; }
.axis { display: flex; justify-content: space-between; color: var(--soft); font-size: .8rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; margin: .3rem 0 .6rem;
  font-size: .875rem; }
.legend svg { width: 2rem; height: .7rem; vertical-align: middle; margin-right: .4rem; }
.legend path { fill: none; stroke-width: 3; }
.c { fill: var(--c); stroke: var(--c); background: var(--c); }
@media print { body { max-width: none; font-size: 11pt; } details::details-content { content-visibility: visible; }
  summary { list-style: none; } .chart { print-color-adjust: exact; } }
"""


def style_sheet(labels: Iterable[str]) -> str:
    """Return the whole style with a class `c0`, `c1`, … for each of the labels: its colour on paper and in the dark."""
    shades = " ".join(
        f".s{step} {{ background: rgb(var(--shade) / {step / _SHADES:.1f}); }}" for step in range(_SHADES + 1)
    )
    colours = "\n".join(
        f".c{number} {{ --c: color-mix(in oklab, {label_hex(label)} 62%, #000); }} "
        f"@media (prefers-color-scheme: dark) {{ .c{number} {{ --c: {label_hex(label)}; }} }}"
        for number, label in enumerate(labels)
    )
    return f"{_STYLE}{shades}\n{colours}\n"


def shade(share: float) -> str:
    """Return the class that shades a cell by a share, 0 to 1."""
    return f"s{min(_SHADES, max(0, round(share * _SHADES * 0.7)))}"


def policy(style: str) -> str:
    """Return the content security policy: no scripts, no requests, and only this style."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
