"""Share memory of the engine's GPU with the capture process of one feed."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

from engines.errors import EngineError
from streamclf.windows.card_channel import CardChannel, CardOffer

if TYPE_CHECKING:
    from engines.group import EngineGroup
    from engines.protocol import ChunkMemory

log = logging.getLogger("classifier")


class CardMemory:
    """The chunks of one feed in the memory of the engine's GPU: one for each slot of the feed's ring."""

    def __init__(self, fd: int, slots: int, feed: str) -> None:
        """Offer memory through the channel `fd`, which this object owns."""
        self._channel = CardChannel(fd)
        self._slots, self._feed = slots, feed
        self._group: EngineGroup | None = None
        self._memory: ChunkMemory | None = None
        self._offer = CardOffer()

    def fileno(self) -> int:
        """Return the descriptor on which requests arrive."""
        return self._channel.fileno()

    @property
    def number(self) -> int:
        """The number of the memory that is shared now; 0 for none."""
        return self._offer.number

    def share(self, group: EngineGroup | None) -> None:
        """Share memory of this group's engine from now on instead of the memory before; None for no memory.

        Chunks that wait in the memory before are dropped.
        """
        if group is self._group:
            return
        had_memory, self._offer = bool(self.number), CardOffer()
        self.release()
        self._group = group
        if group is not None:
            try:
                self._memory = group.share_memory(self._slots)
            except EngineError as error:
                log.warning("%s: chunks come from the host's memory: %s", self._feed, error)
        if self._memory is not None:
            memory = self._memory
            self._offer = CardOffer(
                number=secrets.randbits(62) | 1,  # a capture process may know offers of earlier classifiers
                gpu=memory.gpu,
                chunks=memory.chunks,
                stride=memory.stride,
                nbytes=memory.nbytes,
            )
        if self._memory is not None or had_memory:
            self._send()

    def answer(self) -> None:
        """Send the offer again if a capture process has started."""
        if self._channel.was_requested():
            self._send()

    def fetch(self, slot: int, row: int) -> None:
        """Copy the chunk in a slot into a row of the engine's next batch on the GPU."""
        assert self._group is not None
        assert self._memory is not None
        self._group.fetch(self._memory, slot, row)

    def release(self) -> None:
        """Free the memory here; a capture process that has mapped it may still write to it."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def close(self) -> None:
        """Free the memory, tell the capture process, and close the channel."""
        self.share(None)
        self._channel.close()

    def _send(self) -> None:
        self._channel.offer(self._offer, None if self._memory is None else self._memory.fd)
