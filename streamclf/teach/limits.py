"""Define the limits of teaching: the fewest clips, and the sizes that bound memory and time."""

from __future__ import annotations

from typing import Final

MIN_CLIPS: Final = 5
"""The fewest clips of a label."""
GOOD_CLIPS: Final = 10
"""With fewer clips of a label than this, the report asks for more."""
MIN_GROUPS: Final = 2
"""The fewest independent recordings of a label: with one, nothing of the label could be held out."""
ADJACENT_S: Final = 5.0
"""Films of one label that follow each other within this time are one recording."""
MAX_LABELS: Final = 200
MAX_CLIPS: Final = 5_000
MAX_CLIP_WINDOWS: Final = 8
"""The most windows that are taken from one clip, spread evenly over it."""
MAX_WINDOWS: Final = 3_000
"""About the most windows of all clips. With more clips, fewer windows are taken from each."""
MAX_FEATURE_BYTES: Final = 512 << 20
"""The most memory for the features of all examples."""
NONE_LABEL: Final = "none of these"
NONE_FOLDERS: Final = ("none", "other", "background", NONE_LABEL)
"""A folder with one of these names holds films that show none of the labels."""
