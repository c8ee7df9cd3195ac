"""Events become the messages and descriptions that Home Assistant needs. An old event does not switch an entity on."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from streamclf.errors import UsageError
from streamclf.events.types import Action, Lost, Prediction, Status, Window
from streamclf.subscribers.mqtt.home_assistant import MAX_LABELS, MAX_STREAMS, STALE_S, Topics, slug

EPOCH = "9f" * 16
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)


def action(phase: Any, label: str = "wave", stream: str = "door", offset: int = 7) -> Action:
    return Action(
        stream=stream, epoch=EPOCH, offset=offset, previous=0, time=NOW, label=label, phase=phase,
        started_s=1.0, at_s=2.0, probability=0.9, peak=0.95,
    )  # fmt: skip


def prediction(label: str, stream: str = "door") -> Prediction:
    return Prediction(
        stream=stream, epoch=EPOCH, offset=8, previous=7, time=NOW, model="gestures@1",
        window=Window(start_s=1.0, end_s=3.5, frames=32), top=((label, 0.91), ("still", 0.04)),
    )  # fmt: skip


def status(state: Any, stream: str = "door") -> Status:
    return Status(stream=stream, epoch=EPOCH, offset=9, previous=8, time=NOW, state=state)


def messages(topics: Topics, *items: Any, age_s: float = 0.0) -> list[tuple[str, str, bool]]:
    found = [m for item in items for m in topics.messages(item, age_s)]
    return [(m.topic, m.payload.decode(), m.retain) for m in found if not m.topic.startswith("homeassistant/")]


def test_a_stream_is_described_as_a_device_with_a_sensor_and_a_binary_sensor_for_each_action() -> None:
    topics = Topics("streamclf", memory={})
    found = list(topics.messages(status("live"), 0.0)) + list(topics.messages(action("start"), 0.0))
    configs = {m.topic: json.loads(m.payload) for m in found if m.topic.startswith("homeassistant/") and m.retain}
    assert set(configs) == {
        "homeassistant/sensor/streamclf_door/label/config",
        "homeassistant/binary_sensor/streamclf_door/active_wave/config",
    }
    sensor = configs["homeassistant/sensor/streamclf_door/label/config"]
    binary = configs["homeassistant/binary_sensor/streamclf_door/active_wave/config"]
    assert (sensor["unique_id"], binary["unique_id"]) == ("streamclf_door_label", "streamclf_door_active_wave")
    assert sensor["device"] == binary["device"]
    assert sensor["device"]["identifiers"] == ["streamclf_door"]
    assert sensor["state_topic"] == sensor["json_attributes_topic"] == "streamclf/door/label"
    assert sensor["value_template"] == "{{ value_json.label }}"
    assert binary["name"] == "wave"
    assert binary["state_topic"] == "streamclf/door/active/wave"
    assert sensor["availability_mode"] == "all"
    assert sensor["availability"] == [{"topic": "streamclf/status"}, {"topic": "streamclf/door/availability"}]
    assert all(config["qos"] == 1 and config["origin"]["name"] == "streamclf" for config in configs.values())
    assert not [
        m for m in topics.messages(action("start"), 0.0) if m.topic.startswith("homeassistant/")
    ]  # an action is described once
    quiet = Topics("streamclf", discovery=False, memory={})
    assert not [m for m in quiet.messages(action("start"), 0.0) if m.topic.startswith("homeassistant/")]


def test_labels_are_published_when_they_change_and_actions_when_they_start_and_end() -> None:
    topics = Topics("home/cams", memory={})
    found = messages(
        topics, prediction("wave"), prediction("wave"), prediction("still"), action("start"), action("update")
    )
    assert [(topic, retain) for topic, _, retain in found] == [
        ("home/cams/door/availability", True),
        ("home/cams/door/label", True),
        ("home/cams/door/label", True),
        ("home/cams/door/action", False),
        ("home/cams/door/active/wave", True),
    ]
    assert json.loads(found[1][1]) == {
        "label": "wave", "probability": 0.91, "model": "gestures@1",
        "time": "2026-01-31T12:00:00.000000Z", "epoch": EPOCH, "offset": 8,
    }  # fmt: skip
    assert json.loads(found[4][1])["state"] == "ON"
    off = messages(topics, action("end"))
    assert [json.loads(payload).get("state") for _, payload, _ in off] == [None, "OFF"]
    assert messages(topics, status("live")) == []  # its prediction has shown that it is live
    assert messages(topics, status("frozen")) == [("home/cams/door/availability", "offline", True)]
    every = Topics("streamclf", types=("prediction", "action", "status"), updates=True, memory={})
    assert [topic for topic, _, _ in messages(every, prediction("wave"), action("update"), status("live"))] == [
        "streamclf/door/prediction", "streamclf/door/availability", "streamclf/door/label",
        "streamclf/door/action", "streamclf/door/active/wave", "streamclf/door/status",
    ]  # fmt: skip


def test_an_old_start_does_not_switch_on_but_an_old_end_switches_off() -> None:
    topics = Topics("streamclf", memory={})
    old = STALE_S + 1
    assert [topic for topic, _, _ in messages(topics, action("start"), prediction("wave"), age_s=old)] == [
        "streamclf/door/action"
    ]
    # The action goes on: its next update, at most a second old, switches it on.
    assert json.loads(messages(topics, action("update"))[0][1])["state"] == "ON"
    assert [json.loads(p).get("state") for _, p, _ in messages(topics, action("end"), age_s=old)] == [None, "OFF"]


def test_another_process_continues_from_the_memory() -> None:
    first = Topics("streamclf", memory={})
    messages(first, status("live"), prediction("wave"), action("start"))
    kept = json.loads(json.dumps(first.memory()))
    second = Topics("streamclf", memory=kept)
    assert messages(second, prediction("wave"), action("update")) == [("streamclf/door/availability", "online", True)]
    described = {m.topic for m in second.retained()}
    assert "homeassistant/binary_sensor/streamclf_door/active_wave/config" in described
    # The broker may have lost everything, and only the first process knew the full messages: publish both again.
    assert [topic for topic, _, _ in messages(second, prediction("wave"), action("update"))] == [
        "streamclf/door/label",
        "streamclf/door/active/wave",
    ]
    messages(first, action("end"))
    third = Topics("streamclf", memory=first.memory())
    assert {"state": "OFF", "label": "wave"} in [json.loads(m.payload) for m in third.retained()]
    messages(first, action("start"))
    again = {m.topic: m.payload for m in first.retained()}
    assert json.loads(again["streamclf/door/active/wave"])["state"] == "ON"
    with pytest.raises(UsageError, match="remove the file to start anew"):
        Topics("streamclf", memory={"streams": {"door": 3}})


def test_labels_that_cannot_be_topics_stay_different() -> None:
    assert slug("wave") == "wave"
    names = ["a/b", "a b", "a+b", "a#b", "é", "\0", "x" * 128, "x" * 127]
    found = [slug(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(
        each.replace("_", "").replace("-", "").isalnum() and each.isascii() and len(each) <= 64 for each in found
    )
    for prefix in ("", "a/", "/a", "a//b", "#", "a b", "$SYS", "a/b/c/d/e"):
        with pytest.raises(UsageError, match="prefix"):
            Topics(prefix, memory={})


def test_streams_and_labels_beyond_the_limits_have_no_entity_but_their_actions_are_published() -> None:
    topics = Topics("streamclf", memory={})
    for number in range(MAX_LABELS + 3):
        assert messages(topics, action("start", f"label{number}"))[0][0] == "streamclf/door/action"
    assert topics.unlisted == 3
    for number in range(MAX_STREAMS):
        assert messages(topics, action("start", stream=f"cam{number}"))[0][0] == f"streamclf/cam{number}/action"
    assert topics.unlisted == 4
    assert len(topics.memory()["streams"]) == MAX_STREAMS


def test_a_lost_range_is_published() -> None:
    ((topic, payload, retain),) = messages(Topics("streamclf", memory={}), Lost(epoch=EPOCH, first=3, last=None))
    assert (topic, retain) == ("streamclf/lost", False)
    assert json.loads(payload) == {"type": "lost", "epoch": EPOCH, "first": 3, "last": None}
