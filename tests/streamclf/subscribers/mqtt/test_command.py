"""MQTT: what Home Assistant gets to see, and that neither kills nor a broker's absence lose an action."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from support.certificates import make_certificate, server_context
from support.hub_process import HubProcess, action, prediction, status, wait_until
from support.mqtt_broker import MqttBroker
from support.service import Service

from streamclf.errors import UsageError
from streamclf.events.types import Action, Lost, Prediction, Status, Window
from streamclf.producer.link import EventProducer
from streamclf.subscribers.mqtt.broker import BrokerAddress, client_id, parse_broker
from streamclf.subscribers.mqtt.command import ServiceClock, run_mqtt
from streamclf.subscribers.mqtt.home_assistant import MAX_LABELS, MAX_STREAMS, STALE_S, Topics, slug

EPOCH = "9f" * 16
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)
PASSWORD = "tops3cret/+@"


def acted(phase: Any, label: str = "wave", stream: str = "door", offset: int = 7) -> Action:
    return Action(
        stream=stream, epoch=EPOCH, offset=offset, previous=0, time=NOW, label=label, phase=phase,
        started_s=1.0, at_s=2.0, probability=0.9, peak=0.95,
    )  # fmt: skip


def predicted(label: str, stream: str = "door") -> Prediction:
    return Prediction(
        stream=stream, epoch=EPOCH, offset=8, previous=7, time=NOW, model="gestures@1",
        window=Window(start_s=1.0, end_s=3.5, frames=32), top=((label, 0.91), ("still", 0.04)),
    )  # fmt: skip


def told(state: Any, stream: str = "door") -> Status:
    return Status(stream=stream, epoch=EPOCH, offset=9, previous=8, time=NOW, state=state)


def sent(topics: Topics, *items: Any, age_s: float = 0.0) -> list[tuple[str, str, bool]]:
    found = [m for item in items for m in topics.messages(item, age_s)]
    return [(m.topic, m.payload.decode(), m.retain) for m in found if not m.topic.startswith("homeassistant/")]


def test_home_assistant_is_told_one_device_a_stream_with_a_sensor_and_a_switch_for_each_action() -> None:
    topics = Topics("streamclf", memory={})
    found = list(topics.messages(told("live"), 0.0)) + list(topics.messages(acted("start"), 0.0))
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
    assert not [m for m in topics.messages(acted("start"), 0.0) if m.topic.startswith("homeassistant/")]  # once
    quiet = Topics("streamclf", discovery=False, memory={})
    assert not [m for m in quiet.messages(acted("start"), 0.0) if m.topic.startswith("homeassistant/")]


def test_labels_only_when_they_change_actions_when_they_start_and_end() -> None:
    topics = Topics("home/cams", memory={})
    found = sent(topics, predicted("wave"), predicted("wave"), predicted("still"), acted("start"), acted("update"))
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
    off = sent(topics, acted("end"))
    assert [json.loads(payload).get("state") for _, payload, _ in off] == [None, "OFF"]
    assert sent(topics, told("live")) == []  # it was taken to be live already
    assert sent(topics, told("frozen")) == [("home/cams/door/availability", "offline", True)]
    every = Topics("streamclf", every=True, memory={})
    assert [topic for topic, _, _ in sent(every, predicted("wave"), acted("update"), told("live"))] == [
        "streamclf/door/prediction", "streamclf/door/availability", "streamclf/door/label",
        "streamclf/door/action", "streamclf/door/active/wave", "streamclf/door/status",
    ]  # fmt: skip


def test_what_is_old_switches_nothing_on_but_an_old_end_still_ends() -> None:
    topics = Topics("streamclf", memory={})
    old = STALE_S + 1
    assert [topic for topic, _, _ in sent(topics, acted("start"), predicted("wave"), age_s=old)] == [
        "streamclf/door/action"
    ]
    # It goes on: the next update, which is a second old at most, says so.
    assert json.loads(sent(topics, acted("update"))[0][1])["state"] == "ON"
    assert [json.loads(p).get("state") for _, p, _ in sent(topics, acted("end"), age_s=old)] == [None, "OFF"]


def test_another_process_goes_on_where_the_memory_ends() -> None:
    first = Topics("streamclf", memory={})
    sent(first, told("live"), predicted("wave"), acted("start"))
    kept = json.loads(json.dumps(first.memory()))
    second = Topics("streamclf", memory=kept)
    assert sent(second, predicted("wave"), acted("update")) == [("streamclf/door/availability", "online", True)]
    described = {m.topic for m in second.everything()}
    assert "homeassistant/binary_sensor/streamclf_door/active_wave/config" in described
    # The broker may have forgotten all, and what the first said of the label is not known in full: say both anew.
    assert [topic for topic, _, _ in sent(second, predicted("wave"), acted("update"))] == [
        "streamclf/door/label",
        "streamclf/door/active/wave",
    ]
    sent(first, acted("end"))
    third = Topics("streamclf", memory=first.memory())
    assert {"state": "OFF", "label": "wave"} in [json.loads(m.payload) for m in third.everything()]
    sent(first, acted("start"))
    again = {m.topic: m.payload for m in first.everything()}
    assert json.loads(again["streamclf/door/active/wave"])["state"] == "ON"
    with pytest.raises(UsageError, match="remove it to begin anew"):
        Topics("streamclf", memory={"streams": {"door": 3}})


def test_labels_that_are_no_topics_stay_apart() -> None:
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


def test_streams_and_labels_without_end_become_no_entities_but_their_actions_are_told() -> None:
    topics = Topics("streamclf", memory={})
    for number in range(MAX_LABELS + 3):
        assert sent(topics, acted("start", f"label{number}"))[0][0] == "streamclf/door/action"
    assert topics.folded == 3
    for number in range(MAX_STREAMS):
        assert sent(topics, acted("start", stream=f"cam{number}"))[0][0] == f"streamclf/cam{number}/action"
    assert topics.folded == 4
    assert len(topics.memory()["streams"]) == MAX_STREAMS


def test_lost_offsets_are_told() -> None:
    ((topic, payload, retain),) = sent(Topics("streamclf", memory={}), Lost(epoch=EPOCH, first=3, last=None))
    assert (topic, retain) == ("streamclf/lost", False)
    assert json.loads(payload) == {"type": "lost", "epoch": EPOCH, "first": 3, "last": None}


def test_the_promptest_heartbeat_tells_the_services_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    clock = ServiceClock()
    clock.note(NOW)
    assert clock.age_s(NOW - timedelta(seconds=5)) == pytest.approx(5)
    now_s = 1500.0  # nothing was read for long: the next heartbeat had to wait
    clock.note(NOW + timedelta(seconds=2))
    assert clock.age_s(NOW) == pytest.approx(500)
    for now_s in (1600.0, 1700.0):  # the service's clock was really set back by an hour
        clock.note(NOW + timedelta(seconds=now_s - 1000 - 3600))
    assert clock.age_s(NOW + timedelta(seconds=700 - 3600)) == pytest.approx(0)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://x",
        "mqtt://",
        "mqtt://h:0",
        "mqtt://h:99999",
        "mqtt://u:s3cret@h:x",
        "mqtt://h/topic",
        "mqtt://:s3cret@h",
    ],
)
def test_what_is_no_broker_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_broker(url, {})
    assert "STREAMCLF_MQTT" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_user_and_password_come_from_the_url_or_the_environment_and_are_not_shown() -> None:
    given = parse_broker("mqtts://u%40x:p%2Fw-in-url@[::1]", {"STREAMCLF_MQTT_PASSWORD": "other-one"})
    assert given == BrokerAddress(host="::1", port=8883, tls=True, user="u@x", password="p/w-in-url")
    assert "p/w" not in repr(given)
    found = parse_broker("mqtt://h:1", {"STREAMCLF_MQTT_USER": "u", "STREAMCLF_MQTT_PASSWORD": "from-environment"})
    assert (found.user, found.password, str(found)) == ("u", "from-environment", "mqtt://h:1")
    assert client_id("a", Path("x")) == client_id("a", Path("x")) != client_id("b", Path("x"))


def test_without_the_library_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(UsageError, match=r"pip install 'streamclf\[mqtt\]'"):
        run_mqtt("tcp://127.0.0.1:1", "mqtt://127.0.0.1", position=tmp_path / "p")


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def start(hub: HubProcess, broker: MqttBroker, folder: Path, *more: str, **env: str) -> Service:
    sign_in = {"STREAMCLF_MQTT_USER": "home", "STREAMCLF_MQTT_PASSWORD": PASSWORD}
    return Service("mqtt", hub.events, broker.url, *more, cwd=folder, env={**sign_in, **env})


def ends(broker: MqttBroker) -> list[float]:
    """Each action's end once, in the order of its first arrival: a repetition is allowed, a gap is not."""
    bodies = [json.loads(payload) for payload in broker.on("streamclf/door/action")]
    return list(dict.fromkeys(body["at_s"] for body in bodies if body["phase"] == "end"))


