"""`camera-events`: footage of cameras that are covered, moved, shaken…, made by rule, so that labels are exact."""

LABELS = ("normal", "covered", "defocused", "moved", "shaking", "flashing", "noise")
