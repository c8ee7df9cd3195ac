"""Made first-person films of a finger that draws a shape in the air, as many as one likes, its tip known exactly."""

LABELS = ("caret", "circle", "delete", "down", "left", "other", "right", "square", "star", "tick", "up")
