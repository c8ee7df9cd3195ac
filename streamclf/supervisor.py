"""Starts, watches, restarts and stops the processes of one service."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from engines.bundle import Bundle
from streamclf.child import EXIT_DONE, EXIT_ENDED, EXIT_FAILED
from streamclf.config import ServiceConfig
from streamclf.feed import ring_slots
from streamclf.jobs import CaptureJob, ClassifierJob, HubJob, StreamFeed
from streamclf.link import Draft, HubLink
from streamclf.process import Child
from streamclf.ring import create_ring

READY_TIMEOUT_S = 60.0
"""Compiling an engine for the first time may take long; opening sockets and a journal never does."""
CAPTURE_STOP_S = 0.6
CLASSIFIER_STOP_S = 0.6
HUB_STOP_S = 0.6
"""Captures end first, then the classifier with what they left, then the hub with all its events: 2 s in all."""

HUB, CLASSIFIER = "hub", "classifier"

log = logging.getLogger("service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a service that is up tells whoever started it."""

    events: str
    replay: str
    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Notice:
    what: Literal["exit", "line", "stop"]
    child: str = ""
    code: int = 0
    line: bytes = b""


class Supervisor:
    """One service: a hub, a classifier and a capture process for each stream.

    `run` blocks until every stream has ended, `request_stop` is called, or something cannot be mended.
    """

    def __init__(
        self, config: ServiceConfig, bundle: Bundle, *, on_ready: Callable[[Ready], None] | None = None
    ) -> None:
        self._config = config
        self._bundle = bundle
        self._on_ready = on_ready
        # SimpleQueue alone may be put to from a signal handler.
        self._notices: queue.SimpleQueue[_Notice] = queue.SimpleQueue()
        self._children: dict[str, Child] = {}
        self._streams: dict[str, str] = {}
        self._restarts: dict[str, float] = {}
        self._ready: dict[str, dict[str, str]] = {}
        self._finished: dict[str, int] = {}
        self._fds: list[int] = []
        self._link: HubLink | None = None

    def request_stop(self) -> None:
        """Ask `run` to end everything; safe from signal handlers and other threads."""
        self._notices.put(_Notice(what="stop"))

    def run(self, seconds: float | None = None) -> int:
        """Serve until the end, for at most `seconds`; the process's exit code."""
        runtime = Path(tempfile.mkdtemp(prefix="streamclf-"))  # mode 0700: the link's socket is ours alone
        began = time.monotonic()
        try:
            self._prepare(f"ipc://{runtime}/link")
            for child in self._children.values():
                child.start()
            self._link = HubLink(f"ipc://{runtime}/link", "supervisor")
            return self._serve(began, seconds)
        finally:
            if self._link:
                self._link.close(0.0)
            self._stop_children()
            for fd in self._fds:
                os.close(fd)
            shutil.rmtree(runtime, ignore_errors=True)

    def _prepare(self, link: str) -> None:
        spec, publish = self._bundle.spec, self._config.publish
        feeds: list[StreamFeed] = []
        captures: list[Child] = []
        for stream, source in self._config.streams.items():
            ring_fd = create_ring(ring_slots(spec), spec.token_shape)
            self._fds.append(ring_fd)
            wake_read, wake_write = self._pipe()
            # A file read as fast as possible waits for the classifier; everything else has a clock that does not.
            progress_read, progress_write = self._pipe() if source.pace == "fast" else (None, None)
            feeds.append(
                StreamFeed(
                    stream=stream, ring_fd=ring_fd, wake_fd=wake_read, progress_fd=progress_write, hop=source.hop
                )
            )
            job = CaptureJob(
                link=link,
                stream=stream,
                source=source,
                fps=spec.fps,
                frames_per_token=spec.frames_per_token,
                height=spec.height,
                width=spec.width,
                resize=spec.resize,
                ring_fd=ring_fd,
                wake_fd=wake_write,
                progress_fd=progress_read,
            )
            name = f"capture[{stream}]"
            self._streams[name] = stream
            fds = _given(ring_fd, wake_write, progress_read)
            captures.append(Child(name, "streamclf.capture", job, self._exited, pass_fds=fds))
        hub = HubJob(
            link=link,
            events=publish.events,
            replay=publish.replay,
            journal=publish.journal,
            keep_s=publish.keep_s,
            keep_bytes=publish.keep_bytes,
            keys=publish.keys,
            allow=publish.allow,
        )
        classifier = ClassifierJob(
            link=link,
            bundle=self._bundle.path,
            engine=self._config.engine,
            feeds=tuple(feeds),
            actions={name: self._config.actions_of(name) for name in self._config.streams},
        )
        feed_fds = _given(*(fd for feed in feeds for fd in (feed.ring_fd, feed.wake_fd, feed.progress_fd)))
        children = [
            Child(HUB, "streamclf.hub", hub, self._exited, self._said),
            Child(CLASSIFIER, "streamclf.classifier", classifier, self._exited, self._said, feed_fds),
            *captures,
        ]
        self._children = {child.name: child for child in children}

    def _pipe(self) -> tuple[int, int]:
        """(read end, write end), neither of which ever blocks; closed when the service ends."""
        ends = os.pipe()
        self._fds += ends
        for fd in ends:
            os.set_blocking(fd, False)
        return ends

    def _serve(self, began: float, seconds: float | None) -> int:
        end = None if seconds is None else began + seconds
        ready_by = began + READY_TIMEOUT_S
        while True:
            now = time.monotonic()
            if end is not None and now >= end:
                return EXIT_DONE
            if self._ready.keys() != {HUB, CLASSIFIER} and now >= ready_by:
                missing = ", ".join({HUB, CLASSIFIER} - self._ready.keys())
                log.error("%s: not ready after %.0f s; see its messages above", missing, READY_TIMEOUT_S)
                return EXIT_FAILED
            for name in [name for name, due in self._restarts.items() if due <= now]:
                del self._restarts[name]
                self._children[name].start()
            deadlines = [*self._restarts.values(), *([end] if end is not None else [])]
            if self._ready.keys() != {HUB, CLASSIFIER}:
                deadlines.append(ready_by)
            try:
                notice = self._notices.get(timeout=max(0.0, min(deadlines) - now) if deadlines else None)
            except queue.Empty:
                continue
            code = self._handle(notice)
            if code is not None:
                return code

    def _handle(self, notice: _Notice) -> int | None:
        """The exit code when the service is to end."""
        if notice.what == "stop":
            return EXIT_DONE
        if notice.what == "line":
            self._note_ready(notice)
            return None
        return self._note_exit(notice.child, notice.code)

    def _note_ready(self, notice: _Notice) -> None:
        first = notice.child not in self._ready
        said = self._ready[notice.child] = orjson.loads(notice.line)
        if notice.child == HUB:
            # A port that the system chose must be the same one after a restart, or every subscriber is lost.
            hub = self._children[HUB]
            hub.job = hub.job.model_copy(update=said)
        if first and self._ready.keys() == {HUB, CLASSIFIER} and self._on_ready:
            self._on_ready(
                Ready(
                    events=self._ready[HUB]["events"],
                    replay=self._ready[HUB]["replay"],
                    engine=self._ready[CLASSIFIER]["engine"],
                )
            )

    def _note_exit(self, name: str, code: int) -> int | None:
        child = self._children[name]
        if name in self._streams and code in (EXIT_DONE, EXIT_ENDED, EXIT_FAILED):
            self._finished[name] = code
            return self._all_finished()
        if code == EXIT_FAILED and name not in self._ready and name not in self._streams:
            return EXIT_FAILED  # its one-line error stands in the log; there is nothing to go on with
        delay = child.note_crash()
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        if delay is None:
            log.error("%s: ended again (%s), %d times within a minute: given up", name, reason, len(child.crashes))
            if name not in self._streams:
                return EXIT_FAILED
            self._report(name, f"capture process ended {len(child.crashes)} times within a minute ({reason}): given up")
            self._finished[name] = EXIT_FAILED
            return self._all_finished()
        if name == CLASSIFIER:
            child.job = child.job.model_copy(update={"resumed": True})
        log.warning("%s: ended (%s); starting it again in %.1f s", name, reason, delay)
        self._report(name, f"capture process ended ({reason}); starting it again in {delay:.1f} s")
        self._restarts[name] = time.monotonic() + delay
        return None

    def _report(self, name: str, reason: str) -> None:
        """A capture process that died cannot say so itself."""
        if self._link and name in self._streams:
            body = {"state": "offline", "reason": reason}
            self._link.post(Draft(type="status", stream=self._streams[name], body=body))

    def _all_finished(self) -> int | None:
        if self._finished.keys() != self._streams.keys():
            return None
        return EXIT_FAILED if all(code == EXIT_FAILED for code in self._finished.values()) else EXIT_DONE

    def _stop_children(self) -> None:
        stages = [(list(self._streams), CAPTURE_STOP_S), ([CLASSIFIER], CLASSIFIER_STOP_S), ([HUB], HUB_STOP_S)]
        for names, seconds in stages:
            children = [self._children[name] for name in names if name in self._children]
            for child in children:
                child.ask_to_stop()
            deadline = time.monotonic() + seconds
            for child in children:
                child.join(deadline)

    def _exited(self, name: str, code: int) -> None:
        self._notices.put(_Notice(what="exit", child=name, code=code))

    def _said(self, name: str, line: bytes) -> None:
        self._notices.put(_Notice(what="line", child=name, line=line))


def _given(*fds: int | None) -> list[int]:
    return [fd for fd in fds if fd is not None]
