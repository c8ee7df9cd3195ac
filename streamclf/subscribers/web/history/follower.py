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
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import TracebackType
from typing import Final

import zmq

from streamclf.client.replay import Page, ReplayClient
from streamclf.clips.film_info import FilmInfo, read_film_info
from streamclf.clips.folder import ClipFolder, StoredClip
from streamclf.errors import BusError, ClipError, JournalError
from streamclf.events.fleet_heartbeat import FleetHeartbeat, journals_of
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
_MAX_JOURNALS: Final = 1_024
_REPLY_S: Final = 0.5
_POLL_S: Final = 1.0
_REST: Final = 3.0
"""After a stretch, rest for this many times as long as the service needed, so that it has time for others."""
_MIN_REST_S: Final = 0.02
_FAULT_S: Final = 5.0
_CLOSE_S: Final = 5.0


@dataclass(slots=True)
class _Journal:
    """The parts of one journal that have been read."""

    position: Position
    """Everything after the start of the thread up to here has been read."""
    holes: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of older offsets that are still to be read, newest first."""
    is_current: bool = False
    """Whether the newest event has been read since the start of the thread."""
    stretches: int = 0
    rest_until_s: float = 0.0
    clients: dict[bool, ReplayClient] = field(default_factory=dict)

    def close(self) -> None:
        """Disconnect."""
        for client in self.clients.values():
            client.close()


class HistoryFollower:
    """Fill a history. `notice` gets every event that arrives; it never blocks."""

    def __init__(self, address: ServiceAddress, history: History, folder: ClipFolder | None = None) -> None:
        """Read the streams of `history` from the service at `address`, and the starred clips from `folder`."""
        self._address, self._history, self._folder = address, history, folder
        self._wake, self._done = threading.Event(), threading.Event()
        self._heartbeat: Heartbeat | None = None
        self._live: deque[StreamEvent] = deque(maxlen=_MAX_LIVE)
        """Events that have arrived live. Replay brings them again, all but those that the journal does not have."""
        self._journals: dict[str, _Journal] = {}
        """By epoch. A fleet has one on each node."""
        self._present: frozenset[str] = frozenset()
        """The epochs of the latest heartbeat. A node of a fleet that is lost cannot be read."""
        self.fault = ""
        """Why the history cannot be written now; empty if it can."""
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
        """Whether older events are still being read, or the newest event has not been read yet."""
        present = [journal for epoch, journal in list(self._journals.items()) if epoch in self._present]
        return not present or any(journal.holes or not journal.is_current for journal in present)

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
                    self.fault = "an unexpected error; the log of the page has the details"
                    self._done.wait(_FAULT_S)
        finally:
            for journal in self._journals.values():
                journal.close()
            self._context.term()

    def _wait(self) -> None:
        """Wait until an event was noticed, or it is time to read older ones."""
        wait_s = _POLL_S
        now_s = time.monotonic()
        wait_s = min([wait_s, *(max(0.0, each.rest_until_s - now_s) for each in self._journals.values() if each.holes)])
        self._wake.wait(wait_s)
        self._wake.clear()

    def _read(self) -> None:
        while self._live:
            self._history.add([self._live[0]])
            self._live.popleft()
        heartbeat = self._heartbeat
        if heartbeat is None or self._done.is_set():
            return
        beats = {each.epoch: each for each in journals_of(heartbeat)}
        self._history.set_epoch(*beats)
        self._present = frozenset(beats)
        for epoch in [] if isinstance(heartbeat, FleetHeartbeat) else self._journals.keys() - beats.keys():
            self._journals.pop(epoch).close()  # a node of a fleet may return
        for epoch, beat in beats.items():
            if epoch not in self._journals:
                self._begin(beat)
            self._read_journal(self._journals[epoch], beat)

    def _read_journal(self, journal: _Journal, heartbeat: Heartbeat) -> None:
        self._follow(journal, heartbeat)
        if journal.holes and time.monotonic() >= journal.rest_until_s:
            began_s = time.monotonic()
            self._read_stretch(journal, heartbeat)
            now_s = time.monotonic()
            journal.rest_until_s = now_s + max(_MIN_REST_S, _REST * (now_s - began_s))

    def _begin(self, heartbeat: Heartbeat) -> None:
        """Begin with the newest event of a journal; all that is older is read backwards."""
        while len(self._journals) >= _MAX_JOURNALS:
            self._journals.pop(next(iter(self._journals))).close()
        journal = self._journals[heartbeat.epoch] = _Journal(Position(heartbeat.epoch, heartbeat.head))
        self._add_hole(journal, max(1, heartbeat.oldest), heartbeat.head)

    def _add_hole(self, journal: _Journal, first: int, last: int) -> None:
        journal.holes = [*self._history.uncovered(journal.position.epoch, first, last), *journal.holes]

    def _follow(self, journal: _Journal, heartbeat: Heartbeat) -> None:
        """Read the events after the position, up to the present."""
        if heartbeat.head - journal.position.offset > 2 * STRETCH:  # after a long time without a connection
            self._add_hole(journal, journal.position.offset + 1, heartbeat.head)
            journal.position = Position(heartbeat.epoch, heartbeat.head)
        while not self._done.is_set():
            page = self._fetch(journal, heartbeat, journal.position, with_statuses=True)
            if page is None or page.epoch != journal.position.epoch:
                return
            if page.upto > journal.position.offset:
                self._history.add(page.events, (page.epoch, journal.position.offset + 1, page.upto))
                journal.position = Position(page.epoch, page.upto)
            if page.upto >= page.head:
                journal.is_current = True
                return

    def _read_stretch(self, journal: _Journal, heartbeat: Heartbeat) -> None:
        """Read the newest stretch of the older events, in order."""
        if journal.stretches >= MAX_STRETCHES or self._history.count >= MAX_ACTIONS:
            journal.holes = []
            return
        first, last = journal.holes[0]
        begin = max(first, last - STRETCH + 1)
        after = begin - 1
        with_statuses = journal.stretches < STATUS_STRETCHES
        while after < last and not self._done.is_set():
            page = self._fetch(journal, heartbeat, Position(heartbeat.epoch, after), with_statuses=with_statuses)
            if page is None or page.epoch != heartbeat.epoch:
                return  # the next call tries again
            upto = min(page.upto, last)
            events = [event for event in page.events if event.offset is not None and event.offset <= last]
            self._history.add(events, (page.epoch, after + 1, upto))
            after = upto
        journal.stretches += 1
        journal.holes[:1] = [(first, begin - 1)] if begin > first else []

    def _fetch(self, journal: _Journal, heartbeat: Heartbeat, after: Position, *, with_statuses: bool) -> Page | None:
        endpoint = reachable_endpoint(heartbeat.replay, self._address.endpoint)
        client = journal.clients.get(with_statuses)
        if client is None or client.endpoint != endpoint:
            if client is not None:
                client.close()
            types = ("action", "clip", "status") if with_statuses else ("action", "clip")
            client = ReplayClient(self._context, endpoint, self._history.streams or (), self._address, types)
            journal.clients[with_statuses] = client
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
