"""The process of one stream: source -> sampling -> ring, and how the stream is. `python -m streamclf.capture`"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from streamclf.child import EXIT_DONE, EXIT_ENDED, Stop, run_child
from streamclf.errors import RingError, SourceError, SourceRefusedError, SourceWaitingError
from streamclf.health import Backoff, Freshness, Health, Report
from streamclf.jobs import CaptureJob
from streamclf.link import Draft
from streamclf.preview import Previewer, PreviewLink
from streamclf.progress import ProgressWaiter
from streamclf.pulse import Pulse
from streamclf.redact import redact, register_secret, register_url
from streamclf.ring import RingWriter
from streamclf.sampling import NS, TokenMeta, TokenSampler
from streamclf.sources import Frame, Source, open_source
from streamclf.sources.resize import U8
from streamclf.stillness import Stillness
from streamclf.tokens import TokenFiller

log = logging.getLogger(__name__)

TICK_S = 0.25
GOOD_CONNECTION_S = 5.0
"""A connection that held this long was a good one: after it, the first new attempt follows at once."""
STALE_FOR_NS = 5 * NS
"""A stream that is late for this long is opened anew: what waits in its buffers will only get older."""
MAX_LIVE_FPS = 250
LEAVE_S = 0.7
"""After a request to stop, the time for a blocked read to end by itself."""
MAX_REASON_CHARS = 500
HANG_MARGIN_S = 15.0
"""On top of twice a time-out, which is what FFmpeg makes of one, a source may look for its next key frame."""
FILE_HANG_S = 60.0
"""Files have no time-outs, and a disk may be at the other end of a network."""


class Link(PreviewLink, Protocol):
    """What capture needs of `streamclf.link.HubLink`."""

    def post(self, draft: Draft) -> None:
        """Take charge of an event; never blocks."""


class Capture:
    """Reads one stream until it ends or is asked to stop, and says how it is."""

    def __init__(self, job: CaptureJob, link: Link, stop: threading.Event, pulse: Pulse | None = None) -> None:
        self._job = job
        self._stop = stop
        self._pulse = pulse or Pulse()
        self._status = _Status(job, link)
        self._previews = Previewer(link, job.stream)
        writer = RingWriter(job.ring_fd)
        shape = (job.frames_per_token, job.height, job.width, 3)
        if writer.token_shape != shape:
            raise RingError(
                f"stream {job.stream}: the ring holds {writer.token_shape}, the job wants {shape}; restart all"
            )
        self._sampler = TokenSampler(job.fps, job.frames_per_token, first_segment=writer.next_segment)
        progress = None if job.progress_fd is None else ProgressWaiter(job.progress_fd, stop)
        self._sink = _WakingRing(writer, job.wake_fd, progress)
        frozen_s = job.source.frozen_after_s
        self._watch = _StillWatch(self._sink, self._status, frozen_s) if frozen_s else None
        self._backoff = Backoff()

    def run(self) -> int:
        """The process's exit code. Raises `SourceError` for a file that cannot be played, now or ever."""
        with self._status:
            while not self._stop.is_set():
                began_s, refused = time.monotonic(), False
                try:
                    if self._play():
                        return EXIT_ENDED
                except SourceError as error:
                    if self._job.source.ends:
                        self._status.end(str(error))
                        raise
                    self._status.fault(str(error))
                    refused = isinstance(error, SourceRefusedError)
                    if isinstance(error, SourceWaitingError):
                        self._backoff.reset()
                if time.monotonic() - began_s > GOOD_CONNECTION_S:
                    self._backoff.reset()
                self._stop.wait(self._backoff.next_s(refused=refused))
                self._status.count(reconnects=1)
        return EXIT_DONE

    def _play(self) -> bool:
        """Open the source once and read it; whether it has come to its end."""
        config = self._job.source
        reading_s = FILE_HANG_S if config.is_file else 2 * config.read_timeout_s + HANG_MARGIN_S
        self._pulse.expect("connecting", reading_s + 2 * config.open_timeout_s)
        with open_source(config, stop=self._stop) as source:
            self._pulse.expect("reading", reading_s)
            self._read(source)
            if self._stop.is_set():
                return False
            if source.live:
                raise SourceError(f"{self._job.stream}: the stream ended; a live source does not")
        self._sink.settle()
        self._status.end("end of the file")
        return True

    def _read(self, source: Source) -> None:
        job = self._job
        filler = TokenFiller(
            self._sampler, self._watch or self._sink, height=job.height, width=job.width, resize=job.resize
        )
        gate = _FreshOnly(source.max_stale_s)
        flood = _FloodGate(self._stop) if source.live else None
        is_first = True
        try:
            for frame in source:
                if flood and flood.hold(frame.captured_ns):
                    self._status.count(held=1)
                if not gate.passes(frame):
                    self._status.count(dropped_stale=1)
                    continue
                self._status.frame(frame, source)
                tokens = filler.offer(frame, discontinuity=is_first)
                is_first = False
                self._status.sampled(self._sampler, tokens)
                self._previews.offer(frame)
        finally:
            self._status.count(dropped_stale=source.stale)


class _WakingRing:
    """The ring, whose reader is woken after each token, and waited for only where `progress` is given."""

    def __init__(self, writer: RingWriter, wake_fd: int, progress: ProgressWaiter | None) -> None:
        self._writer = writer
        self._wake_fd = wake_fd
        self._progress = progress

    def begin(self) -> U8:
        if self._progress:
            self._progress.wait_for(self._writer.head - self._writer.slots + 2)
        return self._writer.begin()

    def settle(self) -> None:
        """Wait until all has been read."""
        if self._progress:
            self._progress.wait_for(self._writer.head)

    def commit(self, token: TokenMeta) -> int:
        number = self._writer.commit(token)
        # Full: the reader has enough bytes to wake up. Broken: it is being restarted. Capture waits for neither.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._wake_fd, b"\1")
        return number


