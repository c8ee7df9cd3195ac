"""`streamclf mqtt`: actions, labels and availability for home automation. Confirmed by the broker, then remembered."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from streamclf.client.subscription import subscribe
from streamclf.events.positions import START, Position
from streamclf.events.types import Heartbeat, Lost
from streamclf.runtime.signals import stop_on_signals
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.checkpoint import PositionFile
from streamclf.subscribers.delivery import DeliveryLoop, Item, print_notice
from streamclf.subscribers.mqtt.broker import Broker, client_id, library, parse_broker
from streamclf.subscribers.mqtt.home_assistant import Topics

_NAME = "mqtt"
_BATCH = 100
_LINGER_S = 0.05
_CLOCK_S = 60.0


def run_mqtt(
    endpoint: str,
    broker_url: str,
    *,
    position: Path,
    prefix: str = "streamclf",
    discovery: bool = True,
    every: bool = False,
    from_start: bool = False,
    seconds: float | None = None,
) -> int:
    """Publish a service's events at `mqtt[s]://[user:password@]host[:port]` until SIGINT or SIGTERM; the exit code.

    User and password may come from the environment instead: STREAMCLF_MQTT_USER, STREAMCLF_MQTT_PASSWORD. `every` also
    sends predictions, statuses and updates of actions. The first run begins with what happens from now on, or with all
    that the journal still holds (`from_start`). Raises `UsageError`, or `BusError` where the broker refuses us.
    """
    library()
    address = parse_broker(broker_url, os.environ)
    stop = StopRequest(seconds)
    with PositionFile(position, _NAME) as file, stop_on_signals(stop.request):
        topics = Topics(prefix, discovery=discovery, every=every, memory=file.memory)
        outlet = _Mqtt(topics, Broker(address, client_id(prefix, position), topics.online(False)), stop)
        after = file.position or (START if from_start else None)
        try:
            with subscribe(endpoint, replay=True, after=after) as events:
                DeliveryLoop(events, outlet, file, max_batch=_BATCH, linger_s=_LINGER_S).run(stop)
        finally:
            outlet.close()
    return 0


class _Mqtt:
    """Topics and a broker as an outlet."""

    name = _NAME
    outcome = "delivered"

    def __init__(self, topics: Topics, broker: Broker, stop: StopRequest) -> None:
        self._topics, self._broker, self._stop = topics, broker, stop
        self._clock = ServiceClock()
        self._is_alive = False
        self._is_told: bool | None = None

    def deliver(self, batch: Sequence[Item], position: Position | None) -> bool:
        """True once the broker has confirmed the whole batch."""
        ages = ((item, 0.0 if isinstance(item, Lost) else self._clock.age_s(item.time)) for item in batch)
        messages = (message for item, age_s in ages for message in self._topics.messages(item, age_s))
        return self._broker.publish(messages, self._stop)

    def update(self, heartbeat: Heartbeat | None, is_silent: bool) -> None:
        """Keep up what the broker shows of us."""
        self._broker.check()
        if heartbeat:
            self._clock.note(heartbeat.time)
        self._is_alive = not is_silent and (self._is_alive or heartbeat is not None)
        if not self._broker.is_connected:
            return
        if self._broker.is_new():  # its last will has just been said, and it may have forgotten all the rest
            self._is_told = None
            self._broker.publish(self._topics.everything(), self._stop)
        if self._is_told is not self._is_alive:
            self._is_told = self._is_alive
            self._broker.publish([self._topics.online(self._is_alive)], self._stop)

    def memory(self) -> dict[str, Any]:
        """What the broker was told."""
        return self._topics.memory()

    def close(self) -> None:
        """Leave; what is retained is not kept up any more."""
        self._broker.close(self._topics.online(False))
        if self._topics.folded:
            print_notice(_NAME, f"{self._topics.folded} events became no entity: too many streams or labels")


class ServiceClock:
    """How old an event is by the service's own clock, which need not agree with ours: its heartbeats tell it.

    A heartbeat that waited in a queue tells a time that has passed, so the promptest of the last minute or two counts.
    """

    def __init__(self) -> None:
        self._before_s: float | None = None
        self._best_s: float | None = None
        self._since_s = 0.0

    def note(self, told: datetime) -> None:
        """A heartbeat, just received."""
        now_s = time.monotonic()
        ahead_s = told.timestamp() - now_s
        if self._best_s is None or now_s - self._since_s > _CLOCK_S:
            self._before_s, self._best_s, self._since_s = self._best_s, ahead_s, now_s
        self._best_s = max(self._best_s, ahead_s)

    def age_s(self, at: datetime) -> float:
        """Seconds since `at`; by our own clock until the service has told its own."""
        if self._best_s is None:
            return (datetime.now(timezone.utc) - at).total_seconds()
        ahead_s = self._best_s if self._before_s is None else max(self._before_s, self._best_s)
        return time.monotonic() + ahead_s - at.timestamp()
