"""Run the classifier's loop: wait for chunks, changes and the request to stop, and start each batch when it is due."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from streamclf.classifier.batching import DynamicBatcher, max_held_chunks
from streamclf.classifier.card_memory import CardMemory
from streamclf.classifier.classifier import Classifier
from streamclf.classifier.feed import Feed
from streamclf.classifier.load_control import SAMPLE_INTERVAL_S
from streamclf.classifier.load_reports import LoadReports
from streamclf.runtime.child import ChildControl
from streamclf.runtime.jobs import ClassifierChange, ClassifierReport, FeedLeft

if TYPE_CHECKING:
    from streamclf.classifier.feed_registry import FeedRegistry
    from streamclf.runtime.control_channel import ControlMessage

IDLE_S = 1.0
"""Longest sleep of the loop, in case no chunk, change or request arrives."""
DRAIN_S = 0.4
"""After the request to stop, time to classify the chunks that capture has written already."""
FIRST_BATCH_S = 60.0
"""Liveness limit until the first batch is done: libraries allocate memory and choose kernels in it."""
BATCH_S = 10.0
"""Shortest liveness limit of the later batches."""
MAX_SLOWDOWN = 10
"""A batch may take this many times longer than the slowest so far before the supervisor considers it hung."""

log = logging.getLogger("classifier")


class ClassifierLoop:
    """Serve until the request to stop; then classify the chunks in the rings, for at most `DRAIN_S`."""

    def __init__(
        self,
        classifier: Classifier,
        control: ChildControl,
        registry: FeedRegistry | None = None,
        *,
        max_wait_s: float = 0.0,
        report: Callable[[ClassifierReport], None] = lambda _: None,
        reports_load: bool = False,
    ) -> None:
        """With a `registry`, the supervisor adds and removes feeds. `report` gets the answers for the supervisor.

        With `reports_load`, `report` gets the load, too.
        """
        self._classifier, self._control, self._registry = classifier, control, registry
        self._report = report
        self._load_reports = LoadReports() if reports_load else None
        self._batcher = DynamicBatcher(max_wait_s)
        self._selector = selectors.DefaultSelector()
        self._woken: set[Feed] = set()
        """Feeds whose rings may hold waiting chunks."""
        self._slowest_s = 0.0
        for feed in classifier.feeds:
            self._watch(feed)

    def run(self) -> None:
        """Serve until the request to stop."""
        control, classifier = self._control, self._classifier
        control.liveness.enter_phase("classifying", FIRST_BATCH_S)
        with self._selector as selector:
            selector.register(control.stop_fd, selectors.EVENT_READ)
            selector.register(control.change_fd, selectors.EVENT_READ)
            periodic_s = 0.0
            while not control.stop_event.is_set():
                self._read_wake_pipes(selector.select(min(IDLE_S, self._batcher.remaining_s(time.monotonic()))))
                self._apply_changes()
                self._serve_ready()
                if (now_s := time.monotonic()) >= periodic_s:  # not for each chunk that starts no batch
                    periodic_s = now_s + SAMPLE_INTERVAL_S
                    classifier.run_periodic_work()
                    self._woken.update(classifier.feeds)  # a paused feed may be served again
                    self._update_engines()
                    self._report_load()
            classifier.finish(time.monotonic() + DRAIN_S)

    def _watch(self, feed: Feed) -> None:
        self._woken.add(feed)
        self._selector.register(feed.wake_fd, selectors.EVENT_READ, feed)
        if feed.card is not None:
            self._selector.register(feed.card, selectors.EVENT_READ, feed.card)

    def _read_wake_pipes(self, ready: Sequence[tuple[selectors.SelectorKey, int]]) -> None:
        """Empty the wake pipes that are readable, and note which feeds have chunks."""
        for key, _ in ready:
            feed: Feed | CardMemory | None = key.data
            if isinstance(feed, CardMemory):
                feed.answer()
                continue
            if feed is None:
                continue
            self._woken.add(feed)
            if not feed.paused:
                self._batcher.note_chunk(feed.name, time.monotonic())
            if not _empty_pipe(key.fd):
                self._selector.unregister(key.fd)  # a pipe at its end stays readable

    def _apply_changes(self) -> None:
        """Apply the changes that the supervisor has sent."""
        for message in self._control.pop_changes():
            if self._registry:
                self._apply_change(message, self._registry)

    def _apply_change(self, message: ControlMessage, registry: FeedRegistry) -> None:
        change = ClassifierChange.model_validate_json(message.body)
        classifier = self._classifier
        if change.join:
            feed = registry.add(change.join, message.fds)
            classifier.add_feed(feed)
            self._watch(feed)
        for name in (change.leave, change.hand_over):
            if name is not None:
                self._remove_feed(name)
                registry.remove(name)
        if change.hand_over is not None:
            self._report(FeedLeft(feed=change.hand_over))
        for name, bundle in change.add_models.items():
            classifier.add_model(name, bundle)
        for name, update in change.update.items():
            classifier.update_feed(name, update.settings, update.heads)
        for name in change.remove_models:
            classifier.remove_model(name)

    def _remove_feed(self, name: str) -> None:
        feed = self._classifier.remove_feed(name)
        if feed.wake_fd in self._selector.get_map():
            self._selector.unregister(feed.wake_fd)
        if feed.card is not None:
            self._selector.unregister(feed.card)
        self._woken.discard(feed)
        log_drops(feed)

    def _serve_ready(self) -> None:
        """Classify batches while they are due and no request of the supervisor waits."""
        control = self._control
        while self._batch_is_due() and not (control.stop_event.is_set() or control.has_changes):
            if not self._timed_step():
                break
            self._update_engines()
        self._classifier.publish_submitted()

    def _update_engines(self) -> None:
        for report in self._classifier.update_engines():
            self._report(report)

    def _report_load(self) -> None:
        if self._load_reports and (load := self._load_reports.due(self._classifier.load, time.monotonic())):
            self._report(load)

    def _batch_is_due(self) -> bool:
        """Return whether to start a batch now. Only feeds with chunks are checked: there may be hundreds of others."""
        classifier = self._classifier
        self._woken = {feed for feed in self._woken if feed.waiting > 0}
        max_held = max_held_chunks(classifier.chunk_cost_s)
        due = [due_s for feed in self._woken if (due_s := feed.due_s(max_held)) is not None]
        waiting = sum(feed.waiting for feed in self._woken)
        return self._batcher.should_start(due, waiting, classifier.max_batch, time.monotonic())

    def _timed_step(self) -> bool:
        """Classify one batch, and raise the liveness limit if it is the slowest so far."""
        began = time.monotonic()
        busy = self._classifier.step()
        took_s = time.monotonic() - began
        if busy and took_s > self._slowest_s:
            self._slowest_s = took_s
            self._control.liveness.enter_phase("classifying", max(BATCH_S, MAX_SLOWDOWN * took_s))
        return busy


def log_drops(feed: Feed) -> None:
    """Log how many chunks and windows a feed has dropped, if any."""
    if drops := +Counter(feed.drops):
        causes = ", ".join(f"{cause} {count}" for cause, count in drops.items())
        part = f"region {feed.region}: " if feed.region else ""
        log.info("%sdropped since its start, by cause: %s", part, causes, extra={"stream": feed.stream})


def _empty_pipe(fd: int) -> bool:
    """Read all that a non-blocking pipe holds; return False when its write end is closed."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(fd, 4096):
            if len(data) < 4096:
                return True
        return False
    return True
