"""`streamclf mqtt` loses no action when it is killed or its broker is away, and reports a silent service as offline."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from support.certificates import make_certificate, server_context
from support.hub_process import HubProcess, action, prediction, status, wait_until
from support.mqtt_broker import MqttBroker
from support.service import Service
from support.short_silence import short_silence_program

from streamclf.config.outlet_options import MqttConfig
from streamclf.errors import UsageError
from streamclf.producer.link import EventProducer
from streamclf.subscribers.outlet_command import run_outlet
from streamclf.subscribers.service_clock import ServiceClock

EPOCH = "9f" * 16
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)
PASSWORD = "tops3cret/+@"


def test_the_fastest_heartbeat_gives_the_clock_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    clock = ServiceClock()
    clock.update(NOW)
    assert clock.age_s(NOW - timedelta(seconds=5)) == pytest.approx(5)
    now_s = 1500.0  # after a long pause, the next heartbeat has waited in a queue
    clock.update(NOW + timedelta(seconds=2))
    assert clock.age_s(NOW) == pytest.approx(500)
    for now_s in (1600.0, 1700.0):  # the service's clock was really set back by an hour
        clock.update(NOW + timedelta(seconds=now_s - 1000 - 3600))
    assert clock.age_s(NOW + timedelta(seconds=700 - 3600)) == pytest.approx(0)


def test_without_the_library_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(UsageError, match=r"pip install 'paho-mqtt"):
        run_outlet("tcp://127.0.0.1:1", MqttConfig(broker="mqtt://127.0.0.1"), position=tmp_path / "p")


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def start(hub: HubProcess, broker: MqttBroker, folder: Path, **env: str) -> Service:
    sign_in = {"STREAMCLF_MQTT_USER": "home", "STREAMCLF_MQTT_PASSWORD": PASSWORD}
    return Service("mqtt", hub.events, broker.url, cwd=folder, env={**sign_in, **env}, program=short_silence_program())


def ends(broker: MqttBroker) -> list[float]:
    """Return the end of each action once, in the order of arrival. Repetitions are allowed, gaps are not."""
    bodies = [json.loads(payload) for payload in broker.on("streamclf/door/action")]
    return list(dict.fromkeys(body["at_s"] for body in bodies if body["phase"] == "end"))


def test_every_action_arrives_in_order_after_a_kill_and_without_the_broker(hub: HubProcess, tmp_path: Path) -> None:
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
            broker.wait_for(lambda: broker.retained.get("streamclf/status") == "online", "online")
            act(20)
            broker.wait_for(lambda: len(ends(broker)) == 20, "20 actions")
            position = tmp_path / "mqtt.position"
            wait_until(lambda: json.loads(position.read_bytes())["offset"] >= 60, "the position")
            broker.confirms = False
            act(20)
            broker.wait_for(lambda: broker.unconfirmed > 0, "an unconfirmed message")
            first.process.kill()
            first.wait()
            broker.wait_for(lambda: broker.retained["streamclf/status"] == "offline", "the last will")
            assert json.loads(position.read_bytes())["offset"] < 120
        act(20)
        broker.confirms = True
        with start(hub, broker, tmp_path) as second:
            broker.wait_for(lambda: len(ends(broker)) == 60, "60 actions")
            broker.stop(lose_retained=True)
            act(20)
            second.wait_for_line("connection lost")
            broker.start()
            broker.wait_for(lambda: len(ends(broker)) == 80, "80 actions")
            broker.wait_for(lambda: broker.retained.get("streamclf/status") == "online", "online again")
            link.post(prediction(number=0))
            broker.wait_for(lambda: "streamclf/door/label" in broker.retained, "the label that the broker had lost")
            second.interrupt()
            assert second.wait() == 0
        assert ends(broker) == expected
        assert broker.retained["streamclf/status"] == "offline"
        assert broker.retained["streamclf/door/availability"] == "online"
        assert json.loads(broker.retained["streamclf/door/active/wave"])["state"] == "OFF"
        assert "homeassistant/sensor/streamclf_door/label/config" in broker.retained
        client_ids = set(broker.sign_ins)
        assert len(client_ids) == 1  # so that the broker publishes an old will before the new session begins
        output = "\n".join(first.lines + second.lines)
        assert PASSWORD not in output
        assert "home" not in output


def test_a_silent_service_is_published_as_offline(hub: HubProcess, tmp_path: Path) -> None:
    with (
        MqttBroker(user="home", password=PASSWORD) as broker,
        start(hub, broker, tmp_path) as outlet,
    ):
        with EventProducer(hub.link, "test") as link:
            broker.wait_for(lambda: broker.retained.get("streamclf/status") == "online", "online")
            link.post(status(state="live"))
            broker.wait_for(lambda: broker.retained.get("streamclf/door/availability") == "online", "a live stream")
            link.post(status(state="offline"))
            broker.wait_for(lambda: broker.retained["streamclf/door/availability"] == "offline", "an offline stream")
        hub.kill()
        broker.wait_for(lambda: broker.retained["streamclf/status"] == "offline", "an offline service")
        hub.start()
        broker.wait_for(lambda: broker.retained["streamclf/status"] == "online", "a new hub")
        assert outlet.process.poll() is None


def test_a_wrong_password_is_an_error_with_a_remedy(hub: HubProcess, tmp_path: Path) -> None:
    with (
        MqttBroker(user="home", password="another") as broker,
        start(hub, broker, tmp_path) as outlet,
    ):
        assert outlet.wait() == 1
        output = "\n".join(outlet.lines)
        assert "STREAMCLF_MQTT_PASSWORD" in outlet.lines[-1]
        assert PASSWORD not in output


def test_tls_requires_a_trusted_certificate(hub: HubProcess, tmp_path: Path) -> None:
    pem = make_certificate(tmp_path, "broker")
    with MqttBroker(user="home", password=PASSWORD, tls=server_context(pem)) as broker:
        with start(hub, broker, tmp_path) as outlet:
            outlet.wait_for_line("(?i)certificate")
        with start(hub, broker, tmp_path, SSL_CERT_FILE=str(pem)):
            broker.wait_for(lambda: broker.retained.get("streamclf/status") == "online", "online")


@pytest.mark.parametrize("is_silent", [False, True], ids=["answers", "closes"])
def test_a_broker_of_mqtt_3_gets_a_connection_that_it_knows(hub: HubProcess, tmp_path: Path, is_silent: bool) -> None:
    with MqttBroker(user="home", password=PASSWORD) as broker:
        broker.is_silent = is_silent
        with start(hub, broker, tmp_path) as outlet:
            broker.wait_for(lambda: broker.retained.get("streamclf/status") == "online", "online")
            outlet.interrupt()
            assert outlet.wait() == 0
        assert broker.refused_5 == (3 if is_silent else 1)
        assert broker.retained["streamclf/status"] == "offline"
