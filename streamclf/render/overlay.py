"""Draw predictions over a frame: the same for windows, recordings and annotated films. No input or output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import U8
from streamclf.render.overlay_views import (
    OverlayView,
    draw_areas,
    draw_plates,
    draw_timeline,
    draw_timelines,
    draw_view_rows,
)
from streamclf.render.palette import STATES, Colour, bgr, label_bgr
from streamclf.render.plates import blend_plate
from streamclf.render.text import draw_text, shorten, text_width, wrap

MIN_SIDE: Final = 270
"""Frames with a shorter side are enlarged to this many pixels, since text on fewer could not be read."""
_MAX_REASON_LINES: Final = 4
_WHITE: Final[Colour] = (255, 255, 255)
_MUTED: Final[Colour] = (205, 200, 196)
_INK: Final[Colour] = (24, 18, 14)
_TRACK: Final[Colour] = (110, 104, 98)
_STATE_COLOURS: Final = {state: bgr(colour) for state, colour in STATES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayState:
    """The values to draw for one stream.

    `top` holds (label, probability), most probable first. `history` holds the best of each earlier one, oldest first.
    """

    stream: str
    state: str = "live"
    reason: str | None = None
    top: Sequence[tuple[str, float]] = ()
    history: Sequence[tuple[str, float]] = ()
    rate_per_s: float | None = None
    latency_ms: float | None = None
    actions: Sequence[str] = ()
    """Labels of the running actions."""
    note: str | None = None
    """A short text at the top right."""
    present: Sequence[tuple[str, float]] | None = None
    """The labels that apply, of a model that can report several; None means the first of `top`."""
    views: Sequence[OverlayView] = ()
    """The views of a stream with regions or named models. If one has a name, they are drawn in place of labels, history
    and actions; the rectangles of regions are drawn in any case."""


def draw(frame: U8, state: OverlayState) -> U8:
    """Draw label, bars, timeline and state over a copy of `frame`.

    (H, W, 3) uint8 BGR -> (H', W', 3) uint8 BGR. The copy is enlarged by a whole factor if a side is below 270 px.
    """
    canvas = _enlarge(frame)
    height, width = canvas.shape[:2]
    unit = max(0.75, min(height, width) / 400)
    has_rows = any(view.name for view in state.views)
    if state.state == "live":
        draw_areas(canvas, state.views, unit)
    if state.state == "live" and has_rows:
        _draw_views(canvas, state, unit)
    elif state.state == "live" and state.top:
        _draw_labels(canvas, state, unit)
    elif state.state != "live":
        _draw_notice(canvas, state, unit)
    _draw_header(canvas, state, unit)
    if has_rows:
        draw_timelines(canvas, state.views, _timeline_height(unit), unit)
    else:
        draw_timeline(canvas, state.history, canvas.shape[0], _timeline_height(unit), unit)
    return canvas


def _enlarge(frame: U8) -> U8:
    height, width = frame.shape[:2]
    factor = math.ceil(MIN_SIDE / min(height, width))
    if factor <= 1:
        return np.ascontiguousarray(frame).copy()
    # Nearest neighbour keeps the pixels that the model gets; interpolation would blur them.
    size = (width * factor, height * factor)
    return np.ascontiguousarray(cv2.resize(frame, size, interpolation=cv2.INTER_NEAREST))


def _draw_header(canvas: U8, state: OverlayState, unit: float) -> None:
    width = canvas.shape[1]
    pad, size = round(12 * unit), round(14 * unit)
    _darken_rows(canvas, 0, round(64 * unit), upward=False)
    colour = _STATE_COLOURS.get(state.state, _MUTED)
    baseline = pad + size
    cv2.circle(canvas, (pad + size // 3, baseline - size // 3), max(3, round(4.5 * unit)), colour, -1, cv2.LINE_AA)
    left = pad + round(size * 1.0)
    figures = [] if state.note is None else [shorten(state.note, size, width // 2, bold=False)]
    if state.rate_per_s is not None:
        figures.append(f"{state.rate_per_s:.1f}/s")
    if state.latency_ms is not None:
        figures.append(f"{state.latency_ms:.0f} ms")
    right_text = "   ".join(figures)
    right_width = text_width(right_text, size, bold=False)
    draw_text(canvas, right_text, (width - pad - right_width, baseline), size, _MUTED, bold=False)
    name = shorten(state.stream, size, width - left - right_width - 3 * pad, bold=True)
    draw_text(canvas, name, (left, baseline), size, _WHITE, bold=True)


def _draw_labels(canvas: U8, state: OverlayState, unit: float) -> None:
    height, width = canvas.shape[:2]
    pad = round(12 * unit)
    bottom = height - _timeline_height(unit) - pad
    bars = 3 if height >= 300 else 2 if height >= 250 else 1
    row = round(19 * unit)
    top = list(state.top[:bars])
    panel_width = min(round(330 * unit), width - 2 * pad)
    _darken_rows(canvas, height - round((100 + 19 * bars + 52) * unit), height, upward=True)
    y = bottom - row * (len(top) - 1)
    for index, (label, probability) in enumerate(top):
        _draw_bar(canvas, (pad, y + index * row), panel_width, label, probability, unit)
    _draw_label_plate(canvas, state, (pad, bottom - row * len(top) - round(6 * unit)), unit)


def _draw_views(canvas: U8, state: OverlayState, unit: float) -> None:
    height = canvas.shape[0]
    bottom = height - _timeline_height(unit) - round(6 * unit)
    _darken_rows(canvas, height - round((120 + 29 * min(len(state.views), 8)) * unit), height, upward=True)
    draw_view_rows(canvas, state.views, bottom, unit)


def _draw_label_plate(canvas: U8, state: OverlayState, corner: tuple[int, int], unit: float) -> None:
    """Draw the label on a coloured plate with its bottom left at `corner`, and a ring while its action runs."""
    x, bottom = corner
    size = round(22 * unit)
    if state.present is not None and len(state.present) != 1:
        view = OverlayView(name="", present=state.present, actions=state.actions)
        draw_plates(canvas, view, (x, bottom - round(0.5 * size)), round(19 * unit), unit)
        return
    label, probability = state.top[0] if state.present is None else state.present[0]
    percent = f"{100 * probability:.0f}%"
    max_width = canvas.shape[1] - 2 * x - round(30 * unit) - text_width(percent, size, bold=False)
    text = shorten(label, size, max_width, bold=True)
    label_width = text_width(text, size, bold=True)
    gap, inner = round(9 * unit), round(11 * unit)
    box_width = label_width + gap + text_width(percent, size, bold=False) + 2 * inner
    box_height = round(size * 1.62)
    colour = label_bgr(label)
    top = bottom - box_height
    if label in state.actions:
        ring = max(2, round(2.5 * unit))
        blend_plate(canvas, (x - ring, top - ring, box_width + 2 * ring, box_height + 2 * ring), _WHITE, 0.95)
    blend_plate(canvas, (x, top, box_width, box_height), colour, 0.94)
    baseline = bottom - round(box_height * 0.3)
    draw_text(canvas, text, (x + inner, baseline), size, _INK, bold=True)
    draw_text(canvas, percent, (x + inner + label_width + gap, baseline), size, _INK, bold=False)
    others = [action for action in state.actions if action != label]
    if others:
        note = shorten(
            "+ " + ", ".join(others), round(14 * unit), canvas.shape[1] - x - box_width - 3 * gap, bold=False
        )
        draw_text(canvas, note, (x + box_width + gap, baseline), round(14 * unit), _WHITE, bold=False)


def _draw_bar(canvas: U8, corner: tuple[int, int], width: int, label: str, probability: float, unit: float) -> None:
    x, baseline = corner
    size = round(13 * unit)
    name_width, value_width = round(width * 0.36), round(38 * unit)
    draw_text(canvas, shorten(label, size, name_width - round(6 * unit), bold=False), corner, size, _WHITE, bold=False)
    track = width - name_width - value_width
    thick = max(4, round(7 * unit))
    top = baseline - round(size * 0.36) - thick // 2
    blend_plate(canvas, (x + name_width, top, track, thick), _TRACK, 0.55)
    filled = round(track * min(1.0, max(0.0, probability)))
    if filled >= thick:
        blend_plate(canvas, (x + name_width, top, filled, thick), label_bgr(label), 1.0)
    value = f"{100 * probability:.0f}%"
    draw_text(canvas, value, (x + width - text_width(value, size, bold=False), baseline), size, _MUTED, bold=False)


def _timeline_height(unit: float) -> int:
    return max(8, round(20 * unit))


def _draw_notice(canvas: U8, state: OverlayState, unit: float) -> None:
    """Darken the frame and write the state and its reason in the middle."""
    height, width = canvas.shape[:2]
    canvas[:] = canvas * 0.45
    size, small = round(24 * unit), round(14 * unit)
    title = shorten(state.state, size, width - 20, bold=True)
    x = (width - text_width(title, size, bold=True)) // 2
    draw_text(canvas, title, (x, height // 2), size, _STATE_COLOURS.get(state.state, _WHITE), bold=True)
    if state.reason:
        y = height // 2 + round(26 * unit)
        for line in wrap(state.reason, small, width - 24, _MAX_REASON_LINES):
            x = (width - text_width(line, small, bold=False)) // 2
            draw_text(canvas, line, (x, y), small, _WHITE, bold=False)
            y += round(1.4 * small)


def _darken_rows(canvas: U8, top: int, bottom: int, *, upward: bool) -> None:
    """Darken rows gradually, so that white text can be read on any frame."""
    top = max(0, top)
    depth = np.linspace(0.0, 1.0, bottom - top, dtype=np.float32)
    keep = 1 - 0.8 * _smooth(depth if upward else depth[::-1])
    canvas[top:bottom] = canvas[top:bottom] * keep[:, None, None]


def _smooth(ramp: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Map 0..1 to 0..1 with a slope of zero at both ends."""
    return ramp * ramp * (3 - 2 * ramp)
