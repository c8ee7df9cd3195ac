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


_READABLE: Final = int(zmq.POLLIN)


_NOW: Final = int(zmq.NOBLOCK)


_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)


_EVENTS: Final = int(zmq.EVENTS)


_RECEIVE_MORE: Final = int(zmq.RCVMORE)


def is_readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether `receive_now` would return a message."""
    return bool(int(socket.getsockopt(_EVENTS)) & _READABLE)


def receive_now(socket: zmq.Socket[bytes]) -> list[bytes]:
    """The next message. Raises `zmq.Again` if there is none."""
    frames = [socket.recv(_NOW)]
    while socket.getsockopt(_RECEIVE_MORE):
        frames.append(socket.recv(_NOW))
    return frames


def send_now(socket: zmq.Socket[bytes], *frames: bytes) -> None:
    """Send one message. Raises `zmq.Again`, and has sent nothing, if nobody can take it now."""
    *more, last = frames
    for frame in more:
        socket.send(frame, _MORE)
    socket.send(last, _NOW)
