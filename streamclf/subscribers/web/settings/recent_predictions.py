"""Read the predictions of the last hour of one view of a stream from the service's journal, by replay."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import zmq

from streamclf.client.replay import Page, ReplayClient
from streamclf.errors import BusError
from streamclf.events.fleet_heartbeat import owner_of
from streamclf.events.positions import Position
from streamclf.events.types import Heartbeat, Prediction
from streamclf.events.views import UNNAMED, ViewKey, view_of
from streamclf.net.curve_client import ServiceAddress
from streamclf.net.endpoints import reachable_endpoint

SPAN_S: Final = 3600.0
WARM_UP_S: Final = 120.0
"""Predictions before the span, so that smoothing and running actions are right where it begins."""
MAX_SAMPLES: Final = 50_000
"""Predictions of one view that are kept, the newest ones: 13 each second for an hour."""
_MAX_VIEWS: Final = 4
"""Views whose predictions are kept for the next preview, about 12 MB each."""
_NEAR: Final = 512
"""Offsets that are read in vain at most, because the search for the beginning ends there."""
_READ_S: Final = 15.0
_LABELS_IN_EVENT: Final = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """One prediction. `time_s` is seconds since 1970; `start_s` and `end_s` are the window's media time.

    `scene_lost`: see `streamclf.events.types.Prediction`.
    """

    time_s: float
    start_s: float
    end_s: float
    segment: int
    probabilities: Mapping[str, float]
    scene_lost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """The predictions of one view, oldest first, from the journal.

    `begin_s` is where they begin to be complete, in seconds since 1970: later than asked for if the journal or the
    limit ends there. `is_partial`: events hold the ten most probable labels only, and the model has more.
    """

    samples: tuple[Sample, ...]
    begin_s: float
    is_partial: bool


@dataclass(slots=True)
class _Kept:
    epoch: str
    upto: int
    begin_s: float
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    labels: int = 0
    view: ViewKey = UNNAMED


class RecentPredictions:
    """Read predictions by replay; one call at a time, others wait for it."""

    def __init__(self, address: ServiceAddress, heartbeat: Callable[[], Heartbeat | None]) -> None:
        """Read from the service at `address`, whose latest heartbeat `heartbeat` returns."""
        self._address, self._heartbeat = address, heartbeat
        self._kept: OrderedDict[tuple[str, ViewKey], _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, stream: str, now_s: float, view: ViewKey = UNNAMED) -> Recent:
        """Return the view's predictions of the last hour before `now_s` (Unix time). Raises `BusError`."""
        if not self._lock.acquire(timeout=_READ_S):
            raise BusError("another preview is being computed; try again in a few seconds")
        try:
            return self._read(stream, view, now_s, time.monotonic() + _READ_S)
        finally:
            self._lock.release()

    def _read(self, stream: str, view: ViewKey, now_s: float, deadline_s: float) -> Recent:
        heartbeat = self._heartbeat()
        if heartbeat is None:
            raise BusError("the service has sent nothing yet; try again in a few seconds")
        heartbeat = owner_of(heartbeat, stream)
        if heartbeat is None:
            raise BusError(f"no node of the fleet that can be reached runs {stream} now; try again")
        wanted_s = now_s - SPAN_S - WARM_UP_S
        endpoint = reachable_endpoint(heartbeat.replay, self._address.endpoint)
        kept, begins_there = self._kept.pop((stream, view), None), False
        with zmq.Context(io_threads=1) as context:
            if kept is None or kept.epoch != heartbeat.epoch or kept.upto < heartbeat.oldest - 1:
                client = ReplayClient(context, endpoint, [], self._address, limit=1)
                kept = _Kept(heartbeat.epoch, _find(client, heartbeat, wanted_s, deadline_s), wanted_s, view=view)
                begins_there = heartbeat.oldest > 1 and kept.upto == heartbeat.oldest - 1
            client = ReplayClient(context, endpoint, [stream], self._address, ["prediction"])
            try:
                self._extend(kept, client, heartbeat, deadline_s)
            finally:
                client.close()
        if begins_there and kept.samples:  # the journal has no older events any more
            kept.begin_s = kept.samples[0].time_s
        while kept.samples and kept.samples[0].time_s < wanted_s:
            kept.samples.popleft()
        self._kept[stream, view] = kept
        while len(self._kept) > _MAX_VIEWS:
            self._kept.popitem(last=False)
        return Recent(
            samples=tuple(kept.samples),
            begin_s=max(kept.begin_s, now_s - SPAN_S),
            is_partial=kept.labels >= _LABELS_IN_EVENT,
        )

    @staticmethod
    def _extend(kept: _Kept, client: ReplayClient, heartbeat: Heartbeat, deadline_s: float) -> None:
        """Add the predictions after those that are kept, up to the newest."""
        while True:
            page = _fetch(client, Position(kept.epoch, kept.upto), deadline_s)
            if page.epoch != kept.epoch:
                raise BusError("the service has begun another journal; try again")
            for event in page.events:
                if isinstance(event, Prediction) and view_of(event) == kept.view:
                    if page.lost and not kept.samples:
                        kept.begin_s = event.time.timestamp()
                    _add(kept, event)
            kept.upto = page.upto
            if page.upto >= min(page.head, heartbeat.head):
                return


def _find(client: ReplayClient, heartbeat: Heartbeat, wanted_s: float, deadline_s: float) -> int:
    """Return an offset shortly before the first event at `wanted_s` or later, by bisection; close the client."""
    low, high = max(0, heartbeat.oldest - 1), heartbeat.head
    try:
        while high - low > _NEAR:
            middle = (low + high) // 2
            page = _fetch(client, Position(heartbeat.epoch, middle), deadline_s)
            if page.events and page.events[0].time.timestamp() >= wanted_s:
                high = middle
            else:
                low = middle
    finally:
        client.close()
    return low


def _add(kept: _Kept, event: Prediction) -> None:
    window = event.window
    if len(kept.samples) == MAX_SAMPLES:
        kept.begin_s = kept.samples[1].time_s
    kept.labels = max(kept.labels, len(event.top))
    time_s, top = event.time.timestamp(), dict(event.top)
    kept.samples.append(Sample(time_s, window.start_s, window.end_s, window.segment, top, event.scene_lost))


def _fetch(client: ReplayClient, after: Position, deadline_s: float) -> Page:
    """Return the page after a position. Raises `BusError` where the service does not answer in time."""
    page = client.wait_for_page(after, deadline_s)
    if page is None:
        raise BusError("the service did not send its predictions in time; try again")
    return page
