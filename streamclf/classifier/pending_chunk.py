"""Describe a chunk that is in the classifier's batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from streamclf.windows.assembler import Window

FeatureKey: TypeAlias = tuple[int, bytes]
"""Identifies the features of one window of a feed: chunks encoded by then, and the window's bank slots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingChunk:
    """A chunk in the batch, the window that it completes (if any), and its feed's drops so far.

    `on_card`: the chunk is in the engine's own batch, on its GPU. `reused`: the bank slot holds the chunk's feature
    already, so the batch does not hold the chunk. `hop`: the present hop, if it is adaptive. `gated` (chunks reused so
    far) and `features`: only with a motion gate.
    """

    feed: str
    slot: int
    window: Window | None
    dropped: dict[str, int]
    reused: bool = False
    on_card: bool = False
    gated: int = 0
    hop: int | None = None
    features: FeatureKey | None = None
