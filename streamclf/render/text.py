"""Draw lines of text on an image, with the fonts that OpenCV has."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np

from engines.arrays import U8
from engines.printable import printable
from streamclf.render.palette import Colour

MAX_CHARS: Final = 300
_MIRRORED: Final = str.maketrans("()[]{}<>", ")(][}{><")
"""Signs that a text from right to left shows the other way round."""


def shorten(text: str, size: int, max_width: int, *, bold: bool) -> str:
    """Return `text` as it can be drawn, shortened with an ellipsis until it is at most `max_width` pixels wide."""
    text = drawable(text)
    if text_width(text, size, bold=bold) <= max_width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle] + "...", size, bold=bold) <= max_width:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "..." if low else ""


@lru_cache(maxsize=1024)
def drawable(text: str) -> str:
    """Return `text` on one line, without characters that control a terminal, and with the names of missing symbols.

    Accents are composed, because OpenCV draws a combining accent beside its letter. The fonts of OpenCV 5 have Latin,
    Greek, Cyrillic, Hebrew, Arabic and CJK letters, but no emoji: a car becomes `:automobile:`. Letters of other
    scripts are drawn as `?`. OpenCV 4 draws ASCII alone, so accents are removed.
    """
    text = printable(unicodedata.normalize("NFC", " ".join(text.split())))[:MAX_CHARS]
    if not _HAS_SCALABLE_FONT:
        text = unicodedata.normalize("NFKD", text)
    return "".join(char if _has_glyph(char) else _substitute(char) for char in text)


def _substitute(char: str) -> str:
    kind = unicodedata.category(char)
    if kind in ("Mn", "Me", "Cf"):  # accents, variation selectors and joiners
        return ""
    return f":{unicodedata.name(char, '?').lower()}:" if kind.startswith("S") else "?"


# OpenCV 5 draws a scalable sans-serif font; OpenCV 4 has only stroke letters, in ASCII.
_HAS_SCALABLE_FONT: Final = hasattr(cv2, "FontFace")


@lru_cache(maxsize=4096)
def _has_glyph(char: str) -> bool:
    """Return whether the font has `char`: a missing one looks like U+FFFF, which never has a picture."""
    if char.isascii() or not _HAS_SCALABLE_FONT:
        return char.isascii()
    return not np.array_equal(_picture(char), _picture("\uffff"))


def _picture(char: str) -> U8:
    image = np.zeros((40, 80, 3), np.uint8)
    cv2.putText(image, char, (10, 30), (255, 255, 255), _font(), 20, 400)
    return image


@lru_cache(maxsize=1)
def _font() -> Any:
    return cv2.FontFace("sans")


@lru_cache(maxsize=1024)
def text_width(text: str, size: int, *, bold: bool) -> int:
    """Return the width in pixels of one line. Its capitals are about 0.7 `size` pixels tall."""
    if not text:
        return 0
    if _HAS_SCALABLE_FONT:
        box = cv2.getTextSize((4096, 4096), text, (0, 0), _font(), size, 600 if bold else 400)
        return int(box[2])
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size / 30, _stroke_width(size, bold))
    return int(width)


def wrap(text: str, size: int, max_width: int, max_lines: int) -> list[str]:
    """Break a text into lines of at most `max_width` pixels, at spaces; shorten the last line if there are too many."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < max_lines - 1:
        count = 1
        while count < len(words) and text_width(" ".join(words[: count + 1]), size, bold=False) <= max_width:
            count += 1
        lines.append(shorten(" ".join(words[:count]), size, max_width, bold=False))
        words = words[count:]
    return [*lines, shorten(" ".join(words), size, max_width, bold=False)] if words else lines


def draw_text(canvas: U8, text: str, origin: tuple[int, int], size: int, colour: Colour, *, bold: bool) -> None:
    """Draw one line of text; `origin` is the left end of its baseline."""
    if not text:
        return
    text = visual_order(text)
    if _HAS_SCALABLE_FONT:
        cv2.putText(canvas, text, origin, colour, _font(), size, 600 if bold else 400)
    else:
        cv2.putText(
            canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size / 30, colour, _stroke_width(size, bold), cv2.LINE_AA
        )


@lru_cache(maxsize=1024)
def visual_order(text: str) -> str:
    """Return the characters of a line from left to right, as OpenCV draws them: Hebrew and Arabic read the other way.

    This is the case without nested directions of Unicode's algorithm (UAX 9). Numbers keep their order.
    """
    kinds = [unicodedata.bidirectional(char) for char in text]
    strong = ["R" if kind in ("R", "AL") else "L" if kind in ("L", "EN", "AN") else "" for kind in kinds]
    if "R" not in strong:
        return text
    base = next(direction for kind, direction in zip(kinds, strong, strict=True) if kind in ("L", "R", "AL"))
    runs: list[tuple[str, str]] = []
    for place, (char, direction) in enumerate(zip(text, strong, strict=True)):
        if not direction:  # a space or sign has the direction of the letters around it, if they agree
            before = runs[-1][0] if runs else base
            after = next((later for later in strong[place:] if later), base)
            direction = before if before == after else base
        if runs and runs[-1][0] == direction:
            runs[-1] = (direction, runs[-1][1] + char)
        else:
            runs.append((direction, char))
    drawn = [run if direction == "L" else run[::-1].translate(_MIRRORED) for direction, run in runs]
    return "".join(drawn if base == "L" else reversed(drawn))


def _stroke_width(size: int, bold: bool) -> int:
    return max(1, round(size / (10 if bold else 16)))
