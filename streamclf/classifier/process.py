"""Run the classifier process: rings -> engine -> predictions and actions."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engines.arrays import F32, U8
from streamclf.classifier.action_tracker import ActionChange, ActionTracker
from streamclf.classifier.batching import DynamicBatcher, max_held_chunks
from streamclf.classifier.feed import Feed, PendingChunk
from streamclf.classifier.load_control import SAMPLE_INTERVAL_S
from streamclf.classifier.overload import LoadShedder
from streamclf.classifier.prediction import media_s, prediction_body
from streamclf.classifier.window_batch import WindowBatch, WindowResults
from streamclf.config.actions import StreamActions
from streamclf.config.classify import HeadSettings, StreamSettings
from streamclf.events.drafts import Draft
from streamclf.producer.link import EventProducer
from streamclf.runtime.child import EXIT_DONE, ChildControl
from streamclf.runtime.jobs import ClassifierChange, ClassifierJob, ClassifierReady
from streamclf.runtime.profiling import open_stages

if TYPE_CHECKING:
    from engines.protocol import Engine
    from streamclf.classifier.feed_registry import FeedRegistry
    from streamclf.runtime.control_channel import ControlMessage


IDLE_S = 1.0
"""Longest sleep of the loop, in case no chunk, change or request arrives."""
DRAIN_S = 0.4
"""After the request to stop, time to classify the chunks that capture has written already."""
LINK_CLOSE_S = 0.6
"""Time to hand the last events to the hub."""
REMOVE_S = 0.5
"""Time to classify the waiting chunks of a stream that is removed."""
COMPILING_S = 1800.0
"""Building an engine for a device takes minutes at worst, in a library that cannot extend the liveness deadline."""
FIRST_BATCH_S = 60.0
"""Liveness limit until the first batch is done: libraries allocate memory and choose kernels in it."""
BATCH_S = 10.0
"""Shortest liveness limit of the later batches."""
MAX_SLOWDOWN = 10
"""A batch may take this many times longer than the slowest so far before the supervisor considers it hung."""

log = logging.getLogger("classifier")


class Classifier:
    """Encode the waiting chunks of all feeds together, fairly, and classify the windows that they complete."""

    def __init__(
        self,
        engine: Engine,
        feeds: Sequence[Feed],
        actions: Mapping[str, StreamActions],
        producer: EventProducer,
        *,
        max_wait_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._producer = producer
        self._clock = clock
        self._shedder = LoadShedder(engine.spec, clock())
        self._results = WindowResults()
        self._submitted: WindowBatch | None = None
        """The windows of the last batch, while the engine's device computes them."""
        self._batcher = DynamicBatcher(max_wait_s)
        self._use_engine(engine)
        self._feeds: list[Feed] = []  # in the order in which they are served
        self._next_feed = 0
        """Index of the feed with which the next batch begins."""
        self._by_stream: dict[str, Feed] = {}
        self._woken: set[Feed] = set()
        """Feeds whose rings may hold waiting chunks."""
        self._actions: dict[str, ActionTracker] = {}
        self._slowest_s = 0.0
        self._stages = open_stages("classifier", clock=time.process_time_ns)  # engines compute in threads of their own
        self._selector = selectors.DefaultSelector()
        for feed in feeds:
            self.add_stream(feed, actions.get(feed.stream, StreamActions()))

    def _use_engine(self, engine: Engine) -> None:
        self._engine = engine
        self._batch: U8 = np.empty((engine.max_batch, *engine.spec.chunk_shape), np.uint8)
        self._results.clear()
        self._engine_name = engine.description.partition(",")[0]

    def close(self) -> None:
        """Close the engine in use."""
        self._engine.close()

    def switch_engine(self, engine: Engine) -> None:
        """Continue with another engine of the same bundle, and close the present one. Unfinished windows continue."""
        from engines.background_upgrade import move_features

        self._publish_submitted()
        before = self._engine
        move_features(before, engine)
        self._use_engine(engine)
        before.close()
        log.info("now on %s, before on %s", engine.description, before.description)

    def add_stream(self, feed: Feed, actions: StreamActions) -> None:
        """Serve another stream from now on."""
        self._feeds.append(feed)
        self._woken.add(feed)
        self._by_stream[feed.stream] = feed
        self._actions[feed.stream] = ActionTracker.of(self._with_model_labels(actions))
        self._selector.register(feed.wake_fd, selectors.EVENT_READ, feed)

    def remove_stream(self, stream: str) -> Feed:
        """Classify the stream's waiting chunks for at most `REMOVE_S`, end its actions, and stop serving it."""
        feed = self._by_stream[stream]
        if feed.paused:
            feed.resume()
        deadline = time.monotonic() + REMOVE_S
        while feed.waiting > 0 and time.monotonic() < deadline and self.step():
            pass
        self._publish_submitted()
        feed.drops["left"] += max(0, feed.unread)
        self._post_actions(stream, self._actions.pop(stream).close("stopped"))
        if feed.wake_fd in self._selector.get_map():
            self._selector.unregister(feed.wake_fd)
        self._feeds.remove(feed)
        self._woken.discard(feed)
        del self._by_stream[stream]
        self._results.forget(stream)
        self._next_feed = 0
        return feed

    def update_stream(self, stream: str, settings: StreamSettings, actions: StreamActions) -> None:
        """Apply other settings to a stream. Unfinished windows and running actions continue."""
        if feed := self._by_stream.get(stream):
            feed.configure(settings)
            self._post_actions(stream, self._actions[stream].reconfigure(self._with_model_labels(actions)))

    def _with_model_labels(self, actions: StreamActions) -> StreamActions:
        """Name each action as the model does: the configuration may write an accent in another form."""
        find = self._engine.spec.find_label
        return StreamActions.model_construct(
            **dict(actions) | {"labels": {find(label) or label: action for label, action in actions.labels.items()}}
        )

    def run(
        self,
        control: ChildControl,
        registry: FeedRegistry | None = None,
        next_engine: Callable[[], Engine | None] = lambda: None,
    ) -> None:
        """Serve until the request to stop; then classify the chunks in the rings, for at most `DRAIN_S`.

        With a `registry`, the supervisor adds and removes streams through `control`. `next_engine` is called between
        batches; when it returns an engine, the classifier switches to it.
        """
        control.liveness.enter_phase("classifying", FIRST_BATCH_S)
        with self._selector as selector:
            selector.register(control.stop_fd, selectors.EVENT_READ)
            selector.register(control.change_fd, selectors.EVENT_READ)
            periodic_s = 0.0
            while not control.stop_event.is_set():
                self._read_wake_pipes(selector.select(min(IDLE_S, self._batcher.remaining_s(time.monotonic()))))
                self._apply_changes(control, registry)
                self._serve_ready(control, next_engine)
                if (now_s := time.monotonic()) >= periodic_s:  # not for each chunk that starts no batch
                    periodic_s = now_s + SAMPLE_INTERVAL_S
                    self._run_periodic_work(next_engine)
            self._finish()

    def _read_wake_pipes(self, ready: Sequence[tuple[selectors.SelectorKey, int]]) -> None:
        """Empty the wake pipes that are readable, and note which feeds have chunks."""
        for key, _ in ready:
            feed: Feed | None = key.data
            if feed is None:
                continue
            self._woken.add(feed)
            if not feed.paused:
                self._batcher.note_chunk(feed.stream, time.monotonic())
            if not _empty_pipe(key.fd):
                self._selector.unregister(key.fd)  # a pipe at its end stays readable

    def _apply_changes(self, control: ChildControl, registry: FeedRegistry | None) -> None:
        """Apply the changes that the supervisor has sent."""
        for message in control.pop_changes():
            if registry:
                self._apply_change(message, registry)

    def _apply_change(self, message: ControlMessage, registry: FeedRegistry) -> None:
        change = ClassifierChange.model_validate_json(message.body)
        if change.join:
            self.add_stream(registry.add(change.join, message.fds), _only_head(change.join.heads).actions)
        if change.leave is not None:
            _log_drops(self.remove_stream(change.leave))
            registry.remove(change.leave)
        for feed, update in change.update.items():
            self.update_stream(feed, update.settings, _only_head(update.heads).actions)

    def _serve_ready(self, control: ChildControl, next_engine: Callable[[], Engine | None]) -> None:
        """Classify batches while they are due and no request of the supervisor waits."""
        while self._batch_is_due() and not (control.stop_event.is_set() or control.has_changes):
            if not self._timed_step(control):
                break
            self._switch_if_ready(next_engine)
        self._publish_submitted()

    def _run_periodic_work(self, next_engine: Callable[[], Engine | None]) -> None:
        """Do the work that is due every `SAMPLE_INTERVAL_S`."""
        self._shedder.update(self._feeds, self._clock())
        self._woken.update(self._feeds)  # a paused feed may be served again
        self._end_scheduled_actions()
        self._switch_if_ready(next_engine)

    def _finish(self) -> None:
        """Classify the chunks that are left, for at most `DRAIN_S`, and end all actions."""
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline and self.step():
            pass
        self._publish_submitted()
        for stream, tracker in self._actions.items():
            self._post_actions(stream, tracker.close("stopped"))

    def _switch_if_ready(self, next_engine: Callable[[], Engine | None]) -> None:
        if (engine := next_engine()) is not None:
            self.switch_engine(engine)

    def _batch_is_due(self) -> bool:
        """Return whether to start a batch now. Only feeds with chunks are checked: there may be hundreds of others."""
        self._woken = {feed for feed in self._woken if feed.waiting > 0}
        max_held = max_held_chunks(self._shedder.chunk_cost_s)
        due = [due_s for feed in self._woken if (due_s := feed.due_s(max_held)) is not None]
        waiting = sum(feed.waiting for feed in self._woken)
        return self._batcher.should_start(due, waiting, self._engine.max_batch, time.monotonic())

    def _timed_step(self, control: ChildControl) -> bool:
        """Classify one batch, and raise the liveness limit if it is the slowest so far."""
        began = time.monotonic()
        busy = self.step()
        took_s = time.monotonic() - began
        if busy and took_s > self._slowest_s:
            self._slowest_s = took_s
            control.liveness.enter_phase("classifying", max(BATCH_S, MAX_SLOWDOWN * took_s))
        return busy

    def step(self) -> bool:
        """Encode and classify one batch; return False when no chunk was waiting.

        If the engine queues its work, the batch's predictions are published by the next step, which uploads its chunks
        first: the device computes meanwhile.
        """
        began_s = self._clock()
        with self._stages("ring"):
            for feed in self._feeds:
                feed.begin_batch()
            batch = list(self._collect())
        if not batch:
            self._publish_submitted()
            self._shedder.update(self._feeds, began_s)
            return False
        collected_s = self._clock()
        self._encode(batch)
        encoded_s = self._clock()
        self._publish_submitted()
        due = [fresh for pending in batch if (fresh := self._drop_if_stale(pending, encoded_s))]
        with self._stages("head", 0):
            self._submitted = self._results.submit(
                self._engine,
                due,
                chunks=len(batch),
                collect_s=collected_s - began_s,
                encode_s=encoded_s - collected_s,
                clock=self._clock,
            )
        if not self._engine.queues_work:
            self._publish_submitted()
        return True

    def _publish_submitted(self) -> None:
        """Wait for the windows that the engine computes, and publish their predictions."""
        batch, self._submitted = self._submitted, None
        if batch is None:
            return
        waiting_since_s = self._clock()
        with self._stages("head", len(batch.fresh)):
            rows = self._results.take(batch)
        now_s = self._clock()
        encode_ms, classify_ms = batch.encode_s * 1e3, (now_s - batch.submitted_s + batch.submit_s) * 1e3
        latency_ms = {"encode": round(encode_ms, 3), "classify": round(classify_ms, 3)}
        with self._stages("publish", len(rows)):
            for pending, row in zip(batch.due, rows, strict=True):
                self._publish(pending, row, latency_ms)
        now_s = self._clock()
        head_s = batch.submit_s + now_s - waiting_since_s
        self._shedder.record_batch(batch.collect_s + batch.encode_s, batch.chunks, head_s, len(batch.due))
        self._shedder.update(self._feeds, now_s)

    def _collect(self) -> Iterator[PendingChunk]:
        """Yield one chunk of each feed in order, two of a late feed, until the batch is full or no chunk waits.

        The next batch begins with the feed after the last one. A late feed drops windows. It gets more chunks than the
        others, since it would otherwise never catch up.
        """
        count = encoded = idle = 0
        while count < self._engine.max_batch and idle < len(self._feeds):
            feed = self._feeds[self._next_feed]
            self._next_feed = (self._next_feed + 1) % len(self._feeds)
            idle += 1
            for _ in range(2 if feed.is_late else 1):
                if count == self._engine.max_batch or (pending := feed.read_chunk(self._batch[encoded])) is None:
                    break
                idle = 0
                count += 1
                encoded += not pending.reused
                yield pending

    def _encode(self, batch: Sequence[PendingChunk]) -> None:
        """Encode the chunks in the batch array: the chunks of `batch` without a feature in the bank, in that order."""
        slots = np.array([pending.slot for pending in batch if not pending.reused], np.int32)
        if len(slots):
            with self._stages("encode", len(slots)):
                self._engine.encode(self._batch[: len(slots)], slots)

    def _drop_if_stale(self, pending: PendingChunk, now_s: float) -> PendingChunk | None:
        return self._by_stream[pending.stream].drop_if_stale(pending, int(now_s * 1e9))

    def _publish(self, pending: PendingChunk, probabilities: F32, latency_ms: dict[str, float]) -> None:
        stream, window = pending.stream, pending.window
        assert window is not None  # every chunk in `due` completes a window
        spec = self._engine.spec
        body = prediction_body(spec, self._engine_name, pending, window, probabilities, latency_ms)
        self._producer.post(Draft(type="prediction", stream=stream, body=body, captured_ns=window.captured_ns))
        tracker = self._actions[stream]
        if tracker.config:
            by_label = dict(zip(spec.labels, probabilities.tolist(), strict=True))
            start_s, end_s = media_s(window.start_pts_ns), media_s(window.end_pts_ns)
            self._post_actions(stream, tracker.update(by_label, start_s, end_s, window.segment, time.time()))

    def _end_scheduled_actions(self) -> None:
        """End the actions whose hours are over, also for streams without new chunks."""
        for stream, tracker in self._actions.items():
            self._post_actions(stream, tracker.end_outside_hours(time.time()))

    def _post_actions(self, stream: str, changes: Sequence[ActionChange]) -> None:
        for change in changes:
            self._producer.post(Draft(type="action", stream=stream, body=change.body(), captured_ns=None))


