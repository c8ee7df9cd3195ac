"""How one stream is, counted and posted by its capture process."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Protocol

from streamclf.capture.stream_state import Health, Report
from streamclf.events.drafts import Draft
from streamclf.redact import redact
from streamclf.sources import Frame, Source
from streamclf.windows.sampling import NS, ChunkSampler

log = logging.getLogger(__name__)

SHORTEST_TICK_S = 0.05
LONGEST_TICK_S = 1.0
LOOK_NS = NS // 4
"""What a source says and counts of itself is taken over so often: to ask it costs as much as all the rest here."""
MAX_REASON_CHARS = 500


class Link(Protocol):
    """What statuses need of `streamclf.producer.link.EventProducer`."""

    def post(self, draft: Draft) -> None:
        """Take charge of an event; never blocks."""


class StreamStatus:
    """Counts, and posts status events: on every change at once, else every few seconds. Has a thread for the clock."""

    def __init__(self, stream: str, link: Link, sampler: ChunkSampler, *, watched: bool) -> None:
        """`sampler` counts what it takes, and is asked when that is told. `watched`: silence is a stall."""
        self._stream = stream
        self._link = link
        self._sampler = sampler
        self._watched = watched
        self._lock = threading.Lock()
        self._health = Health(time.monotonic_ns())
        self._source: Source | None = None
        self._taken = (0, 0, 0)
        self._look_ns = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="status", daemon=True)

    def __enter__(self) -> StreamStatus:
        with self._lock:
            self._post(self._health.begin(time.monotonic_ns()))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(LONGEST_TICK_S)

    def frame(self, frame: Frame, source: Source) -> None:
        """A fresh frame is there."""
        with self._lock:
            health, wall_ns = self._health, frame.wall_ns
            health.clocks = None if wall_ns is None else (wall_ns, frame.pts_ns)
            health.counters["skipped"] += frame.picture is None
            if frame.corrupt or frame.captured_ns >= self._look_ns or health.state != "live":
                self._look(frame, source)
            if report := health.frame(frame.captured_ns):
                self._post(report)

    def left(self, source: Source) -> None:
        """Nothing more comes of this connection: what it has counted is final."""
        with self._lock:
            self._count_of(source)
            self._health.counters["dropped_stale"] += source.stale

    def _look(self, frame: Frame, source: Source) -> None:
        self._look_ns = frame.captured_ns + LOOK_NS
        self._count_of(source)
        info, health = source.info, self._health
        health.codec, health.note = info.codec, info.note
        counters = health.counters
        counters["corrupt"] += frame.corrupt
        counters["width"], counters["height"] = frame.width, frame.height

    def _count_of(self, source: Source) -> None:
        """Take over what `source` counts from its own beginning, so that it never goes back with a new connection."""
        if source is not self._source:
            self._source, self._taken = source, (0, 0, 0)
        now = (source.undecodable, source.dropped_by_sender, source.lost)
        counters = self._health.counters
        counters["undecodable"] += now[0] - self._taken[0]
        counters["dropped_sender"] += now[1] - self._taken[1]
        counters["lost"] += now[2] - self._taken[2]
        self._taken = now

    def still(self, seconds: float | None) -> None:
        """For so long no new picture has come, which is too long, or None."""
        with self._lock:
            self._post(self._health.still(seconds, time.monotonic_ns()))

    def count(self, **by: int) -> None:
        """Add to counters."""
        with self._lock:
            self._health.counters.update(by)

    def fault(self, reason: str) -> None:
        """The connection failed; another attempt follows."""
        log.warning("%s: %s", self._stream, reason)
        with self._lock:
            self._post(self._health.fault(_one_line(reason), time.monotonic_ns()))

    def end(self, reason: str, *, finished: bool = False) -> None:
        """Nothing more will come; `finished`: because all has been shown."""
        with self._lock:
            self._post(self._health.end(_one_line(reason), time.monotonic_ns(), finished=finished))

    def _tick(self) -> None:
        wait_s = SHORTEST_TICK_S
        while not self._done.wait(wait_s):
            with self._lock:
                now_ns = time.monotonic_ns()
                self._post(self._health.tick(now_ns, watched=self._watched))
                due_s = (self._health.due_ns(watched=self._watched) - now_ns) / NS
            # A new picture or a fault makes it later, nothing sooner by more than this.
            wait_s = min(max(SHORTEST_TICK_S, due_s), LONGEST_TICK_S)

    def _post(self, report: Report | None) -> None:
        if report is None:
            return
        body, sampler = report.body, self._sampler
        body["counters"] |= {
            "chunks": sampler.completed,
            "sampled": sampler.sampled,
            "dropped_partial": sampler.abandoned,
            "dropped_corrupt": sampler.refused,
        }
        self._link.post(Draft(type="status", stream=self._stream, body=body))


def _one_line(reason: str) -> str:
    return redact(" ".join(reason.split()))[:MAX_REASON_CHARS]
