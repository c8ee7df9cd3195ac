"""`streamclf mqtt`: publish actions, labels and availability to an MQTT broker for home automation.

The position is stored after the broker has confirmed the messages.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from streamclf.config.outlet_options import MqttConfig
from streamclf.events.positions import Position
from streamclf.events.types import Heartbeat, Lost
from streamclf.net.broker_address import parse_broker
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.clip_pictures import ClipPictures
from streamclf.subscribers.delivery import DeliveryLoop, Item
from streamclf.subscribers.mqtt.broker import Broker, client_id, import_paho
from streamclf.subscribers.mqtt.home_assistant import Topics
from streamclf.subscribers.outlet_report import OutletReport
from streamclf.subscribers.outlet_run import EventFilter, OutletRun

_NAME = "mqtt"
_MAX_BATCH = 100
_LINGER_S = 0.05
_CLOCK_PERIOD_S = 60.0


def deliver_to_mqtt(config: MqttConfig, run: OutletRun) -> None:
    """Publish events to a broker until the run ends.

    Raises `UsageError`, `JournalError`, and `BusError` if the broker refuses the connection.
    """
    import_paho()
    address = parse_broker(config.broker, os.environ)
    with run.open_position(_NAME) as file:
        topics = Topics(
            config.prefix,
            discovery=config.discovery,
            types=config.types,
            updates=config.updates,
            streams=config.streams,
            memory=file.memory,
            pictures=ClipPictures(config, run.report),
        )
        broker = Broker(address, client_id(config.prefix, file.path), topics.online(False), run.report)
        outlet = MqttOutlet(topics, broker, run.stop, run.report)
        after = file.position or run.begin
        try:
            # Labels and availability come from predictions and statuses, whatever `types` says.
            with run.subscribe(streams=config.streams, types=None, after=after) as events:
                DeliveryLoop(
                    events,
                    outlet,
                    file,
                    max_batch=_MAX_BATCH,
                    linger_s=_LINGER_S,
                    chosen=EventFilter(min_probability=config.min_probability),
                    report=run.report,
                ).run(run.stop)
        finally:
            outlet.close()


class MqttOutlet:
    """Publish batches of events to a broker, and keep its retained messages up to date."""

    name = _NAME
    outcome = "delivered"

    def __init__(self, topics: Topics, broker: Broker, stop: StopRequest, report: OutletReport) -> None:
        self._topics, self._broker, self._stop, self._report = topics, broker, stop, report
        self._clock = ServiceClock()
        self._is_online = False
        """Whether the service sends heartbeats."""
        self._published_online: bool | None = None
        """The availability that was published on this connection; None before the first."""

    def deliver(self, batch: Sequence[Item], position: Position | None) -> bool:
        """Publish the messages of a batch; return True once the broker has confirmed all of them."""
        ages = ((item, 0.0 if isinstance(item, Lost) else self._clock.age_s(item.time)) for item in batch)
        messages = (message for item, age_s in ages for message in self._topics.messages(item, age_s))
        return self._broker.publish(messages, self._stop)

    def update(self, heartbeat: Heartbeat | None, is_silent: bool) -> None:
        """Publish whether the service is online, and everything retained after a new connection."""
        self._broker.check()
        if heartbeat:
            self._clock.update(heartbeat.time)
            if heartbeat.streams is not None:
                self._topics.configure(heartbeat.streams, heartbeat.time)
        self._is_online = not is_silent and (self._is_online or heartbeat is not None)
        if not self._broker.is_connected:
            return
        if self._broker.has_reconnected():  # the broker has published the last will, and may have lost all the rest
            self._published_online = None
            self._broker.publish(self._topics.retained(), self._stop)
        self._broker.publish(self._topics.overdue(time.monotonic()), self._stop)
        if (obsolete := self._topics.obsolete()) and self._broker.publish(obsolete, self._stop):
            self._topics.forget_obsolete()
        if self._published_online is not self._is_online:
            self._published_online = self._is_online
            self._broker.publish([self._topics.online(self._is_online)], self._stop)

    def memory(self) -> dict[str, Any]:
        """Return the values of each stream that the broker holds."""
        return self._topics.memory()

    def close(self) -> None:
        """Publish that the service is offline, and disconnect."""
        self._broker.close(self._topics.online(False))
        if self._topics.unlisted:
            self._report.notice(
                f"{self._topics.unlisted} events have no entity in Home Assistant: "
                "their actions are not configured, or there are too many streams or labels"
            )


class ServiceClock:
    """Measure the age of events by the service's own clock, which may differ from this machine's.

    Heartbeats hold the service's time. A heartbeat that waited in a queue holds an old time, so the fastest heartbeat
    of the last one or two minutes counts.
    """

    def __init__(self) -> None:
        self._previous_s: float | None = None
        self._offset_s: float | None = None
        """The largest difference between the service's time and our monotonic clock in the current minute."""
        self._since_s = 0.0

    def update(self, service_time: datetime) -> None:
        """Note the time in a heartbeat that has just been received."""
        now_s = time.monotonic()
        offset_s = service_time.timestamp() - now_s
        if self._offset_s is None or now_s - self._since_s > _CLOCK_PERIOD_S:
            self._previous_s, self._offset_s, self._since_s = self._offset_s, offset_s, now_s
        self._offset_s = max(self._offset_s, offset_s)

    def age_s(self, at: datetime) -> float:
        """Return the seconds since `at`. Before the first heartbeat, this machine's clock counts."""
        if self._offset_s is None:
            return (datetime.now(timezone.utc) - at).total_seconds()
        offset_s = self._offset_s if self._previous_s is None else max(self._previous_s, self._offset_s)
        return time.monotonic() + offset_s - at.timestamp()