def main(job: ClassifierJob, control: ChildControl) -> int:
    """Open the engine, report it on stdout in one JSON line, and serve until the request to stop."""
    from engines.background_upgrade import open_serving
    from engines.bundle import load_bundle
    from streamclf.classifier.feed_registry import FeedRegistry

    control.liveness.enter_phase("compiling", COMPILING_S)
    bundle = load_bundle(next(iter(job.bundles.values())))
    opening = open_serving(
        bundle,
        backend=job.engine.backend,
        precision=job.engine.precision,
        max_batch=job.engine.max_batch,
        bank_slots=FeedRegistry.bank_slots(bundle.spec, job.capacity),
        threads=job.engine.threads,
        streams=job.streams,
    )
    registry = FeedRegistry(bundle.spec, job.capacity)
    producer = EventProducer(job.link, job.producer)
    print(ClassifierReady(engine=opening.engine.description).model_dump_json(), flush=True)
    classifier = Classifier(opening.engine, (), {}, producer, max_wait_s=job.engine.max_wait_ms / 1e3)
    try:
        classifier.run(control, registry, opening.claim_upgrade)
    finally:
        opening.close()
        left = producer.close(LINK_CLOSE_S)
        if left:
            log.error("%d events could not be handed to the hub before the end", left)
        for feed in registry:
            _log_drops(feed)
        classifier.close()
    return EXIT_DONE


def _only_head(heads: Mapping[str, HeadSettings]) -> HeadSettings:
    (head,) = heads.values()
    return head


def _log_drops(feed: Feed) -> None:
    if drops := +Counter(feed.drops):
        causes = ", ".join(f"{cause} {count}" for cause, count in drops.items())
        log.info("dropped since its start, by cause: %s", causes, extra={"stream": feed.stream})


def _empty_pipe(fd: int) -> bool:
    """Read all that a non-blocking pipe holds; return False when its write end is closed."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(fd, 4096):
            if len(data) < 4096:
                return True
        return False
    return True
