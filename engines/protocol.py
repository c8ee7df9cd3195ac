"""Define the engine that every backend gives: its methods, and the options it is opened with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from engines.arrays import F32, I32, U8
from engines.backends.names import Precision
from engines.bundle import ModelSpec

FP32_TRIAL_ORDER: Final = ("head", "encoder")
"""What is tried first to stay in fp32: most of the work is the encoder's."""


class Engine(Protocol):
    """A loaded, verified model with a bank of features on its own device.

    One thread at a time may call it; a second one at the same moment gets `EngineInputError`.
    """

    spec: ModelSpec
    max_batch: int
    bank_slots: int
    description: str
    """Backend, device and precision in words, as logs and `doctor` show them."""
    precision: str

    def encode(self, frames: U8, slots: I32) -> None:
        """(N, t, H, W, 3) uint8 RGB; writes the N features into bank slots `slots` (N,). N <= max_batch."""

    def classify(self, windows: I32) -> F32:
        """(N, T) bank slots, oldest first -> probabilities (N, K). The array is the caller's. N <= max_batch."""

    def read_features(self, slots: I32) -> F32:
        """(N,) bank slots -> (N, *F) features. The array is the caller's. N <= max_batch."""

    def write_features(self, features: F32, slots: I32) -> None:
        """(N, *F) of another engine of the same bundle, into bank slots `slots` (N,). N <= max_batch."""

    def close(self) -> None:
        """Free the device; any later call raises `EngineInputError`. May be called twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an adapter is told; `bank_slots` is at least `max_batch` and one window."""

    precision: Precision
    max_batch: int
    bank_slots: int
    threads: int
    streams: int = 1
    """How many streams it will serve: one wants each answer soon, many want the most answers."""
    fp32_graph: str | None = None
    """The graph, `encoder` or `head`, that stays in fp32 whatever `precision` says."""
    may_build: bool = True
    """False: what would take minutes to compile is not; `NotBuiltError` instead."""

    def computes(self, precision: str) -> str:
        """`precision`, and which graph is excepted, as an engine's description says it."""
        return precision if self.fp32_graph is None else f"{precision} ({self.fp32_graph} fp32)"
