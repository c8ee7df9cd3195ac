"""Read a service's actions and clips into the history, by replay, in a thread of its own.

A journal may hold tens of millions of predictions. So the thread requests actions, clips and statuses only. It follows
the newest events first, and reads older ones backwards, a limited stretch at a time, until the history is full.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from datetime import datetime, timezone
from types import TracebackType
from typing import Final

import zmq

from streamclf.client.replay import Page, ReplayClient
from streamclf.clips.film_info import FilmInfo, read_film_info
from streamclf.clips.folder import ClipFolder, StoredClip
from streamclf.errors import BusError, ClipError, JournalError
from streamclf.events.positions import Position
from streamclf.events.types import Action, Clip, Heartbeat, Received, StreamEvent
from streamclf.net.curve_client import ServiceAddress
from streamclf.net.endpoints import reachable_endpoint
from streamclf.subscribers.web.history.records import ClipRecord
from streamclf.subscribers.web.history.store import MAX_ACTIONS, History

log = logging.getLogger(__name__)

STRETCH: Final = 20_000
"""Offsets that are read at once, which is what the service scans for one reply."""
MAX_STRETCHES: Final = 1_000
"""Stretches that are read backwards after one start: 20 million events of all types."""
STATUS_STRETCHES: Final = 10
"""Stretches whose statuses are read, too: the page shows the latest changes of state only."""
MAX_ADOPTED: Final = 10_000
_MAX_LIVE: Final = 1_000
_REPLY_S: Final = 0.5
_POLL_S: Final = 1.0
_REST: Final = 3.0
"""After a stretch, rest for this many times as long as the service needed, so that it has time for others."""
_MIN_REST_S: Final = 0.02
_FAULT_S: Final = 5.0
_CLOSE_S: Final = 5.0


class HistoryFollower:
    """Fill a history. `notice` gets every event that arrives; it never blocks."""

    def __init__(self, address: ServiceAddress, history: History, folder: ClipFolder | None = None) -> None:
        """Read the streams of `history` from the service at `address`, and the starred clips from `folder`."""
        self._address, self._history, self._folder = address, history, folder
        self._wake, self._done = threading.Event(), threading.Event()
        self._heartbeat: Heartbeat | None = None
        self._live: deque[StreamEvent] = deque(maxlen=_MAX_LIVE)
        """Events that have arrived live. Replay brings them again, all but those that the journal does not have."""
        self._position: Position | None = None
        """Everything after the start of the thread up to here has been read."""
        self._holes: list[tuple[int, int]] = []
        """Ranges of older offsets that are still to be read, newest first."""
        self._stretches = 0
        self._rest_until_s = 0.0
        self.fault = ""
        """Why the history cannot be written now; empty if it can."""
        self._clients: dict[bool, ReplayClient] = {}
        self._context = zmq.Context(io_threads=1)
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def __enter__(self) -> HistoryFollower:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._done.set()
        self._wake.set()
        self._thread.join(_CLOSE_S)

    @property
    def is_loading(self) -> bool:
        """Whether older events are still being read."""
        return self._position is None or bool(self._holes)

    def notice(self, event: Received) -> None:
        """Note a live event: heartbeats show where to read, actions and clips show when."""
        if isinstance(event, Heartbeat):
            self._heartbeat = event
            self._wake.set()
        elif isinstance(event, Action | Clip):
            self._live.append(event)
            self._wake.set()

    def _run(self) -> None:
        try:
            self._adopt_starred()
            while not self._done.is_set():
                self._wait()
                try:
                    self._read()
                    self.fault = ""
                except (JournalError, BusError) as error:
                    if not self.fault:
                        log.error("%s", error)
                    self.fault = str(error)
                    self._done.wait(_FAULT_S)
                except Exception:  # the page continues, and reports that its list is not complete
                    log.exception("reading events")
                    self.fault = "a bug; the log has the details"
                    self._done.wait(_FAULT_S)
        finally:
            for client in self._clients.values():
                client.close()
            self._context.term()

    def _wait(self) -> None:
        """Wait until an event was noticed, or it is time to read older ones."""
        wait_s = _POLL_S
        if self._position is not None and self._holes:
            wait_s = min(wait_s, max(0.0, self._rest_until_s - time.monotonic()))
        self._wake.wait(wait_s)
        self._wake.clear()

    def _read(self) -> None:
        while self._live:
            self._history.add([self._live[0]])
            self._live.popleft()
        heartbeat = self._heartbeat
        if heartbeat is None or self._done.is_set():
            return
        if self._position is None or self._position.epoch != heartbeat.epoch:
            self._begin(heartbeat)
        self._follow(heartbeat)
        if self._holes and time.monotonic() >= self._rest_until_s:
            began_s = time.monotonic()
            self._read_stretch(heartbeat)
            now_s = time.monotonic()
            self._rest_until_s = now_s + max(_MIN_REST_S, _REST * (now_s - began_s))

    def _begin(self, heartbeat: Heartbeat) -> None:
        """Begin with the newest event of a journal; all that is older is read backwards."""
        self._history.set_epoch(heartbeat.epoch)
        self._position = Position(heartbeat.epoch, heartbeat.head)
        self._stretches = 0
        self._add_hole(heartbeat.epoch, max(1, heartbeat.oldest), heartbeat.head)

    def _add_hole(self, epoch: str, first: int, last: int) -> None:
        self._holes = [*self._history.uncovered(epoch, first, last), *self._holes]

    def _follow(self, heartbeat: Heartbeat) -> None:
        """Read the events after the position, up to the present."""
        assert self._position is not None
        if heartbeat.head - self._position.offset > 2 * STRETCH:  # after a long time without a connection
            self._add_hole(heartbeat.epoch, self._position.offset + 1, heartbeat.head)
            self._position = Position(heartbeat.epoch, heartbeat.head)
        while not self._done.is_set():
            page = self._fetch(heartbeat, self._position, with_statuses=True)
            if page is None or page.epoch != self._position.epoch:
                return
            if page.upto > self._position.offset:
                self._history.add(page.events, (page.epoch, self._position.offset + 1, page.upto))
                self._position = Position(page.epoch, page.upto)
            if page.upto >= page.head:
                return

    def _read_stretch(self, heartbeat: Heartbeat) -> None:
        """Read the newest stretch of the older events, in order."""
        if self._stretches >= MAX_STRETCHES or self._history.count >= MAX_ACTIONS:
            self._holes = []
            return
        first, last = self._holes[0]
        begin = max(first, last - STRETCH + 1)
        after = begin - 1
        with_statuses = self._stretches < STATUS_STRETCHES
        while after < last and not self._done.is_set():
            page = self._fetch(heartbeat, Position(heartbeat.epoch, after), with_statuses=with_statuses)
            if page is None or page.epoch != heartbeat.epoch:
                return  # the next call tries again
            upto = min(page.upto, last)
            events = [event for event in page.events if event.offset is not None and event.offset <= last]
            self._history.add(events, (page.epoch, after + 1, upto))
            after = upto
        self._stretches += 1
        self._holes[:1] = [(first, begin - 1)] if begin > first else []

    def _fetch(self, heartbeat: Heartbeat, after: Position, *, with_statuses: bool) -> Page | None:
        endpoint = reachable_endpoint(heartbeat.replay, self._address.endpoint)
        client = self._clients.get(with_statuses)
        if client is None or client.endpoint != endpoint:
            if client is not None:
                client.close()
            types = ("action", "clip", "status") if with_statuses else ("action", "clip")
            client = ReplayClient(self._context, endpoint, self._history.streams or (), self._address, types)
            self._clients[with_statuses] = client
        return client.fetch_page(after, _REPLY_S)

    def _info_of(self, clip: StoredClip) -> FilmInfo | None:
        assert self._folder is not None
        with contextlib.suppress(ClipError), self._folder.open(clip.name.film) as film:
            return read_film_info(film)
        return None

    def _adopt_starred(self) -> None:
        """Add the starred clips of the folder: they outlive the journal."""
        if self._folder is None:
            return
        try:
            starred = [clip for clip in self._folder.newest() if clip.is_starred][:MAX_ADOPTED]
            for clip in starred:
                self._history.adopt(_record(clip, self._info_of(clip)))
        except (ClipError, JournalError) as error:
            log.warning("starred clips: %s", error)


def _record(clip: StoredClip, info: FilmInfo | None) -> ClipRecord:
    """Describe a clip by the metadata of its film; without them by its name and its files alone."""
    name = clip.name
    try:
        began = datetime.strptime(f"{name.day} {name.stem[:10]}+0000", "%Y-%m-%d %H%M%S-%f%z")
    except ValueError:  # a name like a clip's that is no time
        began = datetime.fromtimestamp(clip.modified_s, timezone.utc)
    return ClipRecord(
        offset=None,
        stream=name.stream,
        label=info.label if info else name.stem[11:],
        part=info.part if info else 1,
        last=info.last if info else True,
        began=began,
        start_s=info.start_s if info else 0.0,
        end_s=info.end_s if info else 0.0,
        file=name.film,
        still=name.still if clip.has_still else None,
        drawn=name.drawn if clip.has_drawn else None,
        bytes=clip.bytes,
        probability=info.peak if info else 0.0,
        starred=True,
        region=info.actions[0].region if info else None,
        model_name=info.actions[0].model_name if info else None,
    )
