"""Check ZeroMQ endpoints: their form, who can reach them, and how another machine reaches them."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from streamclf.errors import BusError, UsageError

ENDPOINT: Final = re.compile(r"^(tcp://[^\s/]+:(\d{1,5}|\*)|ipc://\S+)$")
FLEET_SCHEME: Final = "fleet://"
DIRECTORY_PORT: Final = 5550
"""The port of a fleet's directory if its file does not name another."""
_TCP: Final = re.compile(r"tcp://(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d{1,5}|\*)")


def is_loopback(endpoint: str, role: str) -> bool:
    """Return whether only programs on this machine can reach a tcp:// endpoint. Raises `BusError` for another form.

    `role` names the endpoint in the error, such as `publish.events`.
    """
    match = _TCP.fullmatch(endpoint)
    if not match:
        raise BusError(f"{role} {endpoint!r}: must be like tcp://127.0.0.1:5555 or ipc:///run/streamclf/events")
    return is_loopback_host(match["host"].strip("[]"))


def is_loopback_host(host: str) -> bool:
    """Return whether `host` is `localhost` or a loopback address, without brackets around IPv6."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False  # an interface's name, * or a host name: it may lead to the network


def directory_endpoint(address: str) -> str:
    """Return the endpoint of a fleet's directory, given `fleet://HOST:PORT`. Raises `UsageError`."""
    endpoint = "tcp://" + address.removeprefix(FLEET_SCHEME)
    if not is_remote_endpoint(endpoint):
        raise UsageError(
            f"endpoint {address!r}: must be like fleet://host:{DIRECTORY_PORT}, with the port of the fleet's directory"
        )
    return endpoint


def check_service_endpoint(endpoint: str) -> None:
    """Raise `UsageError` unless `endpoint` has the form of a service's endpoint, or of a fleet's address."""
    if endpoint.startswith(FLEET_SCHEME):
        directory_endpoint(endpoint)
    elif not ENDPOINT.match(endpoint):
        raise UsageError(f"endpoint {endpoint!r}: must be like tcp://192.0.2.7:5555 or fleet://192.0.2.7:5550")


def is_remote_endpoint(endpoint: str) -> bool:
    """Return whether `endpoint` is tcp:// with one host and a port, to which a client can connect."""
    match = _TCP.fullmatch(endpoint)
    if match is None or match["host"] == "*" or match["port"] == "*":
        return False
    return 1 <= int(match["port"]) <= 65535


def reachable_endpoint(own: str, used: str) -> str:
    """Return a service's endpoint as this machine reaches it, given another endpoint of it that this machine uses.

    `own` is the endpoint as the service bound it. From another machine only its port is right, so the host is taken
    from `used`.
    """
    own_url, used_url = urlsplit(own), urlsplit(used)
    if own_url.scheme != "tcp" or used_url.scheme != "tcp":
        return own
    return f"tcp://{used_url.netloc.rpartition(':')[0]}:{own_url.netloc.rpartition(':')[2]}"


def local_endpoint(bound: str) -> str:
    """Return the endpoint at which programs on the same machine reach an endpoint as it was bound.

    A socket that is bound to every address is reached through loopback.
    """
    match = _TCP.fullmatch(bound)
    host = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "[::]": "[::1]"}.get(match["host"]) if match else None  # noqa: S104
    return bound if match is None or host is None else f"tcp://{host}:{match['port']}"