def test_killed_without_a_word_and_with_the_broker_away_every_action_arrives_in_order(
    hub: HubProcess, tmp_path: Path
) -> None:
    posted = iter(range(1000))
    expected: list[float] = []

    def act(count: int) -> None:
        for _ in range(count):
            at_s = float(next(posted))
            link.post(action("start", at_s=at_s))
            link.post(prediction(number=int(at_s)))
            link.post(action("end", at_s=at_s))
            expected.append(at_s)

    with (
        MqttBroker(user="home", password=PASSWORD) as broker,
        EventProducer(hub.link, "test") as link,
    ):
        with start(hub, broker, tmp_path) as first:
            broker.wait_for(lambda: broker.retained.get("streamclf/status") == "online", "the first greeting")
            act(20)
            broker.wait_for(lambda: len(ends(broker)) == 20, "20 actions")
            position = tmp_path / "mqtt.position"
            wait_until(lambda: json.loads(position.read_bytes())["offset"] >= 60, "the position")
            broker.confirms = False
            act(20)
            broker.wait_for(lambda: broker.unconfirmed > 0, "something it does not confirm")
            first.process.kill()
            first.wait()
            broker.wait_for(lambda: broker.retained["streamclf/status"] == "offline", "the last will")
            assert json.loads(position.read_bytes())["offset"] < 120
        act(20)
        broker.confirms = True
        with start(hub, broker, tmp_path) as second:
            broker.wait_for(lambda: len(ends(broker)) == 60, "60 actions")
            broker.stop(forget=True)
            act(20)
            second.wait_for_line("connection lost")
            broker.start()
            broker.wait_for(lambda: len(ends(broker)) == 80, "80 actions")
            broker.wait_for(lambda: broker.retained.get("streamclf/status") == "online", "the second greeting")
            link.post(prediction(number=0))
            broker.wait_for(lambda: "streamclf/door/label" in broker.retained, "what the broker forgot")
            second.interrupt()
            assert second.wait() == 0
        assert ends(broker) == expected
        assert broker.retained["streamclf/status"] == "offline"
        assert broker.retained["streamclf/door/availability"] == "online"
        assert json.loads(broker.retained["streamclf/door/active/wave"])["state"] == "OFF"
        assert "homeassistant/sensor/streamclf_door/label/config" in broker.retained
        assert len(set(broker.sign_ins)) == 1  # one name, so that an old will ends before a new greeting
        output = "\n".join(first.lines + second.lines)
        assert PASSWORD not in output
        assert "home" not in output


