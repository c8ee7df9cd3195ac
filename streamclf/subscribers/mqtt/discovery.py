"""Describe a stream to Home Assistant: one device with its entities, as retained messages.

https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery

    homeassistant/sensor/NODE/label/config                   the most probable label
    homeassistant/binary_sensor/NODE/connectivity/config     whether the stream is live
    homeassistant/binary_sensor/NODE/active_LABEL/config     each action
    homeassistant/event/NODE/action/config                   the starts and ends of all actions of a view
    homeassistant/image/NODE/picture/config                  the picture of the latest clip

Label and actions exist for each view of the stream. Those of a region or of a named model have its names in their ids.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, TypeAlias

import orjson

from engines.printable import printable
from streamclf import __version__
from streamclf.events.views import UNNAMED, ActionKey, ViewKey
from streamclf.subscribers.mqtt.device_class import device_class_of
from streamclf.subscribers.mqtt.view_topics import (
    action_topic,
    entity_name,
    entity_of,
    event_topic,
    label_topic,
    slug,
)

DISCOVERY_PREFIX: Final = "homeassistant"
MAX_STATE_CHARS: Final = 255
"""Home Assistant refuses a longer state."""
PictureMode: TypeAlias = Literal["", "bytes", "link"]
"""The form in which pictures of clips are published: not at all, as bytes, or as links."""


def describe_stream(
    prefix: str, stream: str, name: str, views: Mapping[ViewKey, Collection[str]], pictures: PictureMode = ""
) -> dict[str, bytes]:
    """Return the payload of each discovery topic of a stream, whose device is called `name`.

    `views` has the labels of the actions of each view.
    """
    node, common = _node(prefix, stream), _common(prefix, stream, name)
    payloads = {}
    for (component, entity), own in _entities(f"{prefix}/{stream}", views, pictures).items():
        config = {**own, "unique_id": f"{node}_{entity}", **_availability(prefix, stream, entity), **common}
        payloads[_topic(prefix, stream, component, entity)] = orjson.dumps(config)
    return payloads


def discovery_topics(
    prefix: str, stream: str, views: Mapping[ViewKey, Collection[str]], pictures: PictureMode = ""
) -> set[str]:
    """Return the topics of `describe_stream`."""
    return {_topic(prefix, stream, *each) for each in _entities(f"{prefix}/{stream}", views, pictures)}


def picture_topics(base: str, pictures: PictureMode) -> set[str]:
    """Return the retained topics of a stream's latest picture; `base` is PREFIX/STREAM."""
    about, image = f"{base}/picture/about", f"{base}/picture"
    return {"": set(), "bytes": {about, image}, "link": {about}}[pictures]


def event_type(label: str) -> str:
    """Return the type of an event entity's events for the starts and ends of an action."""
    return printable(label)


def _entities(
    base: str, views: Mapping[ViewKey, Collection[str]], pictures: PictureMode
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the keys of each entity that no other entity has, by component and entity."""
    entities: dict[tuple[str, str], dict[str, Any]] = {
        ("binary_sensor", "connectivity"): {
            "name": "Connectivity",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "icon": "mdi:cctv",
            "state_topic": f"{base}/availability",
            "payload_on": "online",
            "payload_off": "offline",
        },
    }
    for view, labels in views.items():
        entities |= _entities_of_view(base, view, labels)
    if pictures:
        entities["image", "picture"] = _picture(base, pictures)
    return entities


def _entities_of_view(base: str, view: ViewKey, labels: Collection[str]) -> dict[tuple[str, str], dict[str, Any]]:
    topic = label_topic(base, view)
    entities: dict[tuple[str, str], dict[str, Any]] = {
        ("sensor", entity_of(view, "label")): {
            "name": "Label" if view == UNNAMED else entity_name(view, "label"),
            "icon": "mdi:eye",
            "state_topic": topic,
            "value_template": f"{{{{ value_json.label[:{MAX_STATE_CHARS}] }}}}",
            "json_attributes_topic": topic,
        },
    }
    for label in labels:
        entity = entity_of(view, f"active_{slug(label)}")
        entities["binary_sensor", entity] = _action(label, action_topic(base, ActionKey(*view, label)), view)
    if labels:  # an event entity has at least one type
        entities["event", entity_of(view, "action")] = {
            "name": "Action" if view == UNNAMED else entity_name(view, "action"),
            "icon": "mdi:gesture-tap",
            "state_topic": event_topic(base, view),
            "event_types": list(dict.fromkeys(event_type(label) for label in labels)),
        }
    return entities


def _picture(base: str, pictures: PictureMode) -> dict[str, Any]:
    """https://www.home-assistant.io/integrations/image.mqtt/"""
    about = f"{base}/picture/about"
    source = (
        {"image_topic": f"{base}/picture", "content_type": "image/jpeg"}
        if pictures == "bytes"
        else {"url_topic": about, "url_template": "{{ value_json.url }}"}
    )
    return {"name": "Picture", "icon": "mdi:image", **source, "json_attributes_topic": about}


def _action(label: str, topic: str, view: ViewKey) -> dict[str, Any]:
    device_class, icon = device_class_of(label)
    config = {
        "name": entity_name(view, printable(label)),
        "icon": icon,
        "state_topic": topic,
        "value_template": "{{ value_json.state }}",
        "json_attributes_topic": topic,
    }
    return config if device_class is None else {**config, "device_class": device_class}


def _availability(prefix: str, stream: str, entity: str) -> dict[str, Any]:
    """Return where an entity's availability comes from.

    While a stream is offline, its connectivity is known, and its latest picture stays.
    """
    topics = [{"topic": f"{prefix}/status"}]
    if entity not in ("connectivity", "picture"):
        topics.append({"topic": f"{prefix}/{stream}/availability"})
    return {"availability": topics, "availability_mode": "all"}


def _common(prefix: str, stream: str, name: str) -> dict[str, Any]:
    return {
        "qos": 1,
        "device": {
            "identifiers": [_node(prefix, stream)],
            "name": printable(name),
            "manufacturer": "streamclf",
            "model": "video stream",
        },
        "origin": {"name": "streamclf", "sw_version": __version__},
    }


def _node(prefix: str, stream: str) -> str:
    return f"{prefix.replace('/', '_')}_{stream}"


def _topic(prefix: str, stream: str, component: str, entity: str) -> str:
    return f"{DISCOVERY_PREFIX}/{component}/{_node(prefix, stream)}/{entity}/config"
