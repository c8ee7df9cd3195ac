"""Read the predictions of one view over the last hour from the journal, and reduce them to a chart's points."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import zmq

from streamclf.client.replay import ReplayClient
from streamclf.events.fleet_heartbeat import journals_of
from streamclf.events.positions import Position
from streamclf.events.types import Heartbeat, Prediction
from streamclf.events.views import UNNAMED, ViewKey, view_of
from streamclf.net.curve_client import ServiceAddress
from streamclf.net.endpoints import reachable_endpoint

HOUR_S: Final = 3600.0
STEP_S: Final = 4.0
"""Predictions of this time become one point, which shows the highest probability of each label."""
MAX_LABELS: Final = 12
READ_S: Final = 6.0
"""Longest time of reading; older predictions are left out then."""
_STRETCH: Final = 20_000
"""Offsets that are read at once, which is what the service scans for one reply."""
_CACHE_S: Final = 5.0
_MAX_CACHED: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The probabilities of one label, one for each time; null where it was not among the most probable labels."""

    label: str
    values: list[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The probabilities of one view of a stream; `times` are Unix milliseconds, oldest first."""

    times: list[int]
    series: list[Series]
    complete: bool
    """Whether everything of the last hour is in it that the service has published."""


class TimelineReader:
    """Read timelines, one at a time. The replies are kept for some seconds, for several browsers."""

    def __init__(self, address: ServiceAddress) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, tuple[float, dict[ViewKey, Timeline]]] = OrderedDict()
        """By stream; the predictions of all its views are read together."""

    def read(self, stream: str, view: ViewKey, heartbeat: Heartbeat) -> Timeline:
        """Return the timeline of a view of `stream`. Blocks for `READ_S` at most, after other callers have finished."""
        with self._lock:
            cached = self._cache.get(stream)
            if not cached or time.monotonic() - cached[0] >= _CACHE_S:
                predictions, is_complete = self._fetch(stream, heartbeat)
                found: defaultdict[ViewKey, list[Prediction]] = defaultdict(list)
                for each in predictions:
                    found[view_of(each)].append(each)
                found.setdefault(UNNAMED, [])
                timelines = {key: reduce_predictions(each, is_complete=is_complete) for key, each in found.items()}
                cached = self._cache[stream] = time.monotonic(), timelines
                self._cache.move_to_end(stream)
                if len(self._cache) > _MAX_CACHED:
                    self._cache.popitem(last=False)
            empty = Timeline(times=[], series=[], complete=cached[1][UNNAMED].complete)
            return cached[1].get(view, empty)

    def _fetch(self, stream: str, heartbeat: Heartbeat) -> tuple[list[Prediction], bool]:
        """Return the predictions of the last hour of all journals, and whether none is missing."""
        end_s = time.monotonic() + READ_S
        parts = [self._fetch_journal(stream, each, end_s) for each in journals_of(heartbeat, stream)]
        found = [each for predictions, _ in parts for each in predictions]
        if len(parts) > 1:  # the stream was on several nodes of a fleet
            found.sort(key=lambda each: each.time)
        return found, all(is_complete for _, is_complete in parts)

    def _fetch_journal(self, stream: str, heartbeat: Heartbeat, end_s: float) -> tuple[list[Prediction], bool]:
        """Read the newest stretch first."""
        since = heartbeat.time - timedelta(seconds=HOUR_S)
        found: list[Prediction] = []
        endpoint = reachable_endpoint(heartbeat.replay, self._address.endpoint)
        with zmq.Context(io_threads=1) as context:
            client = ReplayClient(context, endpoint, [stream], self._address, ("prediction",))
            try:
                last = heartbeat.head
                while last >= max(1, heartbeat.oldest):
                    stretch = self._fetch_stretch(client, heartbeat.epoch, last, end_s)
                    if stretch is None:
                        return found, False
                    found = [*stretch, *found]
                    if stretch and stretch[0].time < since:
                        break
                    last -= _STRETCH
                return [each for each in found if each.time >= since], True
            finally:
                client.close()

    def _fetch_stretch(self, client: ReplayClient, epoch: str, last: int, end_s: float) -> list[Prediction] | None:
        after = max(0, last - _STRETCH)
        found: list[Prediction] = []
        while after < last:
            page = client.wait_for_page(Position(epoch, after), end_s)
            if page is None or page.epoch != epoch:
                return None
            found += [each for each in page.events if isinstance(each, Prediction) and (each.offset or 0) <= last]
            after = max(page.upto, after + 1)
        return found


def reduce_predictions(predictions: Iterable[Prediction], *, is_complete: bool) -> Timeline:
    """Reduce predictions, oldest first, to one point each `STEP_S`, for the labels with the highest sums."""
    points: dict[int, dict[str, float]] = {}
    sums: defaultdict[str, float] = defaultdict(float)
    for each in predictions:
        step = int(each.time.timestamp() // STEP_S)
        point = points.setdefault(step, {})
        for label, probability in each.top:
            point[label] = max(probability, point.get(label, 0.0))
            sums[label] += probability
    labels = sorted(sums, key=lambda label: -sums[label])[:MAX_LABELS]
    return Timeline(
        times=[round(1000 * STEP_S * step) for step in points],
        series=[
            Series(label=label, values=[_rounded(point.get(label)) for point in points.values()]) for label in labels
        ],
        complete=is_complete,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
