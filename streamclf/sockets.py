"""ZeroMQ's sockets, with the limits that all of ours have, the hub's and its consumers'."""

from __future__ import annotations

from typing import Final

import zmq

VANISHED_S: Final = 6
"""TCP gives up a peer whose machine does not answer for this long, or which takes nothing of what is sent to it."""


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, *, max_bytes: int, io_thread: int = 0
) -> zmq.Socket[bytes]:
    """A socket with the limits that every one of ours has, before bind or connect."""
    socket = context.socket(kind)
    if context.get(zmq.IO_THREADS) > 1:
        socket.affinity = io_thread
    socket.linger = 0
    socket.maxmsgsize = max_bytes
    socket.handshake_ivl = 3000
    # Never libzmq's own heartbeats: its process aborts when one is due on a connection that failed while its messages
    # waited for us (libzmq issues 3937, 4364, 4767; version 4.3.5 still), which a stranger can bring about at will.
    socket.tcp_keepalive, socket.tcp_keepalive_idle = 1, VANISHED_S // 2
    socket.tcp_keepalive_intvl, socket.tcp_keepalive_cnt = 1, VANISHED_S - VANISHED_S // 2
    socket.tcp_maxrt = VANISHED_S * 1000
    return socket
