"""The URL of a broker is parsed, or refused without showing its password."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from support.mqtt_broker import MqttBroker

from streamclf.errors import UsageError
from streamclf.net.broker_address import BrokerAddress, parse_broker
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.mqtt.broker import Broker, client_id
from streamclf.subscribers.mqtt.home_assistant import MqttMessage
from streamclf.subscribers.outlet_report import OutletReport

DEADLINE_S = 20.0


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
def test_an_invalid_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_broker(url, {})
    assert "STREAMCLF_MQTT" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_user_and_password_come_from_the_url_or_the_environment_and_are_not_shown() -> None:
    given = parse_broker("mqtts://u%40x:p%2Fw-in-url@[::1]", {"STREAMCLF_MQTT_PASSWORD": "other-one"})
    assert given == BrokerAddress(host="::1", port=8883, tls=True, user="u@x", password="p/w-in-url")
    assert "p/w" not in repr(given)
    found = parse_broker("mqtt://h:1", {"STREAMCLF_MQTT_USER": "u", "STREAMCLF_MQTT_PASSWORD": "from-environment"})
    assert (found.user, found.password, str(found)) == ("u", "from-environment", "mqtt://h:1")


def test_a_client_id_is_the_same_after_a_restart_and_differs_between_prefixes() -> None:
    assert client_id("a", Path("x")) == client_id("a", Path("x")) != client_id("b", Path("x"))


def test_messages_given_before_the_broker_refused_mqtt_5_are_sent_again_at_once() -> None:
    pytest.importorskip("paho.mqtt.client", reason="needs the extra mqtt")
    message = MqttMessage(topic="t", payload=b"x", retain=False)
    with MqttBroker() as listener:
        address = parse_broker(listener.url, {})
        broker = Broker(address, "client", message, OutletReport("mqtt"))
        assert broker.publish([message, message], StopRequest(DEADLINE_S))
        assert listener.refused_5 == 1
        assert listener.on("t") == ["x", "x"]
        broker.close(message)


def test_no_more_messages_wait_for_confirmation_than_the_broker_accepts() -> None:
    """MQTT 5: a broker ends the connection of a client that sends more than its Receive Maximum."""
    pytest.importorskip("paho.mqtt.client", reason="needs the extra mqtt")
    messages = [MqttMessage(topic="t", payload=b"x", retain=False) for _ in range(8)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        address = BrokerAddress(host="127.0.0.1", port=listener.getsockname()[1], tls=False, user="", password="")
        broker = Broker(address, "client", messages[0], OutletReport("mqtt"))
        sender = threading.Thread(target=broker.publish, args=(messages, StopRequest(DEADLINE_S)))
        sender.start()
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(DEADLINE_S)
            data = connection.recv(1 << 16)
            assert data[0] == 0x10, "CONNECT"
            data = data[2 + data[1] :]  # a first message may follow before the answer
            connection.sendall(b"\x20\x06\x00\x00\x03\x21\x00\x03")  # CONNACK with a Receive Maximum of 3
            waiting: list[int] = []
            largest = confirmed = 0
            while confirmed < len(messages):
                connection.settimeout(0.2 if waiting else DEADLINE_S)
                try:
                    received = connection.recv(1 << 16)
                    assert received, "the client has ended the connection"
                    data += received
                except TimeoutError:
                    for mid in waiting:
                        connection.sendall(b"\x40\x02" + mid.to_bytes(2, "big"))
                    confirmed += len(waiting)
                    waiting = []
                while len(data) >= 2 and len(data) >= 2 + data[1]:
                    packet, data = data[: 2 + data[1]], data[2 + data[1] :]
                    if packet[0] & 0xF0 == 0x30:
                        waiting.append(int.from_bytes(packet[5:7], "big"))
                largest = max(largest, len(waiting))
        sender.join(DEADLINE_S)
        broker.close(messages[0])
    assert largest == 3
