"""Test the checks of endpoints."""

from __future__ import annotations

import pytest

from streamclf.errors import BusError
from streamclf.net.endpoints import is_loopback, is_loopback_host, local_endpoint, reachable_endpoint


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.2.1", "::1"])
def test_loopback_host_is_recognised(host: str) -> None:
    assert is_loopback_host(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "192.0.2.1", "*", "eth0", "::", "127.0.0.1.evil.example", "localhost.evil"]
)
def test_host_that_may_lead_to_the_network_is_not_loopback(host: str) -> None:
    assert not is_loopback_host(host)


def test_loopback_endpoint_is_recognised_and_one_without_port_is_refused() -> None:
    assert is_loopback("tcp://[::1]:5555", "publish.events")
    assert not is_loopback("tcp://*:5555", "publish.events")
    with pytest.raises(BusError, match=r"publish\.events 'tcp://127\.0\.0\.1': must be like tcp://127\.0\.0\.1:5555"):
        is_loopback("tcp://127.0.0.1", "publish.events")


def test_reachable_endpoint_has_the_used_host_and_the_named_port() -> None:
    assert reachable_endpoint("tcp://127.0.0.1:5556", "tcp://10.0.0.7:5555") == "tcp://10.0.0.7:5556"
    assert reachable_endpoint("tcp://0.0.0.0:5556", "tcp://[::1]:5555") == "tcp://[::1]:5556"
    assert reachable_endpoint("ipc:///run/replay", "tcp://10.0.0.7:5555") == "ipc:///run/replay"


@pytest.mark.parametrize(
    ("bound", "reached"),
    [
        ("tcp://0.0.0.0:5555", "tcp://127.0.0.1:5555"),
        ("tcp://[::]:5555", "tcp://[::1]:5555"),
        ("tcp://192.0.2.7:5555", "tcp://192.0.2.7:5555"),
        ("ipc:///run/streamclf/events", "ipc:///run/streamclf/events"),
    ],
)
def test_a_program_on_the_same_machine_reaches_an_endpoint_of_every_address_through_loopback(
    bound: str, reached: str
) -> None:
    assert local_endpoint(bound) == reached
