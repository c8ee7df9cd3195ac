"""The `Engine` protocol and the only place that chooses a backend."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from engines.bundle import ModelSpec

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]


class Engine(Protocol):
    """A loaded, verified model with a bank of features on its own device."""

    spec: ModelSpec

    def encode(self, frames: U8, slots: I32) -> None:
        """(N, t, H, W, 3) uint8 RGB; writes the N features into bank slots `slots` (N,). N <= max_batch."""

    def classify(self, windows: I32) -> F32:
        """(N, T) bank slots, oldest first -> probabilities (N, K). The array is the caller's."""