class _StillWatch:
    """The ring, with an eye on whether the pictures that go into it are new ones: sampled frames only, so that a flood
    of frames costs no more."""

    def __init__(self, ring: _WakingRing, status: _Status, frozen_s: float) -> None:
        self._ring = ring
        self._status = status
        self._frozen_s = frozen_s
        self._stillness = Stillness()
        self._place: U8 | None = None

    def begin(self) -> U8:
        self._place = self._ring.begin()
        return self._place

    def commit(self, token: TokenMeta) -> int:
        assert self._place is not None  # begun before
        for picture in self._place:
            still_s = self._stillness.offer(picture, token.captured_ns)
        self._status.still(still_s if still_s > self._frozen_s else None)
        return self._ring.commit(token)


class _FloodGate:
    """Takes no more pictures a second from a live source than any camera makes: the others wait in the connection, so
    that their sender has to. Decoding a flood would take the core that other streams need."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._since_ns = 0
        self._taken = 0

    def hold(self, now_ns: int) -> bool:
        """Count a picture, and wait where it is one too many; whether it was."""
        if now_ns - self._since_ns >= NS:
            self._since_ns, self._taken = now_ns, 0
        self._taken += 1
        if self._taken <= MAX_LIVE_FPS:
            return False
        self._stop.wait((self._since_ns + NS - now_ns) / NS)
        return True


class _FreshOnly:
    """Lets no picture through that comes much later than its time stamp promises."""

    def __init__(self, max_stale_s: float | None) -> None:
        self._max_ns = None if max_stale_s is None else round(max_stale_s * NS)
        self._freshness = Freshness()
        self._stale_since_ns: int | None = None

    def passes(self, frame: Frame) -> bool:
        """Whether `frame` is fresh. Raises `SourceError` when the stream has been late for too long."""
        if self._max_ns is None:
            return True
        late_ns = self._freshness.late_ns(frame.pts_ns, frame.captured_ns)
        if late_ns <= self._max_ns:
            self._stale_since_ns = None
            return True
        if self._stale_since_ns is None:
            self._stale_since_ns = frame.captured_ns
        if frame.captured_ns - self._stale_since_ns > STALE_FOR_NS:
            raise SourceError(f"pictures come {late_ns / NS:.1f} s late; opening the stream anew to see the present")
        return False


class _Status:
    """Counts, and posts status events: on every change at once, else every few seconds. Has a thread for the clock."""

    def __init__(self, job: CaptureJob, link: Link) -> None:
        self._stream = job.stream
        self._link = link
        self._watched = not job.source.ends  # a film may hold a picture for as long as it likes
        self._lock = threading.Lock()
        self._health = Health(time.monotonic_ns())
        self._source: Source | None = None
        self._taken = (0, 0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="status", daemon=True)

    def __enter__(self) -> _Status:
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
            self._count_of(source)
            counters["width"], counters["height"] = frame.width, frame.height
            if self._health.codec is None or self._health.state not in ("live", "frozen"):
                self._health.codec = source.info.codec
            self._post(self._health.frame(frame.captured_ns))

    def _count_of(self, source: Source) -> None:
        """Take over what `source` counts from its own beginning, so that it never goes back with a new connection."""
        if source is not self._source:
            self._source, self._taken = source, (0, 0)
        now = (source.undecodable, source.dropped_by_sender)
        counters = self._health.counters
        counters["undecodable"] += now[0] - self._taken[0]
        counters["dropped_sender"] += now[1] - self._taken[1]
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

    def end(self, reason: str) -> None:
        """Nothing more will come."""
        with self._lock:
            self._post(self._health.end(_one_line(reason), time.monotonic_ns()))

    def _tick(self) -> None:
        while not self._done.wait(TICK_S):
            with self._lock:
                self._post(self._health.tick(time.monotonic_ns(), watched=self._watched))

    def _post(self, report: Report | None) -> None:
        if report is not None:
            self._link.post(Draft(type="status", stream=self._stream, body=report.body))


def _one_line(reason: str) -> str:
    return redact(" ".join(reason.split()))[:MAX_REASON_CHARS]


def main(job: CaptureJob, stop: Stop) -> int:
    """Read one stream until its end (exit code 3) or the request to stop (0)."""
    from streamclf.link import HubLink

    if job.source.url is not None:
        register_url(job.source.url)
    if job.source.push_secret:
        register_secret(job.source.push_secret)
    done = threading.Event()
    link = HubLink(job.link, f"capture-{job.stream}")
    threading.Thread(target=_leave, args=(stop.event, done, link.close), name="leave", daemon=True).start()
    try:
        return Capture(job, link, stop.event, stop.pulse).run()
    finally:
        done.set()
        link.close(0.5 if stop.event.is_set() else 2.0)


def _leave(stop: threading.Event, done: threading.Event, close: Callable[[float], object]) -> None:
    """A read can block longer than a stop may take: nothing of ours is lost by leaving in the middle of it."""
    stop.wait()
    if not done.wait(LEAVE_S):
        close(0.2)
        os._exit(EXIT_DONE)


if __name__ == "__main__":
    run_child("capture", CaptureJob, main)
