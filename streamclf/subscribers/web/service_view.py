"""Follow a service in one thread: its events, the state of each stream, and the pictures that somebody watches.

Browsers are served in an event loop. The thread changes the state under a lock, and wakes the loop after changes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from streamclf.client.stream_views import ServiceView, StreamState
from streamclf.client.subscription import Subscription
from streamclf.errors import BusError
from streamclf.events.types import Clip, Heartbeat, Lost, Prediction, Received, Status, StreamEvent
from streamclf.events.views import view_of
from streamclf.net.curve_client import ServiceAddress
from streamclf.subscribers.outlet_run import OutletRun
from streamclf.subscribers.web.preview_interest import PreviewInterest

SNAPSHOT_S: Final = 2.0
_IDLE_POLL_S: Final = 0.2
_WATCHED_POLL_S: Final = 0.02
"""Pictures are handed on after this time at most: the wait for an event does not end when a picture arrives."""
_RETRY_S: Final = (1.0, 30.0)
"""First and longest wait after a snapshot that the service did not answer."""
_JOIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Picture:
    """The latest preview of a stream: JPEG bytes, and a number that grows with each picture of any stream."""

    jpeg: bytes
    number: int
    received_at_s: float


class LiveService:
    """The present state of one service. Methods may be called in any thread, and none of them waits for the service."""

    def __init__(self, run: OutletRun, streams: Collection[str] | None) -> None:
        self._run = run
        self._streams = None if streams is None else frozenset(streams)
        self._view = ServiceView()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._listeners: dict[int, Callable[[Received], None]] = {}
        self._wakers: dict[int, Callable[[], None]] = {}
        self._tokens = 0
        self._pictures: dict[str, Picture] = {}
        self._numbers: dict[str, int] = {}
        self._change = 0
        self._snapshot_due_s = 0.0
        self._snapshot_wait_s = _RETRY_S[0]
        self._away_since: datetime | None = datetime.now(timezone.utc)
        self._received_at = datetime.now(timezone.utc)
        self._needs_snapshot = True
        self.interest = PreviewInterest()
        self.began = datetime.now(timezone.utc)
        self._thread = threading.Thread(target=self._follow, name="page-service", daemon=True)
        self.failure: BaseException | None = None
        """The error that ended the thread."""

    def __enter__(self) -> LiveService:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_JOIN_S)

    def shows(self, stream: str) -> bool:
        """Return whether the page was asked to show a stream (`streams`)."""
        return self._streams is None or stream in self._streams

    @property
    def address(self) -> ServiceAddress:
        """The address of the service, with the keys for it."""
        return self._run.address

    @property
    def endpoint(self) -> str:
        """The address of the service's events."""
        return self._run.address.endpoint

    @property
    def away_since(self) -> datetime | None:
        """When the last message of a service that is silent now arrived; None while it is there."""
        return self._away_since

    @property
    def heartbeat(self) -> Heartbeat | None:
        """The latest heartbeat."""
        return self._view.heartbeat

    @property
    def journal_fault(self) -> str | None:
        """The latest fault of the journal, as heartbeats show it."""
        return self._view.journal_fault

    def names(self) -> list[str]:
        """Return the streams that the page shows: those of the service's configuration, in its order.

        A service without a configuration lists none; its streams are those that have sent events.
        """
        heartbeat = self._view.heartbeat
        with self._lock:
            known = sorted(self._view.streams)
        names = known if heartbeat is None or heartbeat.streams is None else list(heartbeat.streams)
        return [name for name in names if self._streams is None or name in self._streams]

    def display_names(self) -> dict[str, str]:
        """Return the name for people of each stream that has one."""
        with self._lock:
            statuses = [(name, view.status) for name, view in self._view.streams.items()]
        return {name: status.name for name, status in statuses if status is not None and status.name is not None}

    def read(self, name: str, use: Callable[[StreamState], Any]) -> Any:
        """Return `use(view)` of one stream's view, which does not change meanwhile; None for an unknown stream."""
        with self._lock:
            view = self._view.streams.get(name)
            return None if view is None else use(view)

    def changes_since(self, number: int) -> tuple[int, list[str]]:
        """Return the present number of changes, and the streams that have changed since `number`."""
        with self._lock:
            return self._change, [name for name, changed in self._numbers.items() if changed > number]

    def change_of(self, name: str) -> int:
        """Return the number of a stream's last change; 0 for none."""
        return self._numbers.get(name, 0)

    def picture(self, name: str) -> Picture | None:
        """Return the latest picture of a stream that somebody watches or watched."""
        return self._pictures.get(name)

    def add_listener(self, listener: Callable[[Received], None]) -> Callable[[], None]:
        """Call `listener` in the thread for each event from now on; return a function that ends this."""
        return self._add(self._listeners, listener)

    def add_waker(self, waker: Callable[[], None]) -> Callable[[], None]:
        """Call `waker` in the thread after changes and new pictures; return a function that ends this."""
        return self._add(self._wakers, waker)

    def _add(self, known: dict[int, Any], function: Any) -> Callable[[], None]:
        with self._lock:
            self._tokens += 1
            token = self._tokens
            known[token] = function

        def remove() -> None:
            with self._lock:
                known.pop(token, None)

        return remove

    def _follow(self) -> None:
        try:
            with self._run.subscribe(streams=self._streams, types=None, after=None) as events:
                while not self._stop.is_set():
                    self._receive(events)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.failure = error
            self._run.stop.request()

    def _receive(self, events: Subscription) -> None:
        events.watch_only(self.interest.choose(self.names(), time.monotonic()))
        end_s = time.monotonic() + (_WATCHED_POLL_S if self.interest.is_watched else _IDLE_POLL_S)
        has_news = False
        while (remaining_s := end_s - time.monotonic()) > 0 and not self._stop.is_set():
            event = events.receive(remaining_s)
            if event is not None:
                self._apply(event)
                has_news = True
        for name, jpeg in events.previews.items():
            self._add_picture(name, jpeg)
            has_news = True
        if self._needs_snapshot and self._away_since is None and time.monotonic() >= self._snapshot_due_s:
            self._take_snapshot(events)
            has_news = True
        if self._check_silence() or has_news:
            with self._lock:
                wakers = list(self._wakers.values())
            for wake in wakers:
                wake()

    def _apply(self, event: Received) -> None:
        now_s = time.monotonic()
        self._received_at = datetime.now(timezone.utc)
        with self._lock:
            self._change += 1
            self._view.apply(event, now_s)
            if not isinstance(event, Heartbeat | Lost):
                self._numbers[event.stream] = self._change
            listeners = list(self._listeners.values())
        for listener in listeners:
            listener(event)

    def _take_snapshot(self, events: Subscription) -> None:
        """Fetch the last events of each stream: a stream that is offline sends none for hours."""
        try:
            snapshot = events.snapshot(SNAPSHOT_S)
        except BusError:
            self._snapshot_due_s = time.monotonic() + self._snapshot_wait_s
            self._snapshot_wait_s = min(_RETRY_S[1], 2 * self._snapshot_wait_s)
            return
        self._needs_snapshot, self._snapshot_wait_s = False, _RETRY_S[0]
        now_s, now = time.monotonic(), datetime.now(timezone.utc)
        with self._lock:
            self._change += 1
            for event in snapshot.events:
                if (self._streams is None or event.stream in self._streams) and self._is_news(event):
                    age_s = max(0.0, (now - event.time).total_seconds())
                    self._view.apply(event, now_s - age_s)
                    self._numbers[event.stream] = self._change

    def _is_news(self, event: StreamEvent) -> bool:
        if isinstance(event, Clip):
            return False  # the history has it
        view = self._view.streams.get(event.stream)
        if view is None:
            return True
        known: StreamEvent | None = view.status
        if not isinstance(event, Status):
            part = view.views.get(view_of(event))
            known = None if part is None else part.prediction if isinstance(event, Prediction) else part.action
        if known is None or known.epoch != event.epoch:
            return True
        return event.offset is not None and known.offset is not None and event.offset > known.offset

    def _add_picture(self, name: str, jpeg: bytes) -> None:
        if jpeg[:3] != b"\xff\xd8\xff" or (self._streams is not None and name not in self._streams):
            return
        if name not in self._view.streams and name not in self.names():
            return
        now_s = time.monotonic()
        self.interest.note_picture(name, now_s)
        self._pictures[name] = Picture(jpeg, self._pictures[name].number + 1 if name in self._pictures else 1, now_s)

    def _check_silence(self) -> bool:
        """Record whether the service is silent; return whether this has changed."""
        is_silent = self._view.is_silent(time.monotonic())
        if is_silent == (self._away_since is not None):
            return False
        if is_silent:
            self._away_since = self._received_at
            self._needs_snapshot = True
            self._run.report.waiting("the service is silent")
            self._run.report.notice(f"waiting for a service at {self.endpoint}")
        else:
            self._away_since = None
            self._run.report.running()
            self._run.report.notice(f"connected to {self.endpoint}")
        with contextlib.suppress(RuntimeError), self._lock:
            self._change += 1
        return True
