"""Run the capture process of one stream (`python -m streamclf.capture`): source -> sampling -> ring, and statuses."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from engines.arrays import U8
from streamclf.capture.decode_choice import DecodeChoice
from streamclf.capture.freshness import FrameRateLimit, StaleFrameFilter
from streamclf.capture.frozen import FrozenDetector
from streamclf.capture.preview import Previewer, PreviewProducer
from streamclf.capture.status_reporter import StatusProducer, StatusReporter
from streamclf.capture.view import ViewSet
from streamclf.errors import SourceError, SourceRefusedError, SourceWaitingError
from streamclf.net.backoff import Backoff
from streamclf.producer.link_protocol import CAPTURE_PREFIX
from streamclf.redact import register_secret, register_url
from streamclf.runtime.capture_job import CaptureChange, CaptureJob
from streamclf.runtime.child import EXIT_DONE, EXIT_ENDED, EXIT_FAILED, ChildControl
from streamclf.runtime.control_channel import ControlMessage
from streamclf.runtime.liveness import Liveness
from streamclf.runtime.plain_messages import decode_message
from streamclf.runtime.profiling import open_stages
from streamclf.sources import Source, open_source
from streamclf.sources.card_use import pictures_scaled
from streamclf.windows.sampling import ChunkMeta

if TYPE_CHECKING:
    from streamclf.capture.clip_feed import ClipFeed

log = logging.getLogger(__name__)

GOOD_CONNECTION_S = 5.0
"""After a connection that lasted this long, the first new attempt follows at once."""
BLOCKED_READ_S = 0.7
"""After a stop request, the time in which a blocked read may end by itself."""
CONNECTING_MARGIN_S = 15.0
"""Added to twice the time-outs, which FFmpeg may need: resolving a host name has no time-out."""
READING_MARGIN_S = 1.0
"""Added to twice the time-out: a read returns within that time, and the loop extends its deadline after each read."""
CLIP_LINGER_S = 1.5
"""After the end of a file, the time in which the start of its last action may still be reported."""
CLIP_STOP_S = 0.4
"""After a stop request, longest time to complete a clip. The next process of the stream completes it otherwise."""
CLIP_END_S = 5.0
MAX_PAUSE_S = 60.0
"""Files have no time-outs, and a disk may be at the other end of a network; playlists grow only every few seconds."""


class ChangeSource(Protocol):
    """The part of `streamclf.runtime.child.ChildControl` from which changes come."""

    @property
    def has_changes(self) -> bool:
        """Whether a change waits."""

    def pop_changes(self) -> list[ControlMessage]:
        """Return the changes that have arrived since the last call, oldest first."""


class CaptureProducer(StatusProducer, PreviewProducer, Protocol):
    """The part of `streamclf.producer.link.EventProducer` that capture needs."""


class Capture:
    """Read one stream until it ends or a stop is requested, and report its state."""

    def __init__(
        self,
        job: CaptureJob,
        producer: CaptureProducer,
        stop: threading.Event,
        liveness: Liveness | None = None,
        clips: ClipFeed | None = None,
        changes: ChangeSource | None = None,
    ) -> None:
        """Open the views of `job`. Later ones come with `changes`."""
        self._job = job
        self._changes = changes
        self._clips = clips
        self._stop = stop
        self._liveness = liveness or Liveness()
        self._previews = Previewer(producer, job.stream, job.picture)
        self._frozen_detector = FrozenDetector()
        self._stages = open_stages(f"capture-{job.stream}")
        self._views = ViewSet(
            job.views,
            job.stream,
            stop,
            self._stages,
            self._detect_frozen,
            wants_pixels=bool(job.source.frozen_after_s),
        )
        if clips is not None:
            clips.areas = self._views.areas
        # Any time may pass between two frames of a file, so silence is a stall only for live sources.
        self._status = StatusReporter(
            job.stream,
            producer,
            self._counters,
            silence_is_stall=not job.source.ends,
        )
        self._decode = DecodeChoice(job.source.decode, job.stream, job.picture, self._views, self._shows_pictures)
        self._is_frozen = self._has_warned = False
        self._backoff = Backoff()

    def run(self) -> int:
        """Return the process's exit code. Raises `SourceError` for a file that cannot be played, now or ever."""
        with self._status:
            while not self._stop.is_set():
                self._apply_changes()
                began_s, refused = time.monotonic(), False
                try:
                    if self._play():
                        return EXIT_ENDED
                except SourceError as error:
                    if self._job.source.ends:
                        self._status.on_end(str(error))
                        raise
                    if self._stop.is_set():  # the error is that of the stop
                        break
                    self._status.on_fault(str(error))
                    refused = isinstance(error, SourceRefusedError)
                    if isinstance(error, SourceWaitingError):
                        self._backoff.reset()
                if time.monotonic() - began_s > GOOD_CONNECTION_S:
                    self._backoff.reset()
                self._stop.wait(self._backoff.next_s(refused=refused))
                self._status.count(reconnects=1)
        return EXIT_DONE

    def _play(self) -> bool:
        """Open the source once and read it. Returns whether it came to its end."""
        config = self._job.source
        reading_s = MAX_PAUSE_S if config.ends else 2 * config.read_timeout_s + READING_MARGIN_S
        connecting_s = reading_s + 2 * config.open_timeout_s + CONNECTING_MARGIN_S
        self._liveness.enter_phase("connecting", connecting_s)
        with open_source(config, stop=self._stop) as source:
            if source.may_pause:
                reading_s = MAX_PAUSE_S
            self._liveness.enter_phase("reading", reading_s)
            try:
                self._read(source)
            finally:
                self._liveness.enter_phase("connecting", connecting_s)  # closing the connection may take as long
            if self._stop.is_set():
                return False
            if source.live:
                raise SourceError(f"{self._job.stream}: the stream ended; a live source does not")
        for view in self._views:
            view.wait_until_read()
        self._status.on_end("end of the file", finished=True)
        if self._clips is not None:
            self._stop.wait(CLIP_LINGER_S)
        return True

    def _read(self, source: Source) -> None:
        for view in self._views:
            view.connect()
        source.set_frame_selector(_PreviewOrViews(self._views, self._previews))
        self._decode.connect(source)
        if self._clips is not None:
            self._clips.connect(source)
        self._status.on_connect(source)
        stale_filter = StaleFrameFilter(source.max_stale_s)
        rate_limit = FrameRateLimit(self._stop) if source.live else None
        try:
            for frame in self._stages.through("decode", source):
                self._apply_changes()
                if rate_limit and rate_limit.wait_if_over(frame.captured_ns):
                    self._status.count(held=1)
                if not stale_filter.passes(frame):
                    self._status.count(dropped_stale=1)
                    continue
                self._status.on_frame(frame, source)
                self._decode.update(frame, source)
                if self._clips is not None:
                    self._clips.add_frame(frame)
                for view in self._views:
                    view.add(frame)
                self._status.set_view_fault(self._views.fault)
                self._previews.update(frame)
                if frame.discontinuity:
                    self._warn(source)
        finally:
            if self._clips is not None:
                self._clips.disconnect()
            self._warn(source)
            self._status.on_disconnect(source)

    def _warn(self, source: Source) -> None:
        """Log a film's fault, once however often the film is played."""
        if source.warning is not None and not self._has_warned:
            self._has_warned = True
            log.warning("%s", source.warning)

    def _apply_changes(self) -> None:
        """Apply the changes that the supervisor has sent. The source stays open."""
        if self._changes is None or not self._changes.has_changes:
            return
        for message in self._changes.pop_changes():
            change = decode_message(CaptureChange, message.body)
            self._views.apply(change, message.fds)
            self._decode.mode = change.decode or self._decode.mode

    def _shows_pictures(self) -> bool:
        """Return whether people may see pictures of this process: a preview now, or later those in a film."""
        return self._previews.wanted or (self._clips is not None and self._clips.takes_pictures)

    def _counters(self) -> dict[str, int]:
        counters = self._views.counters
        if "gpu_chunks" in counters:
            counters["gpu_pictures"] = pictures_scaled()
        return counters | (self._clips.counters if self._clips else {})

    def _detect_frozen(self, chunk: ChunkMeta, pixels: U8) -> None:
        """Check the sampled frames of one view only, so that a higher frame rate or another view costs no more."""
        if not self._job.source.frozen_after_s:
            return
        for frame in pixels:
            frozen_s = self._frozen_detector.update(frame, chunk.captured_ns)
        was_frozen, self._is_frozen = self._is_frozen, frozen_s > self._job.source.frozen_after_s
        if was_frozen or self._is_frozen:
            self._status.set_frozen(frozen_s if self._is_frozen else None)


