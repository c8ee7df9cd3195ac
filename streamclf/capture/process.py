"""The process of one stream: source -> sampling -> ring, and how the stream is. `python -m streamclf.capture`"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

from engines.arrays import U8
from streamclf.capture.freshness import FloodGate, FreshOnly
from streamclf.capture.frozen import Stillness
from streamclf.capture.preview import Previewer, PreviewLink
from streamclf.capture.status_reporter import Link as StatusLink
from streamclf.capture.status_reporter import StreamStatus
from streamclf.errors import RingError, SourceError, SourceRefusedError, SourceWaitingError
from streamclf.net.backoff import Backoff
from streamclf.redact import register_secret, register_url
from streamclf.runtime.child import EXIT_DONE, EXIT_ENDED, Stop
from streamclf.runtime.jobs import CaptureJob
from streamclf.runtime.liveness import Liveness
from streamclf.runtime.profiling import Stages, open_stages
from streamclf.sources import Source, open_source
from streamclf.windows.chunks import ChunkBuilder
from streamclf.windows.ring import RingWriter
from streamclf.windows.ring_progress import ProgressWaiter
from streamclf.windows.sampling import ChunkMeta, ChunkSampler

log = logging.getLogger(__name__)

GOOD_CONNECTION_S = 5.0
"""A connection that held this long was a good one: after it, the first new attempt follows at once."""
LEAVE_S = 0.7
"""After a request to stop, the time for a blocked read to end by itself."""
CONNECTING_MARGIN_S = 15.0
"""On top of twice the time-outs, which is what FFmpeg makes of them: names are looked up without any."""
READING_MARGIN_S = 1.0
"""On top of twice the time-out: a read comes back within it, and there is a sign of life after each."""
PATIENT_HANG_S = 60.0
"""Files have no time-outs, and a disk may be at the other end of a network; playlists grow every few seconds only."""


class Link(StatusLink, PreviewLink, Protocol):
    """What capture needs of `streamclf.producer.link.EventProducer`."""


class Capture:
    """Reads one stream until it ends or is asked to stop, and says how it is."""

    def __init__(self, job: CaptureJob, link: Link, stop: threading.Event, pulse: Liveness | None = None) -> None:
        self._job = job
        self._stop = stop
        self._pulse = pulse or Liveness()
        self._previews = Previewer(link, job.stream)
        writer = RingWriter(job.ring_fd)
        shape = (job.frames_per_chunk, job.height, job.width, 3)
        if writer.chunk_shape != shape:
            raise RingError(
                f"stream {job.stream}: the ring holds {writer.chunk_shape}, the job wants {shape}; restart all"
            )
        self._sampler = ChunkSampler(job.fps, job.frames_per_chunk, first_segment=writer.next_segment)
        # A film may hold a picture for as long as it likes.
        self._status = StreamStatus(job.stream, link, self._sampler, watched=not job.source.ends)
        progress = None if job.progress_fd is None else ProgressWaiter(job.progress_fd, stop)
        self._stages = open_stages(f"capture-{job.stream}")
        self._sink = _WakingRing(writer, job.wake_fd, progress, self._stages)
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
        patient = config.ends or ".m3u8" in (config.url or "")
        reading_s = PATIENT_HANG_S if patient else 2 * config.read_timeout_s + READING_MARGIN_S
        connecting_s = reading_s + 2 * config.open_timeout_s + CONNECTING_MARGIN_S
        self._pulse.expect("connecting", connecting_s)
        with open_source(config, stop=self._stop) as source:
            self._pulse.expect("reading", reading_s)
            try:
                self._read(source)
            finally:
                self._pulse.expect("connecting", connecting_s)  # to hang up may take as long
            if self._stop.is_set():
                return False
            if source.live:
                raise SourceError(f"{self._job.stream}: the stream ended; a live source does not")
        self._sink.settle()
        self._status.end("end of the file", finished=True)
        return True

    def _read(self, source: Source) -> None:
        job = self._job
        filler = ChunkBuilder(
            self._sampler, self._watch or self._sink, height=job.height, width=job.width, resize=job.resize
        )
        source.heed(_Interest(filler, self._previews))
        gate = FreshOnly(source.max_stale_s)
        flood = FloodGate(self._stop) if source.live else None
        is_first = True
        try:
            for frame in self._stages.through("decode", source):
                if flood and flood.hold(frame.captured_ns):
                    self._status.count(held=1)
                if not gate.passes(frame):
                    self._status.count(dropped_stale=1)
                    continue
                self._status.frame(frame, source)
                if chosen := filler.choose(frame, discontinuity=is_first):
                    with self._stages("convert"):
                        filler.fill(chosen)
                is_first = False
                self._previews.offer(frame)
        finally:
            self._status.left(source)


class _Interest:
    """Chunks want what sampling wants; whoever watches wants all, since nobody knows what is due when."""

    def __init__(self, filler: ChunkBuilder, previews: Previewer) -> None:
        self._filler = filler
        self._previews = previews

    def may_want(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        return self._previews.wanted or self._filler.may_want(before_ns, at_ns, after_ns, longest_ns)

    def may_look_back(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        return self._filler.may_look_back(before_ns, at_ns, shortest_ns)


class _WakingRing:
    """The ring, whose reader is woken after each chunk, and waited for only where `progress` is given."""

    def __init__(self, writer: RingWriter, wake_fd: int, progress: ProgressWaiter | None, stages: Stages) -> None:
        self._writer = writer
        self._wake_fd = wake_fd
        self._progress = progress
        self._stages = stages

    def begin(self) -> U8:
        if self._progress:
            self._progress.wait_for(self._writer.head - self._writer.slots + 2)
        return self._writer.begin()

    def settle(self) -> None:
        """Wait until all has been read."""
        if self._progress:
            self._progress.wait_for(self._writer.head)

    def commit(self, chunk: ChunkMeta) -> int:
        with self._stages("ring"):
            number = self._writer.commit(chunk)
            # Full: the reader has enough bytes to wake up. Broken: it is being restarted. Capture waits for neither.
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._wake_fd, b"\1")
        return number


class _StillWatch:
    """The ring, with an eye on whether the pictures that go into it are new ones: sampled frames only, so that a flood
    of frames costs no more."""

    def __init__(self, ring: _WakingRing, status: StreamStatus, frozen_s: float) -> None:
        self._ring = ring
        self._status = status
        self._frozen_s = frozen_s
        self._stillness = Stillness()
        self._place: U8 | None = None
        self._is_still = False

    def begin(self) -> U8:
        self._place = self._ring.begin()
        return self._place

    def commit(self, chunk: ChunkMeta) -> int:
        assert self._place is not None  # begun before
        for picture in self._place:
            still_s = self._stillness.offer(picture, chunk.captured_ns)
        was_still, self._is_still = self._is_still, still_s > self._frozen_s
        if was_still or self._is_still:
            self._status.still(still_s if self._is_still else None)
        return self._ring.commit(chunk)


def main(job: CaptureJob, stop: Stop) -> int:
    """Read one stream until its end (exit code 3) or the request to stop (0)."""
    from streamclf.producer.link import EventProducer

    if job.source.url is not None:
        register_url(job.source.url)
    if job.source.push_secret:
        register_secret(job.source.push_secret)
    done = threading.Event()
    link = EventProducer(job.link, f"capture-{job.stream}")
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