def test_while_the_service_is_silent_the_broker_is_told_so(hub: HubProcess, tmp_path: Path) -> None:
    with (
        MqttBroker(user="home", password=PASSWORD) as broker,
        start(hub, broker, tmp_path) as outlet,
    ):
        with EventProducer(hub.link, "test") as link:
            broker.wait_for(lambda: broker.retained.get("streamclf/status") == "online", "the greeting")
            link.post(status(state="live"))
            broker.wait_for(lambda: broker.retained.get("streamclf/door/availability") == "online", "a live stream")
            link.post(status(state="offline"))
            broker.wait_for(
                lambda: broker.retained["streamclf/door/availability"] == "offline", "a stream that is gone"
            )
        hub.kill()
        broker.wait_for(lambda: broker.retained["streamclf/status"] == "offline", "silence")
        hub.start()
        broker.wait_for(lambda: broker.retained["streamclf/status"] == "online", "a new hub")
        assert outlet.process.poll() is None


def test_a_wrong_password_ends_it_with_the_remedy(hub: HubProcess, tmp_path: Path) -> None:
    with (
        MqttBroker(user="home", password="another") as broker,
        start(hub, broker, tmp_path) as outlet,
    ):
        assert outlet.wait() == 1
        output = "\n".join(outlet.lines)
        assert "STREAMCLF_MQTT_PASSWORD" in outlet.lines[-1]
        assert PASSWORD not in output


def test_over_tls_with_a_certificate_that_is_trusted_and_with_one_that_is_not(hub: HubProcess, tmp_path: Path) -> None:
    pem = make_certificate(tmp_path, "broker")
    with MqttBroker(user="home", password=PASSWORD, tls=server_context(pem)) as broker:
        with start(hub, broker, tmp_path) as outlet:
            outlet.wait_for_line("(?i)certificate")
        with start(hub, broker, tmp_path, SSL_CERT_FILE=str(pem)):
            broker.wait_for(lambda: broker.retained.get("streamclf/status") == "online", "the greeting")
