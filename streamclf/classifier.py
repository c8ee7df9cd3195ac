"""The classifier process: rings -> engine -> predictions and actions. `python -m streamclf.classifier`."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson

from streamclf.child import EXIT_DONE, Stop, run_child
from streamclf.feed import Feed, Pending, bank_slots
from streamclf.jobs import ClassifierJob
from streamclf.link import Draft, HubLink

if TYPE_CHECKING:
    from engines.engine import Engine
    from streamclf.actions import ActionTracker

U8 = npt.NDArray[np.uint8]

TOP_K = 10
IDLE_S = 1.0
DRAIN_S = 0.4
"""After the request to stop, time to classify what capture had already finished."""
LINK_CLOSE_S = 0.6

log = logging.getLogger("classifier")


class Classifier:
    """Takes the ready tokens of all feeds, fairly, into one encode, and classifies the windows that they complete."""

    def __init__(self, engine: Engine, feeds: Sequence[Feed], actions: dict[str, ActionTracker], link: HubLink) -> None:
        self._engine = engine
        self._feeds = feeds
        self._actions = actions
        self._link = link
        self._batch: U8 = np.empty((engine.max_batch, *engine.spec.token_shape), np.uint8)
        self._turn = 0

    def run(self, stop: Stop) -> None:
        """Serve until `stop`; then classify what is already in the rings, for at most `DRAIN_S`."""
        with selectors.DefaultSelector() as selector:
            selector.register(stop.fd, selectors.EVENT_READ)
            for feed in self._feeds:
                selector.register(feed.wake_fd, selectors.EVENT_READ, feed)
            while not stop.event.is_set():
                for key, _ in selector.select(IDLE_S):
                    if key.data is not None and not _drain(key.fd):
                        selector.unregister(key.fd)  # an ended pipe would stay readable for ever
                while not stop.event.is_set() and self.step():
                    pass
                self._look_at_clock()
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline and self.step():
            pass
        for stream, tracker in self._actions.items():
            self._post_actions(stream, tracker.close("stopped"))

    def step(self) -> bool:
        """One batch; False when no token was waiting."""
        for feed in self._feeds:
            feed.begin_batch()
        batch = list(self._collect())
        if not batch:
            return False
        began = time.perf_counter()
        slots = np.fromiter((pending.slot for pending in batch), np.int32, len(batch))
        self._engine.encode(self._batch[: len(batch)], slots)
        encode_ms = (time.perf_counter() - began) * 1e3
        due = [pending for pending in batch if pending.window is not None]
        if due:
            began = time.perf_counter()
            probabilities = self._engine.classify(np.stack([p.window.slots for p in due if p.window is not None]))
            classify_ms = (time.perf_counter() - began) * 1e3
            for pending, row in zip(due, probabilities, strict=True):
                self._publish(pending, row, {"encode": round(encode_ms, 3), "classify": round(classify_ms, 3)})
        return True

    def _collect(self) -> Iterator[Pending]:
        """One token of each feed in turn, until the batch is full or nobody has one; the next batch goes on there."""
        count = idle = 0
        while count < self._engine.max_batch and idle < len(self._feeds):
            feed = self._feeds[self._turn]
            self._turn = (self._turn + 1) % len(self._feeds)
            pending = feed.take(self._batch[count])
            if pending is None:
                idle += 1
                continue
            idle = 0
            count += 1
            yield pending

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
            "latency_ms": latency_ms,
        }
        self._link.post(Draft(type="prediction", stream=stream, body=body, captured_ns=window.captured_ns))
        if tracker := self._actions.get(stream):
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
    from engines.bundle import load_bundle
    from engines.engine import open_engine
    from streamclf.actions import ActionTracker
    from streamclf.progress import ProgressReporter
    from streamclf.ring import RingReader

    bundle = load_bundle(job.bundle)
    spec = bundle.spec
    engine = open_engine(
        bundle,
        backend=job.engine.backend,
        precision=job.engine.precision,
        max_batch=job.engine.max_batch,
        bank_slots=len(job.feeds) * bank_slots(spec),
        threads=job.engine.threads,
        streams=len(job.feeds),
    )
    feeds = [
        Feed(
            stream=feed.stream,
            reader=RingReader(feed.ring_fd),
            wake_fd=feed.wake_fd,
            spec=spec,
            hop=feed.hop,
            index=index,
            resumed=job.resumed,
            progress=None if feed.progress_fd is None else ProgressReporter(feed.progress_fd),
        )
        for index, feed in enumerate(job.feeds)
    ]
    actions = {stream: ActionTracker.of(its) for stream, its in job.actions.items() if its.labels}
    link = HubLink(job.link, "classifier")
    print(orjson.dumps({"engine": engine.description}).decode(), flush=True)
    try:
        Classifier(engine, feeds, actions, link).run(stop)
    finally:
        left = link.close(LINK_CLOSE_S)
        if left:
            log.error("%d events could not be handed to the hub before the end", left)
        for feed in feeds:
            if feed.drops:
                log.info("%s: dropped %s", feed.stream, dict(feed.drops))
        engine.close()
    return EXIT_DONE


def _drain(fd: int) -> bool:
    """Empty the pipe; False when nobody can write to it any more."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(fd, 4096):
            if len(data) < 4096:
                return True
        return False
    return True


if __name__ == "__main__":
    run_child("classifier", ClassifierJob, main)
