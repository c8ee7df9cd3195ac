"""Count what happens to one stream, and post its status events, in its capture process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from engines.printable import printable
from streamclf.capture.stream_state import StatusReport, StreamStateMachine
from streamclf.events.drafts import Draft
from streamclf.redact import redact
from streamclf.sources import Frame, Source
from streamclf.units import NS

log = logging.getLogger(__name__)

SHORTEST_TICK_S = 0.05
LONGEST_TICK_S = 1.0
SOURCE_POLL_NS = NS // 4
"""Interval of copying a source's info and counters: reading them costs as much as the rest of this module."""
MAX_REASON_CHARS = 500


class StatusProducer(Protocol):
    """The part of `streamclf.producer.link.EventProducer` that statuses need."""

    def post(self, draft: Draft) -> None:
        """Queue an event for delivery; never blocks."""


class StatusReporter:
    """Count, and post status events: each change at once, else every few seconds. A thread checks the clock."""

    def __init__(
        self,
        stream: str,
        producer: StatusProducer,
        more_counters: Callable[[], dict[str, int]],
        *,
        silence_is_stall: bool,
    ) -> None:
        """Add `more_counters` to each event. `silence_is_stall`: a stream without frames is stalled."""
        self._more_counters = more_counters
        self._stream = stream
        self._producer = producer
        self._silence_is_stall = silence_is_stall
        self._lock = threading.Lock()
        self._state = StreamStateMachine(time.monotonic_ns())
        self._source: Source | None = None
        # Undecodable, dropped by the sender, lost: the counts of this source that are added already.
        self._counted = (0, 0, 0)
        self._poll_ns = 0
        self._view_fault: str | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="status", daemon=True)

    def __enter__(self) -> StatusReporter:
        with self._lock:
            self._post(self._state.start(time.monotonic_ns()))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(LONGEST_TICK_S)

    def on_connect(self, source: Source) -> None:
        """Copy what is known about a new connection. Its first frame may come much later."""
        info = source.info
        with self._lock:
            if info.note is not None:  # without a note, all of it comes with the first frame
                self._post(self._state.set_info(info.codec, info.note, time.monotonic_ns()))

    def on_frame(self, frame: Frame, source: Source) -> None:
        """Count a fresh frame."""
        with self._lock:
            state, wall_ns = self._state, frame.wall_ns
            state.clocks = None if wall_ns is None else (wall_ns, frame.pts_ns)
            state.counters["skipped"] += frame.image is None
            if frame.corrupt or frame.captured_ns >= self._poll_ns or state.state != "live":
                self._poll_source(frame, source)
            if report := state.on_frame(frame.captured_ns):
                self._post(report)

    def on_disconnect(self, source: Source) -> None:
        """Copy the final counters of a connection that is closed."""
        with self._lock:
            self._copy_counters(source)
            self._state.counters["dropped_stale"] += source.stale

    def set_frozen(self, seconds: float | None) -> None:
        """Record that the stream has been frozen for `seconds`; None records that new images arrive."""
        with self._lock:
            self._post(self._state.set_frozen(seconds, time.monotonic_ns()))

    def set_view_fault(self, fault: str | None) -> None:
        """Record why a region shows nothing; None if all do. A change is reported with the next frame."""
        if fault != self._view_fault:
            self._view_fault, self._poll_ns = fault, 0

    def count(self, **increments: int) -> None:
        """Add to counters by name."""
        with self._lock:
            self._state.counters.update(increments)

    def on_fault(self, reason: str) -> None:
        """Record that the connection failed; another attempt follows."""
        log.debug("attempt failed: %s", reason)  # the hub logs the stream's losses, once each
        with self._lock:
            self._post(self._state.on_fault(_one_line(reason), time.monotonic_ns()))

    def on_end(self, reason: str, *, finished: bool = False) -> None:
        """Record the end of the stream. `finished`: it was read to its end."""
        with self._lock:
            self._post(self._state.on_end(_one_line(reason), time.monotonic_ns(), finished=finished))

    def _poll_source(self, frame: Frame, source: Source) -> None:
        self._poll_ns = frame.captured_ns + SOURCE_POLL_NS
        self._copy_counters(source)
        counters = self._state.counters
        counters["corrupt"] += frame.corrupt
        counters["width"], counters["height"] = frame.width, frame.height
        info = source.info
        note = "; ".join(filter(None, (info.note, self._view_fault)))
        report = self._state.set_info(info.codec, _one_line(note) or None, frame.captured_ns, info.decoding)
        if self._state.state in ("live", "frozen"):  # in other states, the frame is reported anyway
            self._post(report)

    def _copy_counters(self, source: Source) -> None:
        """Add what `source` has counted since the last call. Each source counts from 0; the stream's totals go on."""
        if source is not self._source:
            self._source, self._counted = source, (0, 0, 0)
        now = (source.undecodable, source.dropped_by_sender, source.lost)
        counters = self._state.counters
        counters["undecodable"] += now[0] - self._counted[0]
        counters["dropped_sender"] += now[1] - self._counted[1]
        counters["lost"] += now[2] - self._counted[2]
        self._counted = now

    def _tick(self) -> None:
        wait_s = SHORTEST_TICK_S
        while not self._done.wait(wait_s):
            with self._lock:
                now_ns = time.monotonic_ns()
                self._post(self._state.tick(now_ns, silence_is_stall=self._silence_is_stall))
                due_s = (self._state.next_tick_ns(silence_is_stall=self._silence_is_stall) - now_ns) / NS
            # A frame or a fault only makes the next tick later, or sooner by no more than the limits here.
            wait_s = min(max(SHORTEST_TICK_S, due_s), LONGEST_TICK_S)

    def _post(self, report: StatusReport | None) -> None:
        if report is None:
            return
        body = report.body
        body["counters"] |= self._more_counters()
        self._producer.post(Draft(type="status", stream=self._stream, body=body))


def _one_line(reason: str) -> str:
    return printable(redact(" ".join(reason.split())))[:MAX_REASON_CHARS]
