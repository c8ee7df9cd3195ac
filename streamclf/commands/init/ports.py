"""Find free ports for a new configuration, because another service may run on this machine."""

from __future__ import annotations

import socket
from typing import Final

ATTEMPTS: Final = 50


def find_free_ports(count: int, first: int) -> list[int]:
    """Return the first `count` ports from `first` on that are free on the loopback; `first` … if there are too few."""
    found: list[int] = []
    for port in range(first, first + ATTEMPTS):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    return list(range(first, first + count))
