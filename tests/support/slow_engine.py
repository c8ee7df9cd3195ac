"""Simulate a classifier under any load without waiting: engine and cameras follow the clock of the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from support.serving import serve_engines

from engines.bundle import ModelSpec
from streamclf.classifier.classifier import Classifier
from streamclf.classifier.feed import ONE_HEAD, Feed, bank_slots, ring_slots
from streamclf.config.classify import HeadSettings, StreamSettings
from streamclf.events.drafts import Draft
from streamclf.windows.ring import RingReader, RingWriter, create_ring
from streamclf.windows.sampling import ChunkMeta

SIZE = 8


class SlowEngine:
    """An `engines.protocol.Engine` whose features are the chunks' first pixels, and whose result depends on each.

    `encode_s` and `head_s`, the seconds for each chunk and window, may be changed at any time.
    """

    def __init__(
        self, rig: Rig, *, chunks: int, streams: int, encode_s: float, head_s: float, max_batch: int, shift: float = 0.0
    ) -> None:
        """`shift` is added to each answer, so that the answers of two models differ."""
        self._rig, self._shift = rig, shift
        self.spec = ModelSpec.model_construct(
            name="slow", version="1", labels=("a", "b"), height=SIZE, width=SIZE, fps=rig.chunks_per_s, chunks=chunks,
            frames_per_chunk=1, feature_shape=(1,),
        )  # fmt: skip
        self.max_batch = max_batch
        self.bank_slots = streams * bank_slots(self.spec)
        self.description, self.precision, self.queues_work = "slow 1 fp32", "fp32", False
        self.encode_s, self.head_s = encode_s, head_s
        self.encoded = self.classified = 0
        self._bank = np.full(self.bank_slots, -1, np.int64)

    def encode(self, frames: npt.NDArray[np.uint8], slots: npt.NDArray[np.int32]) -> None:
        assert len(frames) == len(slots) == len(set(slots.tolist())) <= self.max_batch
        self._bank[slots] = number_of(frames)
        self.encoded += len(slots)
        self._rig.now_s += self.encode_s * len(slots)

    def classify(self, windows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        assert 1 <= len(windows) <= self.max_batch
        self.classified += len(windows)
        self._rig.now_s += self.head_s * len(windows)
        self._rig.read = self._bank[windows].tolist()
        first = np.array([(answer(row) + self._shift) % 1 for row in self._rig.read], np.float32)
        return np.stack([first, 1 - first], axis=1)

    def submit(self, windows: npt.NDArray[np.int32]) -> Callable[[], npt.NDArray[np.float32]]:
        probabilities = self.classify(windows)
        return lambda: probabilities

    def share_bank(self, owner: SlowEngine) -> None:
        self._bank = owner._bank

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    drop_head = close


def number_of(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(N, 1, H, W, 3) -> the numbers that the chunks' pixels encode, (N,)."""
    return frames[:, 0, 0, 0].astype(np.int64) @ (1, 256, 65536)


def answer(features: Sequence[int]) -> float:
    """Return the probability of label `a` for a window with these features; it depends on their order."""
    return (sum((i + 1) * each for i, each in enumerate(features)) % 9973) / 9973


class SlowCamera:
    """One stream, whose chunks the test writes into its ring."""

    def __init__(
        self, rig: Rig, name: str, index: int, settings: StreamSettings, heads: Mapping[str, HeadSettings] = ONE_HEAD
    ) -> None:
        self.name, self.index, self.segment = name, 0, 1
        self._rig = rig
        spec = rig.engine.spec
        fd = create_ring(ring_slots(spec), spec.chunk_shape)
        self._writer = RingWriter(fd)
        self._wake = os.pipe()
        self.feed = Feed(
            stream=name, reader=RingReader(fd), wake_fd=self._wake[0], spec=spec, settings=settings, index=index,
            heads=heads,
        )  # fmt: skip
        os.close(fd)
        self.written: list[tuple[int, int, int]] = []
        """(segment, index, number) of each chunk."""

    def chunk(self, number: int, at_s: float) -> None:
        """Write a chunk whose pixels all encode `number`."""
        self._writer.begin()[:] = number % 256, number // 256 % 256, number // 65536
        chunk_ns = int(1e9 / self._rig.chunks_per_s)
        self._writer.commit(
            ChunkMeta(
                segment=self.segment, index=self.index, start_pts_ns=self.index * chunk_ns,
                end_pts_ns=(self.index + 1) * chunk_ns, captured_ns=int(at_s * 1e9), frames=1, duplicates=0, corrupt=0,
            )
        )  # fmt: skip
        self.written.append((self.segment, self.index, number))
        self.index += 1

    def close(self) -> None:
        for fd in self._wake:
            os.close(fd)


class Rig:
    """Streams with `chunks_per_s` on one slow engine. `now_s` is the clock of the simulation."""

    def __init__(
        self, *, streams: int, chunks: int, encode_s: float, head_s: float, chunks_per_s: float = 5.0,
        max_batch: int = 16, settings: Callable[[int], dict[str, Any]] = lambda _: {},
        models: Sequence[str] = ("",), heads: Callable[[int], Sequence[str]] | None = None,
    ) -> None:  # fmt: skip
        """`heads`: the models of each stream, by default all of `models`. The k-th model shifts answers by k / 10."""
        self.now_s, self.chunks_per_s = 100.0, chunks_per_s
        self.read: list[list[int]] = []
        self.engines = {
            model: SlowEngine(
                self, chunks=chunks, streams=streams, encode_s=encode_s, head_s=head_s, max_batch=max_batch,
                shift=k / 10,
            )
            for k, model in enumerate(models)
        }  # fmt: skip
        self.engine = self.engines[models[0]]
        self.cameras = [
            SlowCamera(
                self, f"cam{i}", i, StreamSettings(**{"hop": 1, **settings(i)}),
                {model: HeadSettings() for model in (heads(i) if heads else models)},
            )
            for i in range(streams)
        ]  # fmt: skip
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        """(time, stream, body) of each prediction; its `age_s` is added to the body."""
        self.classifier = Classifier(
            serve_engines(self.engines), [camera.feed for camera in self.cameras], self,  # type: ignore[arg-type]
            clock=lambda: self.now_s,
        )  # fmt: skip
        self._due = [(self.now_s + i / streams / chunks_per_s, i) for i in range(streams)]

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        for camera in self.cameras:
            camera.close()

    def post_all(self, drafts: Sequence[Draft]) -> None:
        """Receive drafts in place of an `EventProducer`."""
        for draft in drafts:
            assert draft.captured_ns is not None
            age_s = self.now_s - draft.captured_ns / 1e9
            self.events.append((self.now_s, draft.stream, {**draft.body, "age_s": age_s}))

    def run(
        self, seconds: float, *, number: Callable[[int, int], int] = lambda stream, i: 7 * i + stream
    ) -> list[tuple[float, str, dict[str, Any]]]:
        """Simulate `seconds` and return the predictions. `number` returns the number of a stream's i-th chunk."""
        end_s, before = self.now_s + seconds, len(self.events)
        while self.now_s < end_s:
            at_s, i = min(self._due)
            if at_s <= self.now_s:
                self._due[i] = (at_s + 1 / self.chunks_per_s, i)
                camera = self.cameras[i]
                camera.chunk(number(i, len(camera.written)), at_s)
            elif not self.classifier.step():
                self.now_s = min(at_s, end_s)
        return self.events[before:]
