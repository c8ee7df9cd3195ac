"""TODO."""

from __future__ import annotations

import errno
import os
import re
import socket as sockets
import stat
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from streamclf.errors import BusError

if TYPE_CHECKING:
    pass


ENDPOINT = re.compile(r"^(tcp://[^\s/]+:(\d{1,5}|\*)|ipc://\S+)$")


_TCP = re.compile(r"tcp://(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d{1,5}|\*)")


_REMEDY = {
    errno.EADDRINUSE: "another program uses it; stop that one, or give another port (or * for any free one)",
    errno.EACCES: "not permitted; give a port above 1023",
    errno.EPERM: "not permitted; give a port above 1023",
    errno.EADDRNOTAVAIL: "no such address on this machine; give 127.0.0.1",
    errno.ENODEV: "no such address on this machine; give 127.0.0.1",
    errno.ENOENT: "its directory does not exist; create it first",
    errno.ENAMETOOLONG: "too long for a socket; give a path under 100 bytes",
}


def bind(socket: zmq.Socket[bytes], endpoint: str, role: str, *, guarded: bool = False) -> str:
    """Bind and return the endpoint as really bound (`tcp://127.0.0.1:*` gets its port). Raises `BusError`.

    `guarded`: a gate asks each client for its key, so the endpoint may be open to the network.
    """
    if endpoint.startswith("ipc://"):
        _refuse_shared_directory(endpoint, role)
    elif not is_loopback(endpoint, role) and not guarded:
        raise BusError(
            f"{role} {endpoint}: anybody in the network could read it; set publish.keys and publish.allow (made by "
            "`streamclf keys`), or bind 127.0.0.1 and reach it through a tunnel"
        )
    socket.backlog = 64
    socket.ipv6 = "[" in endpoint
    before = os.umask(0o177)  # an ipc socket is for its owner alone
    try:
        _refuse_served(endpoint, role)
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        remedy = _REMEDY.get(
            error.errno or 0, "give an endpoint like tcp://127.0.0.1:5555 or ipc:///run/streamclf/events"
        )
        raise BusError(f"{role} {endpoint}: {error.strerror}; {remedy}") from error
    finally:
        os.umask(before)
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def is_loopback(endpoint: str, role: str) -> bool:
    """Whether only programs on this machine can reach a tcp:// endpoint. Raises `BusError` if it is none."""
    match = _TCP.fullmatch(endpoint)
    if not match:
        raise BusError(f"{role} {endpoint!r}: like tcp://127.0.0.1:5555 or ipc:///run/streamclf/events")
    return _is_loopback(match["host"].strip("[]"))


def _refuse_shared_directory(endpoint: str, role: str) -> None:
    path = Path(endpoint.removeprefix("ipc://"))
    if str(path)[:1] in ("@", "*"):
        raise BusError(f"{role} {endpoint}: a name that any user could open; give a path in a directory of your own")
    try:
        status = path.parent.stat()
    except OSError:
        return  # bind says what is wrong with it
    if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid():
        raise BusError(
            f"{role} {endpoint}: other users may enter {path.parent} (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"give a path in a directory of your own: mkdir -m 700"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False  # an interface's name, * or a host name: whatever it means, it is not known to be loopback


def _refuse_served(endpoint: str, role: str) -> None:
    """ZeroMQ would take over the socket file of a running service without a word."""
    path = Path(endpoint.removeprefix("ipc://"))
    if not endpoint.startswith("ipc://") or not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise BusError(f"{role} {endpoint}: a file that is not a socket is there; give another path")
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return  # left behind by a process that is gone
    raise BusError(f"{role} {endpoint}: another program serves it; stop that one, or give another path")
