"""Encode the waiting chunks of all feeds together, and classify the windows that they complete with each model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.arrays import U8
from streamclf.classifier.event_publisher import EventPublisher
from streamclf.classifier.feed import Feed
from streamclf.classifier.overload import LoadShedder
from streamclf.classifier.pending_chunk import PendingChunk
from streamclf.classifier.scene_check import SceneCheck
from streamclf.classifier.window_batch import WindowBatch, WindowResults
from streamclf.config.classify import HeadSettings, StreamSettings
from streamclf.runtime.jobs import ClassifierLoad, ModelReport
from streamclf.runtime.profiling import open_stages

if TYPE_CHECKING:
    from engines.group import EngineGroup
    from engines.serving import ServingGroup
    from streamclf.producer.link import EventProducer

REMOVE_S = 0.5
"""Time to classify the waiting chunks of a feed that is removed."""

log = logging.getLogger("classifier")


class Classifier:
    """Serve feeds fairly: each chunk is encoded once, for all models of its feed.

    Feeds, models and engines change between two batches.
    """

    def __init__(
        self,
        serving: ServingGroup,
        feeds: Sequence[Feed],
        producer: EventProducer,
        *,
        scene_slot: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`scene_slot`: the first of `scene_slots` bank slots that no feed uses; None if there are none."""
        self._serving = serving
        self._clock = clock
        self._shedder = LoadShedder(serving.group.spec, clock())
        self._results = WindowResults()
        self._publisher = EventPublisher(producer)
        self._scenes = SceneCheck(serving.group.spec, scene_slot)
        self._submitted: list[WindowBatch] = []
        """The windows of the last batch, while the engines' device computes them."""
        self.feeds: list[Feed] = []
        """The feeds in the order in which they are served."""
        self._next_feed = 0
        """Index of the feed with which the next batch begins."""
        self._by_name: dict[str, Feed] = {}
        self._stages = open_stages("classifier", clock=time.process_time_ns)  # engines compute in threads of their own
        self._use_engines()
        for feed in feeds:
            self.add_feed(feed)

    @property
    def group(self) -> EngineGroup:
        """The engines in use."""
        return self._serving.group

    @property
    def max_batch(self) -> int:
        """Most chunks in a batch."""
        return len(self._batch)

    @property
    def chunk_cost_s(self) -> float:
        """The time that one chunk took in the last batch; 0 before the first batch."""
        return self._shedder.chunk_cost_s

    @property
    def load(self) -> ClassifierLoad | None:
        """The load, for the supervisor; None before the first batch."""
        return self._shedder.load

    def close(self) -> None:
        """Close the engines, and stop what is under way for them in the background."""
        self._serving.close()
        self.group.close()

    def add_feed(self, feed: Feed) -> None:
        """Serve another feed from now on."""
        self.feeds.append(feed)
        self._by_name[feed.name] = feed
        self._publisher.configure(feed, self.group)
        feed.use_engines(self.group)

    def remove_feed(self, name: str) -> Feed:
        """Classify the feed's waiting chunks for at most `REMOVE_S`, end its actions, and stop serving it."""
        feed = self._by_name[name]
        if feed.paused:
            feed.resume()
        deadline = time.monotonic() + REMOVE_S
        while feed.waiting > 0 and time.monotonic() < deadline and self.step():
            pass
        self.publish_submitted()
        feed.drops["left"] += max(0, feed.unread)
        self._publisher.close_feed(feed)
        self.feeds.remove(feed)
        del self._by_name[name]
        self._results.forget_feed(name)
        self._scenes.forget_feed(name)
        self._next_feed = 0
        return feed

    def update_feed(self, name: str, settings: StreamSettings, heads: Mapping[str, HeadSettings]) -> None:
        """Apply other settings to a feed, and let `heads` classify it. Unfinished windows and running actions go on."""
        if feed := self._by_name.get(name):
            self.publish_submitted()
            feed.configure(settings)
            feed.heads = heads
            self._publisher.configure(feed, self.group)

    def add_model(self, name: str, bundle: Path) -> None:
        """Begin to open another model of this encoder; `update_engines` puts it into service when it is open."""
        self._serving.add(name, bundle)

    def remove_model(self, name: str) -> None:
        """Free a model, or stop opening it; its actions end with `stopped`."""
        self.publish_submitted()
        self._serving.remove(name)
        self._results.forget_model(name)
        self._scenes.forget_model(name)
        self._shedder.forget_model(name)
        self._use_engines()

    def update_engines(self) -> list[ModelReport]:
        """Put models and engines into service that are ready, and return the result for each added model.

        Unfinished windows continue: a new model begins with the features that the bank has already.
        """
        if not self._serving.has_changes:
            return []
        self.publish_submitted()
        reports = []
        for change in self._serving.poll():
            if change.name is None:
                self._results.clear()
                continue
            self._results.forget_model(change.name)
            reports.append(ModelReport(model=change.name, error=change.error))
        self._use_engines()
        return reports

    def _use_engines(self) -> None:
        """Adapt to the models and engines that there are now."""
        group = self.group
        self._batch: U8 = np.empty((group.max_batch, *group.spec.chunk_shape), np.uint8)
        for feed in self.feeds:
            self._publisher.configure(feed, group)
            feed.use_engines(group)

    def run_periodic_work(self) -> None:
        """Measure the load and adapt to it, and end the actions whose hours are over."""
        self._shedder.update(self.feeds, self._clock())
        self._publisher.end_scheduled()

    def finish(self, deadline_s: float) -> None:
        """Classify the chunks that are left until `deadline_s` (monotonic), and end all actions."""
        while time.monotonic() < deadline_s and self.step():
            pass
        self.publish_submitted()
        self._publisher.close()

    def step(self) -> bool:
        """Encode and classify one batch; return False when no chunk was waiting.

        If the engines queue their work, the batch's predictions are published by the next step, which uploads its
        chunks first: the device computes meanwhile.
        """
        began_s = self._clock()
        with self._stages("ring"):
            for feed in self.feeds:
                feed.begin_batch()
            batch = list(self._collect())
        if not batch:
            self.publish_submitted()
            self._shedder.update(self.feeds, began_s)
            return False
        collected_s = self._clock()
        self._encode(batch)
        encoded_s = self._clock()
        self.publish_submitted()
        self._shedder.record_encode(encoded_s - began_s, len(batch))
        self._submit(batch, encoded_s, encode_s=encoded_s - collected_s)
        return True

    def _submit(self, batch: Sequence[PendingChunk], encoded_s: float, *, encode_s: float) -> None:
        """Begin to classify the windows of the batch with each model; finish where the engine computes at once."""
        due = [fresh for pending in batch if (fresh := self._drop_if_stale(pending, encoded_s))]
        compared_s = self._clock()  # the windows of the batch before were published since `encoded_s`
        with self._stages("head", 0):
            newest = {pending.feed: pending.window for pending in due if pending.window is not None}
            self._scenes.update(
                self.group, newest, lambda feed, model: self._publisher.tracker(self._by_name[feed], model)
            )
        self._shedder.record_comparison(self._clock() - compared_s)
        for model in self.group:
            windows = [pending for pending in due if model in self._by_name[pending.feed].heads]
            if not windows:
                continue
            with self._stages("head", 0):
                self._submitted.append(
                    self._results.submit(model, self.group[model], windows, encode_s=encode_s, clock=self._clock)
                )
            if not self.group.queues_work:
                self.publish_submitted()
        if not due:
            self._shedder.update(self.feeds, self._clock())

    def publish_submitted(self) -> None:
        """Wait for the windows that the engines compute, and publish their predictions."""
        submitted, self._submitted = self._submitted, []
        for batch in submitted:
            waiting_since_s = self._clock()
            with self._stages("head", len(batch.fresh)):
                rows = self._results.take(batch)
            taken_s = self._clock()
            latency_ms = {
                "encode": round(batch.encode_s * 1e3, 3),
                "classify": round((taken_s - batch.submitted_s + batch.submit_s) * 1e3, 3),
            }
            engine = self.group[batch.model]
            with self._stages("publish", len(rows)):
                for pending, row in zip(batch.due, rows, strict=True):
                    feed = self._by_name[pending.feed]
                    lost = self._scenes.lost(feed.name, batch.model, self._publisher.tracker(feed, batch.model))
                    self._publisher.publish(feed, batch.model, engine, pending, row, latency_ms, lost)
                self._publisher.flush()
            now_s = self._clock()
            self._shedder.record_windows(batch.model, batch.submit_s + now_s - waiting_since_s, len(batch.due))
        if submitted:
            self._shedder.update(self.feeds, self._clock())

    def _collect(self) -> Iterator[PendingChunk]:
        """Yield one chunk of each feed in order, two of a late feed, until the batch is full or no chunk waits.

        The next batch begins with the feed after the last one. A late feed drops windows. It gets more chunks than the
        others, since it would otherwise never catch up.
        """
        count = encoded = fetched = idle = 0
        while count < self.max_batch and idle < len(self.feeds):
            feed = self.feeds[self._next_feed]
            self._next_feed = (self._next_feed + 1) % len(self.feeds)
            idle += 1
            for _ in range(2 if feed.is_late else 1):
                if count == self.max_batch or (pending := feed.read_chunk(self._batch[encoded], fetched)) is None:
                    break
                idle = 0
                count += 1
                fetched += pending.on_card
                encoded += not (pending.reused or pending.on_card)
                yield pending

    def _encode(self, batch: Sequence[PendingChunk]) -> None:
        """Encode the chunks of `batch` without a feature in the bank, from the batch array and the GPU's own batch."""
        new = [pending for pending in batch if not pending.reused]
        slots = np.array([pending.slot for pending in new if not pending.on_card], np.int32)
        card_slots = np.array([pending.slot for pending in new if pending.on_card], np.int32)
        if not new:
            return
        with self._stages("encode", len(new)):
            if len(slots):
                self.group.encode(self._batch[: len(slots)], slots)
            if len(card_slots):
                self.group.encode_device(card_slots)

    def _drop_if_stale(self, pending: PendingChunk, now_s: float) -> PendingChunk | None:
        return self._by_name[pending.feed].drop_if_stale(pending, int(now_s * 1e9))
