"""Addresses by kind; only kinds that the configured host has itself may be contacted."""

from __future__ import annotations

import socket

import pytest

from streamclf.errors import SourceRefusedError
from streamclf.sources.web.targets import Targets, network_kind


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("8.8.8.8", "public"),
        ("2001:4860:4860::8888", "public"),
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("::ffff:192.168.0.1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("0.0.0.0", "invalid"),
        ("0.1.2.3", "invalid"),
        ("::", "invalid"),
        ("224.0.0.1", "invalid"),
        ("ff02::1", "invalid"),
        ("255.255.255.255", "invalid"),
    ],
)
def test_kinds_of_addresses(address: str, kind: str) -> None:
    assert network_kind(address) == kind


def resolver(names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host.lower()]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_private_targets_are_for_private_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"cam": ["192.168.1.5"], "site": ["93.184.216.34"], "inside": ["10.0.0.9"], "here": ["127.0.0.1"]}
    resolver(names, monkeypatch)
    private, public = Targets("cam", "cam"), Targets("site", "site")
    assert private.resolve("CAM", 80)
    assert public.resolve("site", 80)
    assert private.resolve("inside", 80)
    assert private.resolve("site", 80)
    for targets, host in ((private, "here"), (public, "inside"), (public, "here"), (public, "cam")):
        with pytest.raises(SourceRefusedError, match=f"leads to {host}, a "):
            targets.resolve(host, 80)


def test_a_public_name_that_becomes_private_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"site": ["93.184.216.34"]}
    resolver(names, monkeypatch)
    targets = Targets("site", "site")
    assert targets.resolve("site", 80)
    names["site"] = ["10.0.0.9"]
    with pytest.raises(SourceRefusedError, match="a private address"):
        targets.resolve("site", 80)
