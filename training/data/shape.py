"""The size of the clips that a model takes."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The rate, window length and frame size that a model takes."""

    fps: float
    frames_per_chunk: int
    chunks: int
    height: int
    width: int

    @property
    def window(self) -> int:
        """Count the frames of one window."""
        return self.frames_per_chunk * self.chunks

    def enlarged(self, scale: float) -> tuple[int, int]:
        """Return (height, width), each multiplied by `scale` and rounded up."""
        return math.ceil(self.height * scale), math.ceil(self.width * scale)
