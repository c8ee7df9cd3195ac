"""Convert events to MQTT messages, and describe them to Home Assistant. No connection and no clock.

    PREFIX/status                      online, offline          retained; the last will
    PREFIX/STREAM/availability         online, offline          retained: whether the stream is live
    PREFIX/STREAM/label                JSON, each new label     retained
    PREFIX/STREAM/active/LABEL         JSON, ON and OFF         retained
    PREFIX/STREAM/action               JSON, every start and end, as in the journal
    PREFIX/lost                        JSON, offsets that are lost
    PREFIX/STREAM/prediction, status   JSON, where `types` has them

Retained topics describe the present, so an old event must not switch anything on when the outlet catches up after an
outage: an event older than a minute goes to `action` only. A running action has an update each second, which switches
it on. The end of an action always switches it off.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from streamclf import __version__
from streamclf.config.outlets import MQTT_PREFIX, MQTT_PREFIX_RULE, EventType
from streamclf.errors import UsageError
from streamclf.events.types import Action, Lost, Prediction, Status, StreamEvent, format_event_time, published_json

STALE_S: Final = 60.0
DISCOVERY_PREFIX: Final = "homeassistant"
MAX_STREAMS: Final = 1024
MAX_LABELS: Final = 64
"""The limit of one stream. Each label becomes an entity in Home Assistant, which stays until the user removes it."""
_OUTSIDE_TOPIC = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttMessage:
    """One message for the broker, with QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(slots=True)
class _PublishedStream:
    """The values of one stream that the broker holds; None means unknown."""

    label: str | None = None
    live: bool | None = None
    actions: dict[str, bool | None] = field(default_factory=dict)
    """Whether each action is on, by label."""
    retained: dict[str, bytes] = field(default_factory=dict)
    """The payloads that this process has published, by topic."""


