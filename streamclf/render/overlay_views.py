"""Draw several views of one stream over its picture: a rectangle for each region, a row of labels for each view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from engines.arrays import U8
from streamclf.events.views import Area
from streamclf.render.palette import Colour, label_bgr
from streamclf.render.plates import blend_plate
from streamclf.render.text import draw_text, shorten, text_width

NO_LABEL: Final = "none"
"""The text for a model that can report several labels, and reports none now."""
_WHITE: Final[Colour] = (255, 255, 255)
_MUTED: Final[Colour] = (205, 200, 196)
_INK: Final[Colour] = (24, 18, 14)
_MAX_BANDS: Final = 4
"""Views that have a timeline."""
_ROWS_SHARE: Final = 0.55
"""The share of the picture's height that the rows may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayView:
    """The values to draw for one view of a stream.

    `name` is empty for the view without names. `present` holds (label, probability) of the labels that apply, None
    before the first prediction. `history` holds the best label of each earlier prediction, oldest first. `area` is the
    region's rectangle in shares of the picture, None for the whole picture.
    """

    name: str
    region: str | None = None
    present: Sequence[tuple[str, float]] | None = None
    history: Sequence[tuple[str, float]] = ()
    actions: Sequence[str] = ()
    area: Area | None = None


def draw_areas(canvas: U8, views: Sequence[OverlayView], unit: float) -> None:
    """Draw the rectangle and the name of each region on (H, W, 3) uint8 BGR, in the colour of its running action."""
    areas = {view.region or "": view.area for view in views if view.area is not None}
    running = {view.region or "": label_bgr(view.actions[0]) for view in views if view.actions}
    draw_rectangles(canvas, areas, running, unit)


def draw_rectangles(canvas: U8, areas: Mapping[str, Area], colours: Mapping[str, Colour], unit: float) -> None:
    """Draw a rectangle and a name for each area on (H, W, 3) uint8 BGR; those without a colour are light grey.

    The name of a region without a name is empty. An area is (left, top, right, bottom) in shares of the picture's width
    and height.
    """
    height, width = canvas.shape[:2]
    size = round(12 * unit)
    for name, (left, top, right, bottom) in areas.items():
        colour = colours.get(name, _MUTED)
        thick = max(1, round((2.5 if name in colours else 1.5) * unit))
        begin = (round(left * (width - 1)), round(top * (height - 1)))
        end = (round(right * (width - 1)), round(bottom * (height - 1)))
        cv2.rectangle(canvas, begin, end, _INK, thick + 2, cv2.LINE_AA)
        cv2.rectangle(canvas, begin, end, colour, thick, cv2.LINE_AA)
        text = shorten(name, size, max(0, end[0] - begin[0] - round(10 * unit)), bold=True)
        if text:
            plate = (begin[0], begin[1], text_width(text, size, bold=True) + round(10 * unit), round(1.6 * size))
            blend_plate(canvas, plate, colour, 0.9)
            draw_text(canvas, text, (begin[0] + round(5 * unit), begin[1] + round(1.2 * size)), size, _INK, bold=True)


def draw_view_rows(canvas: U8, views: Sequence[OverlayView], bottom: int, unit: float) -> None:
    """Draw one row for each view, the last one above `bottom`: its name, and the labels that apply on plates."""
    height, width = canvas.shape[:2]
    pad, size = round(12 * unit), round(15 * unit)
    row = round(1.9 * size)
    most = max(1, round(_ROWS_SHARE * height) // row)
    shown = views if len(views) <= most else views[: most - 1]
    names = [view.name for view in shown]
    left = pad + min(
        round(0.4 * width), max((text_width(name, size, bold=False) for name in names), default=0) + round(9 * unit)
    )
    lines = len(shown) + (len(shown) < len(views))
    y = bottom - row * (lines - 1) - round(0.5 * size)
    for view in shown:
        name = shorten(view.name, size, left - pad - round(6 * unit), bold=False)
        draw_text(canvas, name, (pad, y), size, _WHITE, bold=False)
        draw_plates(canvas, view, (left if any(names) else pad, y), size, unit)
        y += row
    if len(shown) < len(views):
        draw_text(canvas, f"+ {len(views) - len(shown)} more", (pad, y), size, _MUTED, bold=False)


def draw_plates(canvas: U8, view: OverlayView, corner: tuple[int, int], size: int, unit: float) -> None:
    """Draw a plate for each label that applies, from the baseline `corner` to the right, with a ring while it runs."""
    x, baseline = corner
    right = canvas.shape[1] - round(12 * unit)
    if not view.present:
        text = "…" if view.present is None else NO_LABEL
        draw_text(canvas, text, (x, baseline), size, _MUTED, bold=False)
        x += text_width(text, size, bold=False) + round(9 * unit)
    present = view.present or ()
    running = [label for label in view.actions if label not in dict(present)]
    for number, (label, probability) in enumerate(present):
        rest = len(present) - number
        percent = f" {100 * probability:.0f}%"
        inner = round(8 * unit)
        room = right - x - 2 * inner - text_width(percent, size, bold=False)
        text = shorten(label, size, max(0, room), bold=True)
        if number > 0 and text != label:
            draw_text(canvas, f"+{rest}", (x, baseline), size, _WHITE, bold=False)
            return
        label_width = text_width(text, size, bold=True)
        width = label_width + text_width(percent, size, bold=False) + 2 * inner
        box = (x, baseline - round(1.2 * size), width, round(1.62 * size))
        if label in view.actions:
            ring = max(2, round(2 * unit))
            blend_plate(canvas, (box[0] - ring, box[1] - ring, box[2] + 2 * ring, box[3] + 2 * ring), _WHITE, 0.95)
        blend_plate(canvas, box, label_bgr(label), 0.94)
        draw_text(canvas, text, (x + inner, baseline), size, _INK, bold=True)
        draw_text(canvas, percent, (x + inner + label_width, baseline), size, _INK, bold=False)
        x += width + round(9 * unit)
    if running:
        note = shorten("+ " + ", ".join(running), size, max(0, right - x), bold=False)
        draw_text(canvas, note, (x, baseline), size, _WHITE, bold=False)


def draw_timelines(canvas: U8, views: Sequence[OverlayView], band_height: int, unit: float) -> None:
    """Draw the recent predictions of the first views at the lower edge, in the order of the rows."""
    shown = [view for view in views if view.history][:_MAX_BANDS]
    each = band_height // len(shown) if shown else 0
    for number, view in enumerate(shown):
        lower = canvas.shape[0] - each * (len(shown) - 1 - number)
        draw_timeline(canvas, view.history, lower, each, unit)


def draw_timeline(canvas: U8, history: Sequence[tuple[str, float]], lower: int, band_height: int, unit: float) -> None:
    """Draw recent predictions above row `lower`, newest at the right: colour is the label, height the probability."""
    if not history or band_height < 2:
        return
    width = canvas.shape[1]
    band = canvas[lower - band_height : lower]
    band[:] = band * 0.25 + np.array(_INK) * 0.75
    step = max(2, round(4 * unit))
    latest = list(history)[-(width // step) :]
    for index, (label, probability) in enumerate(reversed(latest)):
        right = width - index * step
        rise = max(1, round((band_height - 2) * min(1.0, max(0.0, probability))))
        cv2.rectangle(canvas, (right - step, lower - rise), (right - 2, lower), label_bgr(label), -1)
