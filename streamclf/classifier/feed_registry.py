"""Keep the feeds of one classifier: they come and go while it runs, each with its own part of the feature bank."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from engines.bundle import ModelSpec
from streamclf.classifier.card_memory import CardMemory
from streamclf.classifier.feed import Feed, bank_slots
from streamclf.errors import RingError
from streamclf.runtime.jobs import FeedJoin
from streamclf.windows.ring import RingReader
from streamclf.windows.ring_progress import ProgressReporter


class FeedRegistry:
    """Make feeds from the supervisor's messages, and release their descriptors, memory and bank slots afterwards.

    An engine's bank has a fixed size, for `capacity` feeds. Before there are more feeds, the supervisor starts a
    classifier with a larger bank.
    """

    def __init__(self, spec: ModelSpec, capacity: int) -> None:
        self._spec = spec
        self._free = list(range(capacity - 1, -1, -1))
        self._feeds: dict[str, tuple[Feed, RingReader, int, tuple[int, ...]]] = {}

    @staticmethod
    def bank_slots(spec: ModelSpec, capacity: int) -> int:
        """Return the bank slots that an engine for `capacity` feeds needs."""
        return capacity * bank_slots(spec)

    def __iter__(self) -> Iterator[Feed]:
        return (feed for feed, _, _, _ in self._feeds.values())

    def add(self, join: FeedJoin, fds: Sequence[int]) -> Feed:
        """Return a new feed. The registry owns `fds` from now on, also when it raises `RingError`."""
        if join.feed in self._feeds or not self._free or not 2 + join.card <= len(fds) <= 3 + join.card:
            for fd in fds:
                os.close(fd)
            raise RingError(
                f"feed {join.feed} with {len(fds)} descriptors cannot join: it joined already, or the bank is full"
            )
        index = self._free.pop()
        reader = RingReader(fds[0])
        card = None
        if join.card:
            *fds, card_fd = fds
            card = CardMemory(card_fd, reader.slots, join.feed)
        feed = Feed(
            stream=join.stream,
            reader=reader,
            wake_fd=fds[1],
            spec=self._spec,
            settings=join.settings,
            index=index,
            resumed=join.resumed,
            progress=ProgressReporter(fds[2]) if len(fds) == 3 else None,
            name=join.feed,
            region=join.region,
            heads=join.heads,
            card=card,
        )
        self._feeds[join.feed] = (feed, reader, index, tuple(fds))
        return feed

    def remove(self, feed: str) -> None:
        """Release everything that the feed used. It must not be used any more."""
        removed, reader, index, fds = self._feeds.pop(feed)
        if removed.card is not None:
            removed.card.close()
        reader.close()
        for fd in fds:
            os.close(fd)
        self._free.append(index)
