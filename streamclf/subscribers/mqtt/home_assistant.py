"""Events -> MQTT messages, and what Home Assistant needs to show them. Pure: no connection, no clock of its own.

    PREFIX/status                      online, offline          retained; the last will
    PREFIX/STREAM/availability         online, offline          retained: whether the stream is live
    PREFIX/STREAM/label                JSON, each new label     retained
    PREFIX/STREAM/active/LABEL         JSON, ON and OFF         retained
    PREFIX/STREAM/action               JSON, every start and end, as in the journal
    PREFIX/lost                        JSON, offsets that nobody has any more
    PREFIX/STREAM/prediction, status   JSON, with `every` only

Retained topics say what is, so an old event must not switch anything on when the outlet catches up after an outage:
what is older than a minute goes to `action` alone. A running action is told again each second, an old end still ends.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from streamclf import __version__
from streamclf.errors import UsageError
from streamclf.events.types import Action, Lost, Prediction, Status, StreamEvent, format_event_time, published_json

STALE_S: Final = 60.0
DISCOVERY_PREFIX: Final = "homeassistant"
MAX_STREAMS: Final = 1024
MAX_LABELS: Final = 64
"""Per stream: each becomes an entity that stays until somebody removes it."""
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,3}")
_OUTSIDE_TOPIC = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttMessage:
    """What goes to the broker, QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(slots=True)
class _Stream:
    """What the broker has been told of one stream: None is what we do not know. `shown`: retained in this run."""

    label: str | None = None
    live: bool | None = None
    actions: dict[str, bool | None] = field(default_factory=dict)
    shown: dict[str, bytes] = field(default_factory=dict)


class Topics:
    """Turns events into messages; `memory` is what it must know to go on in another process."""

    def __init__(self, prefix: str, *, discovery: bool = True, every: bool = False, memory: dict[str, Any]) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise UsageError(f"prefix {prefix!r}: letters, digits, _ and -, at most 4 levels of 64, like streamclf")
        self._prefix, self._discovery, self._every = prefix, discovery, every
        self._streams = _remembered(memory)
        self.folded = 0
        """Events that became no entity because there are too many streams or labels."""

    @property
    def status_topic(self) -> str:
        """The topic of the last will."""
        return f"{self._prefix}/status"

    def memory(self) -> dict[str, Any]:
        """As the constructor takes it."""
        return {"streams": {name: {"label": s.label, "actions": dict(s.actions)} for name, s in self._streams.items()}}

    def online(self, is_online: bool) -> MqttMessage:
        """Whether what is retained is being kept up."""
        return MqttMessage(topic=self.status_topic, payload=b"online" if is_online else b"offline", retain=True)

    def everything(self) -> Iterator[MqttMessage]:
        """All that is retained: for a broker that may have forgotten it."""
        for name, stream in self._streams.items():
            yield from self._describe_stream(name)
            self._renew(name, stream)
            for label in stream.actions:
                yield from self._describe_action(name, label)
            for topic, payload in stream.shown.items():
                yield MqttMessage(topic=topic, payload=payload, retain=True)

    def _renew(self, name: str, stream: _Stream) -> None:
        """What another process said cannot be said again in full: the next event does, and what is off stays off."""
        if f"{self._prefix}/{name}/label" not in stream.shown:
            stream.label = None
        for label, is_on in stream.actions.items():
            topic = self._action_topic(name, label)
            if topic not in stream.shown and is_on:
                stream.actions[label] = None
            elif topic not in stream.shown and is_on is False:
                stream.shown[topic] = orjson.dumps({"state": "OFF", "label": label})

    def messages(self, item: StreamEvent | Lost, age_s: float) -> Iterator[MqttMessage]:
        """What `item`, published `age_s` ago, has to say, in order."""
        if isinstance(item, Lost):
            body = {"type": "lost", "epoch": item.epoch, "first": item.first, "last": item.last}
            yield MqttMessage(topic=f"{self._prefix}/lost", payload=orjson.dumps(body))
            return
        stream = self._streams.get(item.stream)
        if stream is None and len(self._streams) < MAX_STREAMS:
            stream = self._streams[item.stream] = _Stream()
            yield from self._describe_stream(item.stream)
        is_end = isinstance(item, Action) and item.phase != "update"
        if is_end or self._every:
            yield MqttMessage(topic=f"{self._prefix}/{item.stream}/{item.type}", payload=published_json(item))
        if stream is None:
            self.folded += 1
        else:
            yield from self._state(stream, item, is_stale=age_s > STALE_S)

    def _state(self, stream: _Stream, item: StreamEvent, *, is_stale: bool) -> Iterator[MqttMessage]:
        match item:
            case Status():
                yield from self._live(stream, item.stream, item.state == "live")
            case Action():
                yield from self._action(stream, item, is_stale=is_stale)
            case Prediction() if not is_stale:
                if stream.live is None:  # nothing predicts on a stream that is not there
                    yield from self._live(stream, item.stream, True)
                yield from self._label(stream, item)

    def _live(self, stream: _Stream, name: str, is_live: bool) -> Iterator[MqttMessage]:
        if stream.live is not is_live:
            stream.live = is_live
            yield self._retained(stream, f"{self._prefix}/{name}/availability", b"online" if is_live else b"offline")

    def _label(self, stream: _Stream, item: Prediction) -> Iterator[MqttMessage]:
        label, probability = item.top[0]
        if label == stream.label:
            return
        stream.label = label
        body = {"label": label, "probability": probability, "model": item.model, **_source(item)}
        yield self._retained(stream, f"{self._prefix}/{item.stream}/label", orjson.dumps(body))

    def _action(self, stream: _Stream, item: Action, *, is_stale: bool) -> Iterator[MqttMessage]:
        if item.label not in stream.actions:
            if len(stream.actions) >= MAX_LABELS:
                self.folded += 1
                return
            stream.actions[item.label] = None
            yield from self._describe_action(item.stream, item.label)
        is_on = item.phase != "end"
        if is_on and is_stale:
            return
        # A start is told even if it is on already: since when is news.
        if stream.actions[item.label] is not is_on or item.phase == "start":
            yield self._switch(stream, item, is_on)

    def _switch(self, stream: _Stream, item: Action, is_on: bool) -> MqttMessage:
        stream.actions[item.label] = is_on
        body = {
            "state": "ON" if is_on else "OFF", "label": item.label, "probability": item.probability,
            "peak": item.peak, "started_s": item.started_s, "at_s": item.at_s, **_source(item),
        }  # fmt: skip
        return self._retained(stream, self._action_topic(item.stream, item.label), orjson.dumps(body))

    def _retained(self, stream: _Stream, topic: str, payload: bytes) -> MqttMessage:
        stream.shown[topic] = payload
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
        """https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery."""
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


def _remembered(memory: dict[str, Any]) -> dict[str, _Stream]:
    try:
        return {
            name: _Stream(label=kept["label"], actions=dict(kept["actions"]))
            for name, kept in memory.get("streams", {}).items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError("the position file names streams as we never do; remove it to begin anew") from None


def slug(label: str) -> str:
    """`label` as one level of a topic; where that changes it, a few digits of its hash keep two labels apart."""
    plain = _OUTSIDE_TOPIC.sub("_", label)
    if plain == label and len(label) <= 64:
        return label
    return f"{plain[:56]}_{hashlib.sha256(label.encode()).hexdigest()[:7]}"


def _source(item: StreamEvent) -> dict[str, Any]:
    return {"time": format_event_time(item), "epoch": item.epoch, "offset": item.offset}
