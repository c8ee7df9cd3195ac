"""Fill chunks in a GPU's memory that the classifier shares, instead of the ring's memory.

A chunk begins there if its first picture is on the GPU. If a later one is not, or the GPU cannot scale it, the chunk
moves to the ring's memory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from engines.arrays import U8
from streamclf.config.picture_area import PictureArea
from streamclf.errors import SourceError
from streamclf.sources.card_use import Card, Target, is_on_card, open_card
from streamclf.sources.frame import Frame
from streamclf.sources.resize import OrientedFrame, Resize
from streamclf.windows.card_channel import CardChannel, CardOffer
from streamclf.windows.ring import RingWriter
from streamclf.windows.sampling import ChunkMeta

log = logging.getLogger(__name__)


class CardSlots:
    """The GPU's slots of one view."""

    def __init__(self, ring: RingWriter, fd: int, *, wants_pixels: Callable[[], bool] = lambda: False) -> None:
        """Ask for memory through the channel `fd`, which this object owns.

        `wants_pixels`: whether the host needs the pixels of the next chunk, too; they are then copied to the ring.
        """
        self._ring, self._wants_pixels = ring, wants_pixels
        self._channel = CardChannel(fd)
        self._channel.request()
        self._offer = CardOffer()
        self._card: Card | None = None
        self._address = 0
        self.chunks = 0
        """Chunks whose pixels stayed on the GPU."""

    def begin(self, frame: Frame, resize: Resize, area: PictureArea) -> CardChunk | None:
        """Return the memory of the ring's next chunk on the GPU of its first `frame`; None if there is none."""
        image = frame.image
        if not isinstance(image, OrientedFrame) or not is_on_card(image.frame):
            return None
        card = open_card()
        if card is None:
            return None
        self._take_offer(card)
        if not self._address:
            return None
        _, height, width, _ = self._ring.chunk_shape
        address = self._address + self._ring.next_slot * self._offer.stride
        return CardChunk(self, card, address, Target(height, width, resize, area))

    def commit(self, chunk: ChunkMeta, on_card: CardChunk, pixels: U8) -> None:
        """Make a chunk visible to the classifier. `pixels` is its memory in the ring."""
        if self._wants_pixels():
            on_card.download(pixels)
        self.chunks += 1
        self._ring.commit(chunk, card=self._offer.number)

    def close(self) -> None:
        """Release the memory and the channel."""
        self._forget_memory()
        self._channel.close()

    def _take_offer(self, card: Card) -> None:
        """Map the memory of a new offer, and release that of the last one."""
        received = self._channel.latest_offer()
        if received is None:
            return
        self._forget_memory()
        self._offer, fd = received
        if fd is None:
            return
        try:
            if self._fits(card):
                self._card = card
                self._address = card.open_shared(fd, self._offer.nbytes) or 0
        finally:
            os.close(fd)

    def _fits(self, card: Card) -> bool:
        offer, ring = self._offer, self._ring
        frames, height, width, channels = ring.chunk_shape
        if offer.gpu != card.bus:
            log.info("chunks are copied to the host: the camera is decoded on GPU %s, not on %s", card.bus, offer.gpu)
            return False
        is_large = offer.stride >= frames * height * width * channels and offer.nbytes >= offer.chunks * offer.stride
        return offer.chunks == ring.slots and is_large

    def _forget_memory(self) -> None:
        if self._card is not None and self._address:
            self._card.release(self._address)
        self._card, self._address = None, 0


class CardChunk:
    """One chunk in a GPU's memory, while its pictures are added."""

    def __init__(self, slots: CardSlots, card: Card, address: int, target: Target) -> None:
        self._slots, self._card, self._address, self._target = slots, card, address, target
        self._picture_bytes = 3 * target.height * target.width

    def add(self, frame: Frame, position: int) -> bool:
        """Scale a picture into its place. Return False if the chunk has to move to the host."""
        image: Any = frame.image
        if not isinstance(image, OrientedFrame) or not is_on_card(image.frame):
            return False
        return self._card.scale(image, self._target, self._address + position * self._picture_bytes)

    def repeat(self, position: int) -> bool:
        """Copy the picture before `position` to `position`. Return False if the chunk has to move to the host."""
        to = self._address + position * self._picture_bytes
        return self._card.copy(to, to - self._picture_bytes, self._picture_bytes)

    def download(self, pixels: U8) -> None:
        """Copy the first len(pixels) pictures to the host. Raises `SourceError` if the GPU has failed."""
        if len(pixels) and not self._card.download(self._address, pixels):
            raise SourceError("the GPU failed while it held the pictures of a chunk; the chunk is dropped")

    def commit(self, chunk: ChunkMeta, pixels: U8) -> None:
        """Make the chunk visible to the classifier. `pixels` is its memory in the ring."""
        self._slots.commit(chunk, self, pixels)
