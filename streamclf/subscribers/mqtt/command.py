"""`streamclf mqtt`: publish actions, labels and availability to an MQTT broker for home automation.

The position is stored after the broker has confirmed the messages.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any

from streamclf.config.outlet_options import MqttConfig
from streamclf.events.positions import Position
from streamclf.events.types import Action, Heartbeat, Lost
from streamclf.net.broker_address import parse_broker
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.clip_pictures import ClipPictures
from streamclf.subscribers.delivery import DeliveryLoop, Item
from streamclf.subscribers.first_pictures import FirstPictures
from streamclf.subscribers.mqtt.broker import Broker, client_id, import_paho
from streamclf.subscribers.mqtt.home_assistant import Topics
from streamclf.subscribers.outlet_report import OutletReport
from streamclf.subscribers.outlet_run import EventFilter, OutletRun
from streamclf.subscribers.service_clock import ServiceClock

_NAME = "mqtt"
_MAX_BATCH = 100
_LINGER_S = 0.05


def deliver_to_mqtt(config: MqttConfig, run: OutletRun) -> None:
    """Publish events to a broker until the run ends.

    Raises `UsageError`, `JournalError`, and `BusError` if the broker refuses the connection.
    """
    import_paho()
    address = parse_broker(config.broker, os.environ)
    pictures = ClipPictures(config, run.report)
    with run.open_position(_NAME) as file, ExitStack() as stack:
        first = stack.enter_context(closing(FirstPictures(run.address))) if pictures.has_first else None
        topics = Topics(
            config.prefix,
            discovery=config.discovery,
            types=config.types,
            updates=config.updates,
            streams=config.streams,
            memory=file.memory,
            pictures=pictures,
        )
        broker = Broker(address, client_id(config.prefix, file.path), topics.online(False), run.report)
        outlet = MqttOutlet(topics, broker, run.stop, run.report, first)
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

    def __init__(
        self,
        topics: Topics,
        broker: Broker,
        stop: StopRequest,
        report: OutletReport,
        first_pictures: FirstPictures | None = None,
    ) -> None:
        self._topics, self._broker, self._stop, self._report = topics, broker, stop, report
        self._first_pictures = first_pictures
        self._clock = ServiceClock()
        self._is_online = False
        """Whether the service sends heartbeats."""
        self._published_online: bool | None = None
        """The availability that was published on this connection; None before the first."""

    def deliver(self, batch: Sequence[Item], position: Position | None) -> bool:
        """Publish the messages of a batch; return True once the broker has confirmed all of them."""
        ages = [(item, 0.0 if isinstance(item, Lost) else self._clock.age_s(item.time)) for item in batch]
        if self._first_pictures is not None:
            for item, age_s in ages:
                if isinstance(item, Action):
                    self._first_pictures.request(item, age_s)
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
        found = [] if self._first_pictures is None else self._first_pictures.receive()
        if not self._broker.is_connected:
            return
        if self._broker.has_reconnected():  # the broker has published the last will, and may have lost all the rest
            self._published_online = None
            self._broker.publish(self._topics.retained(), self._stop)
        self._broker.publish(self._topics.overdue(time.monotonic()), self._stop)
        for action, preview in found:
            self._broker.publish(self._topics.first_picture(action, preview), self._stop)
        if (obsolete := self._topics.obsolete.messages()) and self._broker.publish(obsolete, self._stop):
            self._topics.obsolete.confirm()
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
