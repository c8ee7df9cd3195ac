"""Choose a TCP port for a program that must know its port before it listens."""

from __future__ import annotations

import random
import socket

PORTS = range(20_000, 32_000)
"""Below the ports that Linux and macOS give to connections and to listeners on port 0.

One of those may be taken between the choice and its use, by any process of a test that runs at the same time.
"""


def free_port() -> int:
    """Return a port of the loopback interface on which no program listens."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port of {PORTS}")
