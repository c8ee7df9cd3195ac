"""One colour for each label and state, the same in the terminal, over the picture and in films. Needs no library."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Final, TypeAlias

Colour: TypeAlias = tuple[int, int, int]

CALM_LABELS: Final = frozenset({"normal", "none", "other", "still", "unknown", "background", "idle"})
CALM: Final = "#7bd88f"
"""What needs nobody's attention is green, and nothing else is."""
LABELS: Final = (  # far apart, none green, light enough to carry dark text (contrast of at least 7)
    "#4fc3f7",
    "#ffb74d",
    "#ff8fb1",
    "#ff8a75",
    "#cfa3f2",
    "#ebe16e",
    "#9db0ff",
    "#d6b694",
)
INK: Final = "#0e1218"
"""Dark text on any of them."""
STATES: Final = {
    "live": "#50c878",
    "connecting": "#5aaae6",
    "frozen": "#b48cf0",
    "stalled": "#fab43c",
    "offline": "#eb5050",
}

_SALT: Final = 28
"""With it the built-in model's six labels that are not calm get six colours."""


@lru_cache(maxsize=4096)
def label_hex(label: str) -> str:
    """`#rrggbb`: the same for a label everywhere and in every run; labels like `normal` are green."""
    if label.casefold() in CALM_LABELS:
        return CALM
    return LABELS[zlib.crc32(label.encode("utf-8", "replace"), _SALT) % len(LABELS)]


@lru_cache(maxsize=4096)
def label_bgr(label: str) -> Colour:
    """The same colour in OpenCV's order."""
    return bgr(label_hex(label))


def bgr(colour: str) -> Colour:
    """`#rrggbb` as (blue, green, red)."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return blue, green, red
