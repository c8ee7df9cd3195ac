"""Choose the colour of each label and state, the same in the terminal, in windows and in films. Imports no library."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Final, TypeAlias

Colour: TypeAlias = tuple[int, int, int]

CALM_LABELS: Final = frozenset({"normal", "none", "other", "still", "unknown", "background", "idle"})
CALM: Final = "#7bd88f"
"""Labels that need no attention are green; no other label is."""
LABELS: Final = (  # far apart, not green, and light enough for dark text (contrast of at least 7)
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
"""The colour of text on any of them."""
STATES: Final = {
    "live": "#50c878",
    "connecting": "#5aaae6",
    "frozen": "#b48cf0",
    "stalled": "#fab43c",
    "offline": "#eb5050",
}

_SALT: Final = 28
"""With this salt, the six labels of the built-in model that are not calm get six different colours."""


@lru_cache(maxsize=4096)
def label_hex(label: str) -> str:
    """Return the colour of a label as `#rrggbb`. It is the same in every run; labels like `normal` are green."""
    if label.casefold() in CALM_LABELS:
        return CALM
    return LABELS[zlib.crc32(label.encode("utf-8", "replace"), _SALT) % len(LABELS)]


@lru_cache(maxsize=4096)
def label_bgr(label: str) -> Colour:
    """Return the colour of a label in OpenCV's order."""
    return bgr(label_hex(label))


def bgr(colour: str) -> Colour:
    """Convert `#rrggbb` to (blue, green, red)."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return blue, green, red
