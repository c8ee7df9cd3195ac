"""The URL of a broker is parsed, or refused without showing its password."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.errors import UsageError
from streamclf.net.broker_address import BrokerAddress, parse_broker
from streamclf.subscribers.mqtt.broker import client_id


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
