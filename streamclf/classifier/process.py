"""The classifier process: rings -> engine -> predictions and actions. `python -m streamclf.classifier`."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson

from engines.arrays import F32, U8
from streamclf.classifier.action_tracker import ActionTracker
from streamclf.classifier.batching import DynamicBatcher, hold
from streamclf.classifier.feed import Features, Feed, Pending
from streamclf.classifier.load_control import LOOK_S
from streamclf.classifier.overload import Overload
from streamclf.config.actions import StreamActions
from streamclf.events.drafts import Draft
from streamclf.producer.link import EventProducer
from streamclf.runtime.child import EXIT_DONE, Stop
from streamclf.runtime.jobs import ClassifierChange, ClassifierJob, StreamSettings
from streamclf.runtime.profiling import open_stages

if TYPE_CHECKING:
    from engines.protocol import Engine
    from streamclf.classifier.feed_registry import FeedRegistry
    from streamclf.runtime.control_channel import ControlMessage


TOP_K = 10
IDLE_S = 1.0
DRAIN_S = 0.4
"""After the request to stop, time to classify what capture had already finished."""
LINK_CLOSE_S = 0.6
LEAVE_S = 0.5
"""Time to classify what a stream that leaves has still waiting."""
COMPILING_S = 1800.0
"""Building an engine for a device takes minutes at worst, in a library that cannot give a sign of life meanwhile."""
FIRST_BATCH_S = 60.0
BATCH_S = 10.0
SLOWER = 10
"""A batch may take this many times longer than the slowest so far before it is taken to hang."""

log = logging.getLogger("classifier")


class Classifier:
    """Takes the ready chunks of all feeds, fairly, into one encode, and classifies the windows that they complete."""

    def __init__(
        self,
        engine: Engine,
        feeds: Sequence[Feed],
        actions: Mapping[str, StreamActions],
        link: EventProducer,
        *,
        max_wait_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._clock = clock
        self._overload = Overload(engine.spec, clock())
        self._answers: dict[str, tuple[Features, F32]] = {}
        self._gathering = DynamicBatcher(max_wait_s)
        self._use(engine)
        self._turn = 0
        self._feeds: list[Feed] = []  # in the order of their turns
        self._by_stream: dict[str, Feed] = {}
        self._woken: set[Feed] = set()
        """Those in whose rings something may wait."""
        self._actions: dict[str, ActionTracker] = {}
        self._slowest_s = 0.0
        self._stages = open_stages("classifier", clock=time.process_time_ns)  # engines compute on threads of their own
        self._selector = selectors.DefaultSelector()
        for feed in feeds:
            self.join(feed, actions.get(feed.stream, StreamActions()))

    def _use(self, engine: Engine) -> None:
        self._engine = engine
        self._batch: U8 = np.empty((engine.max_batch, *engine.spec.chunk_shape), np.uint8)
        self._answers.clear()
        self._ran_on = engine.description.partition(",")[0]

    def close(self) -> None:
        """Close the engine that serves now."""
        self._engine.close()

    def exchange(self, engine: Engine) -> None:
        """Go on with another engine of the same bundle; the windows under way go on, too. The one before is closed."""
        from engines.background_upgrade import move_features

        before = self._engine
        move_features(before, engine)
        self._use(engine)
        before.close()
        log.info("now on %s, before on %s", engine.description, before.description)

    def join(self, feed: Feed, actions: StreamActions) -> None:
        """Serve another stream from now on."""
        self._feeds.append(feed)
        self._woken.add(feed)
        self._by_stream[feed.stream] = feed
        self._actions[feed.stream] = ActionTracker.of(actions)
        self._selector.register(feed.wake_fd, selectors.EVENT_READ, feed)

    def leave(self, stream: str) -> Feed:
        """Classify what the stream has waiting, end its actions and serve it no longer."""
        feed = self._by_stream[stream]
        if feed.resting:
            feed.resume()
        deadline = time.monotonic() + LEAVE_S
        while feed.waiting > 0 and time.monotonic() < deadline and self.step():
            pass
        feed.drops["left"] += max(0, feed.waiting)
        self._post_actions(stream, self._actions.pop(stream).close("stopped"))
        if feed.wake_fd in self._selector.get_map():
            self._selector.unregister(feed.wake_fd)
        self._feeds.remove(feed)
        self._woken.discard(feed)
        del self._by_stream[stream]
        self._answers.pop(stream, None)
        self._turn = 0
        return feed

    def change(self, stream: str, settings: StreamSettings) -> None:
        """Go on with another hop and other thresholds, say; no window and no running action is lost by it."""
        if feed := self._by_stream.get(stream):
            feed.configure(settings)
            self._post_actions(stream, self._actions[stream].reconfigure(settings.actions))

    def run(
        self, stop: Stop, roster: FeedRegistry | None = None, better: Callable[[], Engine | None] = lambda: None
    ) -> None:
        """Serve until `stop`; then classify what is already in the rings, for at most `DRAIN_S`.

        With a `roster`, streams join and leave as the supervisor says. `better` is asked between batches for an engine
        to go on with.
        """
        stop.pulse.expect("classifying", FIRST_BATCH_S)
        with self._selector as selector:
            selector.register(stop.fd, selectors.EVENT_READ)
            selector.register(stop.change_fd, selectors.EVENT_READ)
            look_s = 0.0
            while not stop.event.is_set():
                for key, _ in selector.select(min(IDLE_S, self._gathering.left_s(time.monotonic()))):
                    if key.data is not None:
                        self._woken.add(key.data)
                        if not key.data.resting:
                            self._gathering.heard(key.data.stream, time.monotonic())
                        if not _drain(key.fd):
                            selector.unregister(key.fd)  # an ended pipe would stay readable for ever
                for message in stop.changes():
                    if roster:
                        self._take(message, roster)
                while self._is_time() and not (stop.event.is_set() or stop.changed) and self._timed_step(stop):
                    if (engine := better()) is not None:
                        self.exchange(engine)
                if (now_s := time.monotonic()) >= look_s:  # not for each chunk that begins no batch
                    look_s = now_s + LOOK_S
                    self._overload.look(self._feeds, self._clock())
                    self._woken.update(self._feeds)  # some may be served again
                    self._look_at_clock()
                    if (engine := better()) is not None:
                        self.exchange(engine)
            deadline = time.monotonic() + DRAIN_S
            while time.monotonic() < deadline and self.step():
                pass
            for stream, tracker in self._actions.items():
                self._post_actions(stream, tracker.close("stopped"))

    def _take(self, message: ControlMessage, roster: FeedRegistry) -> None:
        change = ClassifierChange.model_validate_json(message.body)
        if change.join:
            self.join(roster.join(change.join, message.fds), change.join.settings.actions)
        if change.leave is not None:
            _log_drops(self.leave(change.leave))
            roster.leave(change.leave)
        for stream, settings in change.update.items():
            self.change(stream, settings)

    def _is_time(self) -> bool:
        """Whether to begin a batch now. Of hundreds of streams only those are asked that have brought something."""
        self._woken = {feed for feed in self._woken if feed.waiting > 0}
        may_wait = hold(self._overload.chunk_cost_s)
        due = [due_s for feed in self._woken if (due_s := feed.due_s(may_wait)) is not None]
        waiting = sum(feed.waiting for feed in self._woken)
        return self._gathering.is_time(due, waiting, self._engine.max_batch, time.monotonic())

    def _timed_step(self, stop: Stop) -> bool:
        began = time.monotonic()
        busy = self.step()
        took_s = time.monotonic() - began
        if busy and took_s > self._slowest_s:
            self._slowest_s = took_s
            stop.pulse.expect("classifying", max(BATCH_S, SLOWER * took_s))
        return busy

    def step(self) -> bool:
        """One batch; False when no chunk was waiting."""
        began_s = self._clock()
        with self._stages("ring"):
            for feed in self._feeds:
                feed.begin_batch()
            batch = list(self._collect())
        if not batch:
            self._overload.look(self._feeds, began_s)
            return False
        collected_s = self._clock()
        self._encode(batch)
        encoded_s = self._clock()
        if due := [each for pending in batch if (each := self._in_time(pending, encoded_s))]:
            rows = self._classify(due)
            encode_ms, classify_ms = (encoded_s - collected_s) * 1e3, (self._clock() - encoded_s) * 1e3
            with self._stages("publish", len(due)):
                for pending, row in zip(due, rows, strict=True):
                    self._publish(pending, row, {"encode": round(encode_ms, 3), "classify": round(classify_ms, 3)})
        now_s = self._clock()
        self._overload.worked(encoded_s - began_s, len(batch), now_s - encoded_s, len(due))
        self._overload.look(self._feeds, now_s)
        return True

    def _collect(self) -> Iterator[Pending]:
        """One chunk of each feed in turn, two where it is late, until the batch is full or nobody has one; the next
        batch goes on there. Who is late loses windows, and would for ever with no more chunks than the others."""
        count = encoded = idle = 0
        while count < self._engine.max_batch and idle < len(self._feeds):
            feed = self._feeds[self._turn]
            self._turn = (self._turn + 1) % len(self._feeds)
            idle += 1
            for _ in range(2 if feed.is_late else 1):
                if count == self._engine.max_batch or (pending := feed.take(self._batch[encoded])) is None:
                    break
                idle = 0
                count += 1
                encoded += not pending.reused
                yield pending

    def _encode(self, batch: Sequence[Pending]) -> None:
        """The batch array holds the chunks whose features are not there already, in the same order."""
        slots = np.array([pending.slot for pending in batch if not pending.reused], np.int32)
        if len(slots):
            with self._stages("encode", len(slots)):
                self._engine.encode(self._batch[: len(slots)], slots)

    def _in_time(self, pending: Pending, now_s: float) -> Pending | None:
        return self._by_stream[pending.stream].in_time(pending, int(now_s * 1e9))

    def _classify(self, due: Sequence[Pending]) -> list[F32]:
        """Probabilities of each; those of the window before where a motion gate found nothing new in this one."""
        rows = {
            i: known[1]
            for i, pending in enumerate(due)
            if pending.features and (known := self._answers.get(pending.stream)) and known[0] == pending.features
        }
        if fresh := [i for i in range(len(due)) if i not in rows]:
            windows = np.stack([window.slots for i in fresh if (window := due[i].window) is not None])
            with self._stages("head", len(fresh)):
                rows.update(zip(fresh, self._engine.classify(windows), strict=True))
        for i in fresh:
            if features := due[i].features:
                self._answers[due[i].stream] = (features, rows[i])
        return [rows[i] for i in range(len(due))]

    def _publish(self, pending: Pending, probabilities: npt.NDArray[np.float32], latency_ms: dict[str, float]) -> None:
        stream, window = pending.stream, pending.window
        assert window is not None  # `due` holds no others
        spec = self._engine.spec
        best = np.argsort(probabilities)[::-1][:TOP_K]
        start_s, end_s = round(window.start_pts_ns / 1e9, 6), round(window.end_pts_ns / 1e9, 6)
        body: dict[str, Any] = {
            "window": {
                "start_s": start_s,
                "end_s": end_s,
                "frames": window.frames,
                "duplicates": window.duplicates,
                "corrupt": window.corrupt,
                "segment": window.segment,
            },
            "top": [[spec.labels[i], round(float(probabilities[i]), 6)] for i in best],
            "model": spec.id,
            "engine": self._ran_on,
            "latency_ms": latency_ms,
        }
        if pending.hop is not None:
            body["hop"] = pending.hop
        if pending.gated:
            body["gated"] = pending.gated
        if pending.dropped:
            body["dropped"] = pending.dropped
        self._link.post(Draft(type="prediction", stream=stream, body=body, captured_ns=window.captured_ns))
        tracker = self._actions[stream]
        if tracker.config:
            by_label = dict(zip(spec.labels, probabilities.tolist(), strict=True))
            self._post_actions(stream, tracker.update(by_label, start_s, end_s, window.segment, time.time()))

    def _look_at_clock(self) -> None:
        """An action ends with its hours, also while its stream shows nothing."""
        for stream, tracker in self._actions.items():
            self._post_actions(stream, tracker.look_at_clock(time.time()))

    def _post_actions(self, stream: str, changes: Sequence[Any]) -> None:
        for change in changes:
            self._link.post(Draft(type="action", stream=stream, body=change.body(), captured_ns=None))


def main(job: ClassifierJob, stop: Stop) -> int:
    """Open the engine, say so on stdout in one JSON line, and serve until `stop`."""
    from engines.background_upgrade import open_serving
    from engines.bundle import load_bundle
    from streamclf.classifier.feed_registry import FeedRegistry

    stop.pulse.expect("compiling", COMPILING_S)
    bundle = load_bundle(job.bundle)
    opening = open_serving(
        bundle,
        backend=job.engine.backend,
        precision=job.engine.precision,
        max_batch=job.engine.max_batch,
        bank_slots=FeedRegistry.bank_slots(bundle.spec, job.capacity),
        threads=job.engine.threads,
        streams=job.streams,
    )
    roster = FeedRegistry(bundle.spec, job.capacity)
    link = EventProducer(job.link, "classifier")
    print(orjson.dumps({"engine": opening.engine.description}).decode(), flush=True)
    classifier = Classifier(opening.engine, (), {}, link, max_wait_s=job.engine.max_wait_ms / 1e3)
    try:
        classifier.run(stop, roster, opening.better)
    finally:
        opening.close()
        left = link.close(LINK_CLOSE_S)
        if left:
            log.error("%d events could not be handed to the hub before the end", left)
        for feed in roster:
            _log_drops(feed)
        classifier.close()
    return EXIT_DONE


def _log_drops(feed: Feed) -> None:
    if drops := +Counter(feed.drops):
        log.info("%s: dropped %s", feed.stream, dict(drops))


def _drain(fd: int) -> bool:
    """Empty the pipe; False when nobody can write to it any more."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(fd, 4096):
            if len(data) < 4096:
                return True
        return False
    return True