class _PreviewOrViews:
    """Select the frames that a view may need, and all frames while somebody watches the preview.

    A preview needs every frame, because the time of the next preview is not known in advance.
    """

    def __init__(self, views: ViewSet, previews: Previewer) -> None:
        self._views = views
        self._previews = previews

    def may_need(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        return self._previews.wanted or self._views.may_need(before_ns, at_ns, after_ns, longest_ns)

    def may_need_previous(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        return self._views.may_need_previous(before_ns, at_ns, shortest_ns)


def main(job: CaptureJob, control: ChildControl) -> int:
    """Read one stream until it ends (exit code 3), cannot be played (1), or a stop is requested (0)."""
    from streamclf.producer.link import EventProducer

    if job.source.url is not None:
        register_url(job.source.url)
    if job.source.push_secret:
        register_secret(job.source.push_secret)
    done = threading.Event()
    clips: ClipFeed | None = None
    if job.clips is not None or job.examples is not None:
        # 20 MB, with pydantic, that a stream without films does not need.
        from streamclf.capture.clip_feed import ClipFeed
        from streamclf.config.clips import ClipsConfig
        from streamclf.config.examples import ExamplesConfig

        clips = ClipFeed(
            job.stream,
            None if job.clips is None else ClipsConfig.model_validate(job.clips),
            lambda draft: producer.post(draft),
            None if job.examples is None else ExamplesConfig.model_validate(job.examples),
            lambda request_id, result: producer.post_saved(request_id, result.model_dump_json().encode()),
            job.picture,
        )
    producer = EventProducer(
        job.link,
        f"{CAPTURE_PREFIX}{job.stream}",
        on_action=None if clips is None else clips.add_action,
        on_save=None if clips is None else clips.save_example,
    )
    if clips is not None:
        clips.start()
    threading.Thread(
        target=_exit_if_blocked, args=(control.stop_event, done, producer.close), name="leave", daemon=True
    ).start()
    try:
        return Capture(job, producer, control.stop_event, control.liveness, clips, control).run()
    except SourceError as error:
        log.debug("%s", error)  # the stream's last status has the reason, and the hub logs it
        return EXIT_FAILED
    finally:
        done.set()
        if clips is not None:
            clips.close(CLIP_STOP_S if control.stop_event.is_set() else CLIP_END_S)
        producer.close(0.5 if control.stop_event.is_set() else 2.0)


def _exit_if_blocked(stop: threading.Event, done: threading.Event, close: Callable[[float], object]) -> None:
    """Exit the process if a read blocks for longer than a stop may take. An interrupted read loses no data of ours."""
    stop.wait()
    if not done.wait(BLOCKED_READ_S):
        close(0.2)
        os._exit(EXIT_DONE)
