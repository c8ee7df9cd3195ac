"""Synthetic first-person clips of a finger that draws a shape in the air, with the exact place of its tip."""

LABELS = ("caret", "circle", "delete", "down", "left", "other", "right", "square", "star", "tick", "up")
