"""Open, bind, read and write ZeroMQ sockets with the same limits everywhere, in the hub and in its clients."""

from __future__ import annotations

import errno
import os
import socket as sockets
import stat
from pathlib import Path
from typing import Final

import zmq

from streamclf.errors import BusError, EndpointInUseError
from streamclf.net.endpoints import is_loopback

DEAD_PEER_S: Final = 6
"""TCP disconnects a peer whose machine does not answer for this long, or that does not read the sent data."""
_HANDSHAKE_MS: Final = 3000
"""libzmq closes a connection whose handshake takes longer."""
_BACKLOG: Final = 64
"""Connections that may wait to be accepted."""
_PROBE_S: Final = 1.0
"""Time to find out whether another program serves an ipc:// path."""

_READABLE: Final = int(zmq.POLLIN)
_NOW: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS: Final = int(zmq.EVENTS)
_RECEIVE_MORE: Final = int(zmq.RCVMORE)

_REMEDY: Final = {
    errno.EADDRINUSE: "another program uses it; stop that program, or give another port (or * for any free one)",
    errno.EACCES: "not permitted; give a port above 1023",
    errno.EPERM: "not permitted; give a port above 1023",
    errno.EADDRNOTAVAIL: "no such address on this machine; give 127.0.0.1",
    errno.ENODEV: "no such address on this machine; give 127.0.0.1",
    errno.ENOENT: "its directory does not exist; create it first",
    errno.ENAMETOOLONG: "too long for a socket; give a path under 100 bytes",
}


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, *, max_bytes: int, io_thread: int = 0
) -> zmq.Socket[bytes]:
    """Open a socket with the limits that every socket of the project has, before bind or connect.

    `max_bytes` bounds one received message. `io_thread` is a mask of libzmq's I/O threads, in a context with two.
    """
    socket = context.socket(kind)
    if context.get(zmq.IO_THREADS) > 1:
        socket.affinity = io_thread
    socket.linger = 0
    socket.maxmsgsize = max_bytes
    socket.handshake_ivl = _HANDSHAKE_MS
    # Never use libzmq's own heartbeats. libzmq aborts the process when a heartbeat is due on a connection that failed
    # while its messages waited to be read (libzmq issues 3937, 4364, 4767; still in version 4.3.5). A hostile client
    # can cause this at will.
    socket.tcp_keepalive, socket.tcp_keepalive_idle = 1, DEAD_PEER_S // 2
    socket.tcp_keepalive_intvl, socket.tcp_keepalive_cnt = 1, DEAD_PEER_S - DEAD_PEER_S // 2
    socket.tcp_maxrt = DEAD_PEER_S * 1000
    return socket


def bind(socket: zmq.Socket[bytes], endpoint: str, role: str, *, guarded: bool = False) -> str:
    """Bind a socket and return the endpoint that it got (`tcp://127.0.0.1:*` gets its port). Raises `BusError`.

    `role` names the endpoint in errors. `guarded` means that a gate checks each client's key, so the endpoint may be
    open to the network.
    """
    if endpoint.startswith("ipc://"):
        _refuse_shared_directory(endpoint, role)
    elif not is_loopback(endpoint, role) and not guarded:
        raise BusError(
            f"{role} {endpoint}: anybody in the network could read it; set publish.keys and publish.allow (made by "
            "`streamclf keys`), or bind 127.0.0.1 and reach it through a tunnel"
        )
    socket.backlog = _BACKLOG
    socket.ipv6 = "[" in endpoint
    umask = os.umask(0o177)  # only its owner may open an ipc socket
    try:
        _refuse_served_path(endpoint, role)
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        remedy = _REMEDY.get(
            error.errno or 0, "give an endpoint like tcp://127.0.0.1:5555 or ipc:///run/streamclf/events"
        )
        kind = EndpointInUseError if error.errno == errno.EADDRINUSE else BusError
        raise kind(f"{role} {endpoint}: {zmq.strerror(error.errno or 0)}; {remedy}") from error
    finally:
        os.umask(umask)
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def is_readable(socket: zmq.Socket[bytes]) -> bool:
    """Return whether `receive_now` would return a message."""
    return bool(int(socket.getsockopt(_EVENTS)) & _READABLE)


def receive_now(socket: zmq.Socket[bytes]) -> list[bytes]:
    """Return the frames of the next message. Raises `zmq.Again` if there is none."""
    frames = [socket.recv(_NOW)]
    while socket.getsockopt(_RECEIVE_MORE):
        frames.append(socket.recv(_NOW))
    return frames


def send_now(socket: zmq.Socket[bytes], *frames: bytes) -> None:
    """Send one message without waiting. Raises `zmq.Again`, and sends nothing, if no peer can accept it now."""
    *more, last = frames
    for frame in more:
        socket.send(frame, _MORE)
    socket.send(last, _NOW)


def _refuse_shared_directory(endpoint: str, role: str) -> None:
    path = Path(endpoint.removeprefix("ipc://"))
    if str(path)[:1] in ("@", "*"):
        raise BusError(f"{role} {endpoint}: a name that any user could open; give a path in a directory of your own")
    try:
        status = path.parent.stat()
    except OSError:
        return  # bind reports what is wrong with the directory
    if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid():
        raise BusError(
            f"{role} {endpoint}: other users may enter {path.parent} (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"give a path in a directory of your own: mkdir -m 700"
        )


def _refuse_served_path(endpoint: str, role: str) -> None:
    """Raise `BusError` if another program serves an ipc:// path: ZeroMQ would silently take over its socket file."""
    path = Path(endpoint.removeprefix("ipc://"))
    if not endpoint.startswith("ipc://") or not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise BusError(f"{role} {endpoint}: the path is a file that is not a socket; give another path")
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
        except OSError:
            return  # a process that has ended did not remove it
    raise EndpointInUseError(f"{role} {endpoint}: another program serves it; stop that program, or give another path")
