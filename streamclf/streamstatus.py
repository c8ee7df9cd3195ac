"""How one stream is, counted and posted by its capture process."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Protocol

from streamclf.health import Health, Report
from streamclf.link import Draft
from streamclf.redact import redact
from streamclf.sampling import NS, TokenSampler
from streamclf.sources import Frame, Source

log = logging.getLogger(__name__)

TICK_S = 0.25
MAX_REASON_CHARS = 500


class Link(Protocol):
    """What statuses need of `streamclf.link.HubLink`."""

    def post(self, draft: Draft) -> None:
        """Take charge of an event; never blocks."""


class StreamStatus:
    """Counts, and posts status events: on every change at once, else every few seconds. Has a thread for the clock."""

    def __init__(self, stream: str, link: Link, *, watched: bool) -> None:
        """`watched`: silence is a stall."""
        self._stream = stream
        self._link = link
        self._watched = watched
        self._lock = threading.Lock()
        self._health = Health(time.monotonic_ns())
        self._source: Source | None = None
        self._taken = (0, 0, 0)
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
        self._thread.join(2 * TICK_S)

    def frame(self, frame: Frame, source: Source) -> None:
        """A fresh frame is there."""
        with self._lock:
            counters = self._health.counters
            counters["corrupt"] += frame.corrupt
            counters["skipped"] += frame.skipped
            self._count_of(source)
            counters["width"], counters["height"] = frame.width, frame.height
            info = source.info
            self._health.codec, self._health.note = info.codec, info.note
            # What to add to a window's media time to have Unix time, by the camera's own clock.
            wall_ns = frame.wall_ns
            self._health.wall_offset_s = None if wall_ns is None else round((wall_ns - frame.pts_ns) / NS, 6)
            self._post(self._health.frame(frame.captured_ns))

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

    def sampled(self, sampler: TokenSampler, tokens: int) -> None:
        """The sampler has taken the frame, which completed `tokens`."""
        with self._lock:
            counters = self._health.counters
            counters["tokens"] += tokens
            counters["sampled"] = sampler.sampled
            counters["dropped_partial"] = sampler.abandoned
            counters["dropped_corrupt"] = sampler.refused

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
        while not self._done.wait(TICK_S):
            with self._lock:
                self._post(self._health.tick(time.monotonic_ns(), watched=self._watched))

    def _post(self, report: Report | None) -> None:
        if report is not None:
            self._link.post(Draft(type="status", stream=self._stream, body=report.body))


def _one_line(reason: str) -> str:
    return redact(" ".join(reason.split()))[:MAX_REASON_CHARS]