class Topics:
    """Convert events to messages. `memory` comes from an earlier process, and this one continues its work.

    Raises `UsageError` for an invalid prefix or memory.
    """

    def __init__(
        self,
        prefix: str,
        *,
        discovery: bool = True,
        types: Collection[EventType] = frozenset({"action"}),
        updates: bool = False,
        memory: dict[str, Any],
    ) -> None:
        """Publish whole events of `types`, `update` events of actions only with `updates`."""
        if not MQTT_PREFIX.fullmatch(prefix):
            raise UsageError(f"prefix {prefix!r}: {MQTT_PREFIX_RULE}")
        self._prefix, self._discovery, self._types, self._updates = prefix, discovery, frozenset(types), updates
        self._streams = _restore(memory)
        self.unlisted = 0
        """Events without an entity in Home Assistant, because there are too many streams or labels."""

    @property
    def status_topic(self) -> str:
        """The topic of the last will."""
        return f"{self._prefix}/status"

    def memory(self) -> dict[str, Any]:
        """Return the memory for the constructor of a later process."""
        return {"streams": {name: {"label": s.label, "actions": dict(s.actions)} for name, s in self._streams.items()}}

    def online(self, is_online: bool) -> MqttMessage:
        """Make the message that says whether the retained messages are kept up to date."""
        return MqttMessage(topic=self.status_topic, payload=b"online" if is_online else b"offline", retain=True)

    def retained(self) -> Iterator[MqttMessage]:
        """Make all retained messages again, for a broker that may have lost them."""
        for name, stream in self._streams.items():
            yield from self._describe_stream(name)
            self._forget_unknown(name, stream)
            for label in stream.actions:
                yield from self._describe_action(name, label)
            for topic, payload in stream.retained.items():
                yield MqttMessage(topic=topic, payload=payload, retain=True)

    def _forget_unknown(self, name: str, stream: _PublishedStream) -> None:
        """Forget values whose full message only an earlier process knew; the next event publishes them again.

        An action that was off is published as off again.
        """
        if f"{self._prefix}/{name}/label" not in stream.retained:
            stream.label = None
        for label, is_on in stream.actions.items():
            topic = self._action_topic(name, label)
            if topic not in stream.retained and is_on:
                stream.actions[label] = None
            elif topic not in stream.retained and is_on is False:
                stream.retained[topic] = orjson.dumps({"state": "OFF", "label": label})

    def messages(self, item: StreamEvent | Lost, age_s: float) -> Iterator[MqttMessage]:
        """Make the messages of `item`, which was published `age_s` ago, in order."""
        if isinstance(item, Lost):
            body = {"type": "lost", "epoch": item.epoch, "first": item.first, "last": item.last}
            yield MqttMessage(topic=f"{self._prefix}/lost", payload=orjson.dumps(body))
            return
        stream = self._streams.get(item.stream)
        if stream is None and len(self._streams) < MAX_STREAMS:
            stream = self._streams[item.stream] = _PublishedStream()
            yield from self._describe_stream(item.stream)
        is_update = isinstance(item, Action) and item.phase == "update"
        if item.type in self._types and (self._updates or not is_update):
            yield MqttMessage(topic=f"{self._prefix}/{item.stream}/{item.type}", payload=published_json(item))
        if stream is None:
            self.unlisted += 1
        else:
            yield from self._state_messages(stream, item, is_stale=age_s > STALE_S)

    def _state_messages(self, stream: _PublishedStream, item: StreamEvent, *, is_stale: bool) -> Iterator[MqttMessage]:
        match item:
            case Status():
                yield from self._availability(stream, item.stream, item.state == "live")
            case Action():
                yield from self._action_message(stream, item, is_stale=is_stale)
            case Prediction() if not is_stale:
                if stream.live is None:  # a prediction means that the stream is live
                    yield from self._availability(stream, item.stream, True)
                yield from self._label_message(stream, item)

    def _availability(self, stream: _PublishedStream, name: str, is_live: bool) -> Iterator[MqttMessage]:
        if stream.live is not is_live:
            stream.live = is_live
            yield self._retain(stream, f"{self._prefix}/{name}/availability", b"online" if is_live else b"offline")

    def _label_message(self, stream: _PublishedStream, item: Prediction) -> Iterator[MqttMessage]:
        label, probability = item.top[0]
        if label == stream.label:
            return
        stream.label = label
        body = {"label": label, "probability": probability, "model": item.model, **_origin(item)}
        yield self._retain(stream, f"{self._prefix}/{item.stream}/label", orjson.dumps(body))

    def _action_message(self, stream: _PublishedStream, item: Action, *, is_stale: bool) -> Iterator[MqttMessage]:
        if item.label not in stream.actions:
            if len(stream.actions) >= MAX_LABELS:
                self.unlisted += 1
                return
            stream.actions[item.label] = None
            yield from self._describe_action(item.stream, item.label)
        is_on = item.phase != "end"
        if is_on and is_stale:
            return
        # A start is published even if the action is on already, because it has a new start time.
        if stream.actions[item.label] is not is_on or item.phase == "start":
            yield self._switch_message(stream, item, is_on)

    def _switch_message(self, stream: _PublishedStream, item: Action, is_on: bool) -> MqttMessage:
        stream.actions[item.label] = is_on
        body = {
            "state": "ON" if is_on else "OFF", "label": item.label, "probability": item.probability,
            "peak": item.peak, "started_s": item.started_s, "at_s": item.at_s, **_origin(item),
        }  # fmt: skip
        return self._retain(stream, self._action_topic(item.stream, item.label), orjson.dumps(body))

    def _retain(self, stream: _PublishedStream, topic: str, payload: bytes) -> MqttMessage:
        stream.retained[topic] = payload
        return MqttMessage(topic=topic, payload=payload, retain=True)

    def _action_topic(self, stream: str, label: str) -> str:
        return f"{self._prefix}/{stream}/active/{slug(label)}"

    def _describe_stream(self, stream: str) -> Iterator[MqttMessage]:
        topic = f"{self._prefix}/{stream}/label"
        more = {"name": "Label", "icon": "mdi:eye", "value_template": "{{ value_json.label }}"}
        return self._describe("sensor", stream, "label", topic, more)

    def _describe_action(self, stream: str, label: str) -> Iterator[MqttMessage]:
        more = {"name": label, "icon": "mdi:run", "value_template": "{{ value_json.state }}"}
        return self._describe("binary_sensor", stream, f"active_{slug(label)}", self._action_topic(stream, label), more)

    def _describe(
        self, component: str, stream: str, entity: str, topic: str, more: dict[str, str]
    ) -> Iterator[MqttMessage]:
        """Describe an entity as in https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery."""
        if not self._discovery:
            return
        node = f"{self._prefix.replace('/', '_')}_{stream}"
        config = {
            **more,
            "unique_id": f"{node}_{entity}",
            "state_topic": topic,
            "json_attributes_topic": topic,
            "availability": [{"topic": self.status_topic}, {"topic": f"{self._prefix}/{stream}/availability"}],
            "availability_mode": "all",
            "qos": 1,
            "device": {"identifiers": [node], "name": stream, "manufacturer": "streamclf", "model": "video stream"},
            "origin": {"name": "streamclf", "sw_version": __version__},
        }
        yield MqttMessage(
            topic=f"{DISCOVERY_PREFIX}/{component}/{node}/{entity}/config", payload=orjson.dumps(config), retain=True
        )


def _restore(memory: dict[str, Any]) -> dict[str, _PublishedStream]:
    try:
        return {
            name: _PublishedStream(label=stored["label"], actions=dict(stored["actions"]))
            for name, stored in memory.get("streams", {}).items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError("the position file holds streams in an unknown form; remove the file to start anew") from None


def slug(label: str) -> str:
    """Convert `label` to one level of a topic. A changed label gets seven digits of its hash to stay unique."""
    plain = _OUTSIDE_TOPIC.sub("_", label)
    if plain == label and len(label) <= 64:
        return label
    return f"{plain[:56]}_{hashlib.sha256(label.encode()).hexdigest()[:7]}"


def _origin(item: StreamEvent) -> dict[str, Any]:
    return {"time": format_event_time(item), "epoch": item.epoch, "offset": item.offset}
