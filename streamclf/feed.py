"""One stream as the classifier sees it: which token is next, and what is given up when the machine can't keep up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.bundle import ModelSpec
from streamclf.progress import ProgressReporter
from streamclf.ring import RingReader
from streamclf.windows import Window, WindowAssembler

U8 = npt.NDArray[np.uint8]

BURST = 4
"""Tokens of one stream in one batch, at most: others wait for the same encode."""
CATCH_UP = 4
"""Waiting tokens up to which every window is still classified; beyond, only the newest one is worth its cost."""
RING_MARGIN = 8
"""Ring slots beyond one window: what capture may write while a batch runs."""


def bank_slots(spec: ModelSpec) -> int:
    """Bank slots of one stream: one window, and room for a burst that must not overwrite it."""
    return spec.tokens + BURST - 1


def ring_slots(spec: ModelSpec) -> int:
    """Ring slots of one stream."""
    return spec.tokens + RING_MARGIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A token copied into the batch, the window that it completes, if any, and what the feed had dropped by then."""

    stream: str
    slot: int
    window: Window | None
    dropped: dict[str, int]


class Feed:
    """The reading side of one stream's ring.

    Overload: real time wins. A feed that has fallen behind by a whole window gives up what waits and goes on with
    the newest token, in a new run of tokens; `drops` counts each token and window lost, by cause. A `resumed` feed
    begins with what capture writes next: an earlier classifier has had the rest. With `progress`, capture waits for
    this feed, and nothing is given up.
    """

    def __init__(
        self,
        *,
        stream: str,
        reader: RingReader,
        wake_fd: int,
        spec: ModelSpec,
        hop: int,
        index: int,
        resumed: bool = False,
        progress: ProgressReporter | None = None,
    ) -> None:
        self.stream = stream
        self.wake_fd = wake_fd
        self.drops: Counter[str] = Counter()
        self._reader = reader
        self._limit = spec.tokens + RING_MARGIN // 2
        slots = bank_slots(spec)
        self._assembler = WindowAssembler(tokens=spec.tokens, hop=hop, slots=slots, first_slot=index * slots)
        # Capture starts at the same moment and is ready sooner: the first one takes what waits already.
        self._next = reader.head if resumed and not progress else reader.oldest
        self._progress = progress
        self._taken = 0

    def set_hop(self, hop: int) -> None:
        """From the next token on, predictions come every `hop` tokens."""
        self._assembler.set_hop(hop)

    @property
    def waiting(self) -> int:
        """Tokens in the ring that have not been taken."""
        return self._reader.head - self._next

    def begin_batch(self) -> None:
        """A new batch: this feed may fill up to `BURST` places of it."""
        self._taken = 0

    def take(self, out: U8) -> Pending | None:
        """Copy the next waiting token, (t, H, W, 3), into `out`; None when none waits or the burst is used up."""
        if self._taken == BURST:
            return None
        while (waiting := self.waiting) > 0:
            if waiting > self._limit and not self._progress:
                self.drops["overload"] += waiting - 1
                self._next += waiting - 1
                waiting = 1
            meta = self._reader.read(self._next, out)
            self._next += 1
            if self._progress:
                self._progress.read_up_to(self._next)
            if meta is None:
                self.drops["overrun"] += 1
                continue
            self._taken += 1
            slot, window = self._assembler.place(meta)
            if window and waiting > CATCH_UP and not self._progress:
                self.drops["window"] += 1
                window = None
            return Pending(stream=self.stream, slot=slot, window=window, dropped=dict(+self.drops) if window else {})
        return None
