"""Home Assistant accepts every description: its keys are known, and no two labels share a topic."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.events.views import UNNAMED, ViewKey
from streamclf.subscribers.mqtt.device_class import DEFAULT_ICON, device_class_of
from streamclf.subscribers.mqtt.discovery import MAX_STATE_CHARS, describe_stream, discovery_topics
from streamclf.subscribers.mqtt.view_topics import entity_of, slug, view_base

# The keys of https://www.home-assistant.io/integrations/{sensor,binary_sensor,event}.mqtt/ that concern a description.
_SHARED = {
    "availability", "availability_mode", "availability_template", "availability_topic", "default_entity_id", "device",
    "enabled_by_default", "encoding", "entity_category", "entity_picture", "icon", "json_attributes_template",
    "json_attributes_topic", "name", "origin", "payload_available", "payload_not_available", "platform", "qos",
    "state_topic", "unique_id", "value_template", "device_class",
}  # fmt: skip
KNOWN_KEYS = {
    "sensor": _SHARED | {
        "expire_after", "force_update", "last_reset_value_template", "options", "state_class",
        "suggested_display_precision", "unit_of_measurement",
    },
    "binary_sensor": _SHARED | {"expire_after", "force_update", "off_delay", "payload_off", "payload_on"},
    "event": _SHARED | {"event_types"},
}  # fmt: skip
REQUIRED_KEYS = {"sensor": {"state_topic"}, "binary_sensor": {"state_topic"}, "event": {"state_topic", "event_types"}}
DEVICE_KEYS = {
    "configuration_url", "connections", "hw_version", "identifiers", "manufacturer", "model", "model_id", "name",
    "serial_number", "suggested_area", "sw_version", "via_device",
}  # fmt: skip
DEVICE_CLASSES = {
    "battery", "battery_charging", "carbon_monoxide", "cold", "connectivity", "door", "garage_door", "gas", "heat",
    "light", "lock", "moisture", "motion", "moving", "occupancy", "opening", "plug", "power", "presence", "problem",
    "running", "safety", "smoke", "sound", "tamper", "update", "vibration", "window",
}  # fmt: skip
ODD_LABELS = [
    "wave", "Wave", "WAVE", "wavé", "wave\u0301", "a/b", "a b", "a+b", "a#b", "a_b", "é", "e", "ß", "ss", "\0", "\n",
    " ", "波", "🚪", "x" * 256, "x" * 255, "é" * 256, "label", "connectivity", "action", "../..", "$SYS", "\u202e",
    "\ud800",
]  # fmt: skip


def described(labels: list[str], name: str = "Door") -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for topic, payload in describe_stream("home/cams", "door", name, {UNNAMED: labels}).items():
        discovery, component, node, entity, config = topic.split("/")
        assert (discovery, config) == ("homeassistant", "config")
        for level in (node, entity):
            assert level.isascii()
            assert level.replace("_", "").replace("-", "").isalnum()
        found[component, entity] = json.loads(payload)
    return found


def test_every_key_is_known_to_home_assistant() -> None:
    labels = [label for label in ODD_LABELS if label != "\ud800"]  # it cannot be in JSON
    for (component, _), config in described(labels).items():
        assert config.keys() <= KNOWN_KEYS[component]
        assert config.keys() >= REQUIRED_KEYS[component]
        assert config["device"].keys() <= DEVICE_KEYS
        assert config["origin"].keys() <= {"name", "sw_version", "support_url"}
        assert config["origin"]["name"]
        assert config["availability_mode"] in ("all", "any", "latest")
        assert all(each.keys() == {"topic"} for each in config["availability"])
        assert config.get("entity_category", "diagnostic") == "diagnostic"
        if component == "binary_sensor":
            assert config.get("device_class", "motion") in DEVICE_CLASSES
        else:
            assert "device_class" not in config
        assert not any(unicodedata.category(char) == "Cc" for char in config["name"] + config["device"]["name"])


def test_no_two_labels_share_a_topic_or_an_id() -> None:
    assert len({slug(label) for label in ODD_LABELS}) == len(ODD_LABELS)
    assert slug(slug("a/b")) != slug("a/b")  # the slug of another label, used as a label
    labels = [label for label in ODD_LABELS if label != "\ud800"]
    configs = described(labels)
    actions = [config for (component, entity), config in configs.items() if entity.startswith("active_")]
    assert len(actions) == len(labels)
    ids = [config["unique_id"] for config in configs.values()]
    assert len(set(ids)) == len(ids)
    assert len({config["state_topic"] for config in actions}) == len(labels)
    views = {UNNAMED: labels, ViewKey("gate"): labels}
    assert discovery_topics("home/cams", "door", views) == set(describe_stream("home/cams", "door", "Door", views))
    types = configs["event", "action"]["event_types"]
    assert len(set(types)) == len(types)


def test_a_long_label_fits_into_a_state() -> None:
    template = described([])["sensor", "label"]["value_template"]
    assert template == f"{{{{ value_json.label[:{MAX_STATE_CHARS}] }}}}"


def test_a_stream_without_actions_has_no_event_entity() -> None:
    assert set(described([])) == {("sensor", "label"), ("binary_sensor", "connectivity")}


@pytest.mark.parametrize(
    ("label", "device_class"),
    [
        ("covered", "tamper"), ("moved", "tamper"), ("defocused", "tamper"), ("shaking", "vibration"),
        ("flashing", "light"), ("noise", "problem"), ("normal", None), ("unknown", None), ("Fight", "safety"),
        ("person_detected", "occupancy"), ("dog barking", "sound"), ("Ｆａｌｌ", "safety"), ("scar", None), ("", None),
        ("door open", "opening"),
    ],
)  # fmt: skip
def test_the_words_of_a_label_choose_its_device_class(label: str, device_class: str | None) -> None:
    found, icon = device_class_of(label)
    assert found == device_class
    assert icon.startswith("mdi:")
    assert (icon == DEFAULT_ICON) == (label in ("normal", "scar", ""))


@given(
    st.lists(
        st.builds(
            ViewKey,
            *[st.none() | st.sampled_from(["a", "b", "a_b", "active", "label", "region", "model", "x" * 64])] * 2,
        ),
        min_size=2, max_size=2, unique=True,
    )
)  # fmt: skip
def test_no_two_views_share_a_topic_or_an_entity(views: list[ViewKey]) -> None:
    one, other = (describe_stream("p", "door", "Door", {view: ODD_LABELS[:4]}) for view in views)
    assert {*one} & {*other} <= {"homeassistant/binary_sensor/p_door/connectivity/config"}
    states = [{config["state_topic"] for config in map(json.loads, each.values())} for each in (one, other)]
    assert states[0] & states[1] <= {"p/door/availability"}
    assert view_base("p/door", views[0]) != view_base("p/door", views[1])
    assert entity_of(views[0], "label") != entity_of(views[1], "label")
