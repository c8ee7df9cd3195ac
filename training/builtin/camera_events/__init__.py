"""Synthetic footage of cameras that are covered, moved, shaken and so on, with exact labels: `camera-events`."""

LABELS = ("normal", "covered", "defocused", "moved", "shaking", "flashing", "noise")
