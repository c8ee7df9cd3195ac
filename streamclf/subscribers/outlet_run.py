"""Define what every outlet is given to run: the service, its position, its stop request, its report and filter."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from streamclf.client.receiver import Kind
from streamclf.client.subscription import Subscription
from streamclf.config.outlet_options import EventType
from streamclf.events.positions import START, Position
from streamclf.events.types import Action, Clip, Lost, Prediction, StreamEvent
from streamclf.net.curve_client import ServiceAddress
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.checkpoint import PositionFile
from streamclf.subscribers.outlet_report import OutletReport


@dataclass(frozen=True, slots=True, kw_only=True)
class OutletRun:
    """Where one outlet gets its events from, where it stores its position, and how it ends and reports."""

    address: ServiceAddress
    stop: StopRequest
    report: OutletReport
    position: Path | None = None
    """File of the position; None for an outlet that needs none."""
    begin: Position | None = None
    """Where an outlet without a stored position begins; None for the next event."""
    patience_s: float | None = None
    """Seconds without a service after which the outlet fails; None for no limit."""

    def subscribe(
        self, *, streams: Collection[str] | None, types: Collection[EventType] | None, after: Position | None
    ) -> Subscription:
        """Subscribe to the service's events after the position `after`, and to heartbeats, and miss none."""
        kinds: set[Kind] | None = None if types is None else {"heartbeat", *types}
        return Subscription(self.address, streams, kinds, True, after, self.patience_s)

    def open_position(self, kind: str) -> PositionFile:
        """Open the file of the position, and store there where a new outlet begins."""
        assert self.position is not None
        file = PositionFile(self.position, kind)
        if file.position is None and self.begin not in (None, START):
            assert self.begin is not None
            file.save(self.begin, {})  # a crash before the first event must not move the beginning
        return file


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Choose the events that an outlet hands on, besides their types and streams, which the subscription chooses."""

    updates: bool = True
    """Whether `update` events of actions pass."""
    min_probability: float = 0.0

    def accepts(self, item: StreamEvent | Lost) -> bool:
        """Return whether the outlet hands `item` on."""
        match item:
            case Action():
                # A peak never falls, so the end of each start that passes also passes.
                return item.peak >= self.min_probability and (self.updates or item.phase != "update")
            case Clip():
                return item.probability >= self.min_probability
            case Prediction():
                return item.top[0][1] >= self.min_probability
            case _:
                return True
