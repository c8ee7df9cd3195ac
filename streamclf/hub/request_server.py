"""Answer requests on a ROUTER socket in a thread, with limits for clients that flood it or do not read."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

import orjson
import zmq
from pydantic import ValidationError

from streamclf.errors import BusError
from streamclf.hub.guard.curve_gate import CurveGate
from streamclf.hub.guard.peers import FRAME_BYTES, Peers
from streamclf.hub.guard.waiting import Waiting, WaitingAnswers, WaitingRequests
from streamclf.hub.publisher import MAX_REQUEST_BYTES, PUBLIC_IO_THREAD, RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES
from streamclf.hub.socket_thread import SocketThread
from streamclf.net.zeromq import bind, open_socket

_SEND_HIGH_WATER = 2
_RECEIVE_HIGH_WATER = 8
_MAX_READ_AT_ONCE: Final = 1024
_MAX_FRAMES: Final = 8
"""Frames of one request with its envelope: a valid one has three at most."""


class RequestServer:
    """Read requests of one frame, and answer one after the other, until closed."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        reply: Callable[[bytes, str | None], list[bytes]],
        *,
        role: str,
        thread: str,
        gate: CurveGate | None = None,
        clean_up: Callable[[], object] = lambda: None,
    ) -> None:
        """Bind `endpoint`, and answer each request with the frames that `reply` returns.

        `reply` gets the request and the client's key, and runs in the thread, which is called `thread`, like `clean_up`
        when it ends. `role` names the endpoint in the log and in errors. Raises `BusError`.
        """
        self._socket = open_socket(context, zmq.ROUTER, max_bytes=MAX_REQUEST_BYTES, io_thread=PUBLIC_IO_THREAD)
        self._socket.sndhwm, self._socket.rcvhwm = _SEND_HIGH_WATER, _RECEIVE_HIGH_WATER
        self._socket.sndbuf, self._socket.rcvbuf = SEND_BUFFER_BYTES, RECEIVE_BUFFER_BYTES
        self._socket.router_mandatory = True  # fail if a peer sends more requests without reading the replies
        if gate:
            gate.protect(self._socket)
        try:
            self.endpoint = bind(self._socket, endpoint, role, guarded=gate is not None)
        except BusError:
            self._socket.close(0)
            raise
        self.peers = Peers(role, permits=gate.permits if gate else None)
        self._requests = WaitingRequests()
        self._waiting = WaitingAnswers(self.peers)
        self._reply = reply
        self.refused = 0
        """The number of malformed requests."""
        self._thread = SocketThread(thread, self._socket, self._serve, clean_up)

    def close(self) -> None:
        """End the thread and its socket."""
        self._thread.close()

    def _serve(self) -> bool:
        """Read all requests that have arrived, and answer the next one; return whether more wait."""
        self._read_requests()
        if (request := self._requests.pop()) and self.peers.is_connected(request.peer):
            self._answer(request)
        return bool(self._requests)

    def _read_requests(self) -> None:
        # While a peer's requests wait in libzmq, libzmq does not free the memory of the disconnected peer.
        for _ in range(_MAX_READ_AT_ONCE):
            try:
                frames = [self._socket.recv(zmq.NOBLOCK, copy=False)]
            except zmq.Again:
                return
            while frames[-1].more and len(frames) <= _MAX_FRAMES:
                frames.append(self._socket.recv(copy=False))
            last = frames[-1]
            while last.more:
                last = self._socket.recv(copy=False)
            peer = self.peers.sender(frames[-1], sum(FRAME_BYTES + len(frame) for frame in frames[1:]))
            if peer is None:
                continue  # the peer is gone, or its key is no longer allowed
            *route, body = (frame.bytes for frame in frames)
            if len(frames) > _MAX_FRAMES:
                self.refused += 1
                self.peers.disconnect(peer, f"a request of more than {_MAX_FRAMES} frames")
            elif len(route) not in (1, 2) or route[1:] not in ([], [b""]):
                self.refused += 1
            elif (excessive := self._requests.add(Waiting(peer, route, body))) is not None:
                self.peers.disconnect(excessive, "it sends requests without reading the replies")

    def _answer(self, request: Waiting) -> None:
        reply = self._reply(request.body, request.peer.user)
        self._waiting.add(request.peer, sum(len(frame) + FRAME_BYTES for frame in reply))
        try:
            self._socket.send_multipart([*request.route, *reply], zmq.NOBLOCK)
        except zmq.Again:
            self.peers.disconnect(request.peer, "it sends requests without reading the replies")
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:  # the peer left meanwhile
                raise


def error_reply(request_id: str, text: str) -> bytes:
    """Make the reply to a request that cannot be answered."""
    return orjson.dumps({"v": 1, "reply": "error", "id": request_id, "error": text})


def fault_text(error: ValidationError, hidden: frozenset[str] = frozenset()) -> str:
    """Describe the first fault of a request in a line, without the parts `hidden` of its place."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = [str(part)[:64] for part in fault["loc"] if part not in hidden][:4]
    return f"{'.'.join(place) or 'request'}: {fault['msg'][:200]}"
