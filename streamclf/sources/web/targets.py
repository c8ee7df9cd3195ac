"""Decide which addresses may be contacted: a server must not lead requests into private networks."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from typing import Any, Final

from streamclf.errors import SourceRefusedError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
SHARED_NETWORK: Final = ipaddress.ip_network("100.64.0.0/10")
"""Addresses behind a provider's address translation (RFC 6598)."""
TRANSLATED_NETWORK: Final = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that stand for IPv4 addresses (RFC 6052)."""


def network_kind(text: str) -> str:
    """Return the kind of an IP address: public, loopback, link-local, private, or invalid (no host has it)."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in TRANSLATED_NETWORK or (int(address) >> 32 == 0 and int(address) > 1):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return network_kind(str(inner))
    if address.is_multicast or address.is_unspecified or (address.version == 4 and int(address) >> 24 in (0, 255)):
        return "invalid"
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    return "public" if address.is_global and address not in SHARED_NETWORK else "private"


class Targets:
    """Resolve host names, and refuse addresses of kinds that the configured host does not have itself.

    The caller connects to a returned address, so that a name cannot change its address after the check.
    """

    def __init__(self, host: str, shown: str) -> None:
        """`host` is the configured one; errors begin with `shown`."""
        self._host = host.lower()
        self._shown = shown
        self._lock = threading.Lock()
        self._kinds: frozenset[str] | None = None

    def resolve(self, host: str, port: int) -> list[tuple[Any, ...]]:
        """Return the results of `socket.getaddrinfo` that may be contacted.

        The configured host must be resolved first. Raises `SourceRefusedError`, `OSError`.
        """
        try:
            places = list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except UnicodeError:
            raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
        kinds = [network_kind(str(place[4][0])) for place in places]
        with self._lock:
            if self._kinds is None and host.lower() == self._host:
                self._kinds = frozenset(kinds) | {"public"}
            allowed = self._kinds or frozenset({"public"})
        found = [place for place, kind in zip(places, kinds, strict=True) if kind in allowed]
        if not found:
            raise SourceRefusedError(
                f"{self._shown}: the server leads to {host[:80]}, a {kinds[0]} address; "
                "such targets are read only if the configured host has one itself"
            )
        return found

    def connect(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Connect to the first address that accepts, all together within `timeout_s`."""
        places = self.resolve(host, port)
        deadline = time.monotonic() + timeout_s
        for number, (family, kind, protocol, _, place) in enumerate(places):
            left_s = deadline - time.monotonic()
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(max(0.05, left_s / (len(places) - number)))
                sock.connect(place)
            except OSError:
                sock.close()
                if number == len(places) - 1 or left_s <= 0:
                    raise
            else:
                return sock
        raise OSError("the host name has no address")
