"""The capture side of a classifier, driven by a test: rings with chunks, and the drafts that come out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from streamclf.classifier.classifier import Classifier
from streamclf.classifier.feed import Feed, ring_slots
from streamclf.classifier.loop import ClassifierLoop
from streamclf.config.classify import StreamSettings
from streamclf.events.drafts import Draft
from streamclf.runtime.child import ChildControl
from streamclf.windows.ring import RingReader, RingWriter, create_ring
from streamclf.windows.sampling import ChunkMeta

CHUNK_NS: Final = 200_000_000


class Posted:
    """A producer that keeps the drafts which the hub would receive."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.posts: list[int] = []
        """Number of drafts in each post."""
        self.arrived = threading.Event()

    def post_all(self, drafts: Sequence[Draft]) -> None:
        self.drafts += drafts
        self.posts.append(len(drafts))
        self.arrived.set()

    def of(self, stream: str) -> list[dict[str, Any]]:
        return [dict(draft.body) for draft in self.drafts if draft.stream == stream]


class Camera:
    """The capture side of one stream, driven by the test."""

    def __init__(self, stream: str, engine: Any, index: int, hop: int = 1, progress: Any = None, **feed: Any) -> None:
        """`engine`: an engine or a group, whose spec counts. `feed`: other arguments of `Feed`."""
        spec = engine.spec
        fd = create_ring(ring_slots(spec), spec.chunk_shape)
        self.writer = RingWriter(fd)
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        settings = StreamSettings(hop=hop)
        self.feed = Feed(
            stream=stream,
            reader=RingReader(fd),
            wake_fd=self.wake_read,
            spec=spec,
            settings=settings,
            index=index,
            progress=progress,
            **feed,
        )
        self.fds = (os.dup(fd), os.dup(self.wake_read))
        """Descriptors as the supervisor sends them."""
        self.chunks: list[np.ndarray] = []
        self.captured_ns: list[int] = []
        self.history: list[tuple[int, int]] = []
        os.close(fd)
        self._random = np.random.default_rng(index)
        self.segment, self.index = 1, 0

    def chunk(self, *, duplicates: int = 0, corrupt: int = 0, level: int | None = None) -> None:
        """Write one chunk whose pixels are near `level`, by default a random one."""
        level = int(self._random.integers(30, 220)) if level is None else level
        pixels = self._random.integers(level - 20, level + 20, (2, 16, 16, 3)).astype(np.uint8)
        self.writer.begin()[:] = pixels
        meta = ChunkMeta(
            segment=self.segment,
            index=self.index,
            start_pts_ns=self.index * CHUNK_NS,
            end_pts_ns=(self.index + 1) * CHUNK_NS,
            captured_ns=time.monotonic_ns(),
            frames=2,
            duplicates=duplicates,
            corrupt=corrupt,
        )
        self.writer.commit(meta)
        self.captured_ns.append(meta.captured_ns)
        self.chunks.append(pixels)
        self.history.append((self.segment, self.index))
        self.index += 1

    def gap(self) -> None:
        self.segment, self.index = self.segment + 1, 0


@contextmanager
def running(classifier: Classifier, max_wait_s: float = 0.0) -> Iterator[threading.Thread]:
    """Run the classifier's loop in a thread, and stop it at the end."""
    control = ChildControl()
    thread = threading.Thread(target=ClassifierLoop(classifier, control, max_wait_s=max_wait_s).run)
    thread.start()
    try:
        yield thread
    finally:
        control.request_stop()
        thread.join(60)


def drain(classifier: Classifier) -> None:
    while classifier.step():
        pass
