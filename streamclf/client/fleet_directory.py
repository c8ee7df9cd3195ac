"""Ask the directory of a fleet which nodes there are, once a second, without ever waiting for it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import orjson
import zmq

from streamclf.errors import BusError, EventError
from streamclf.events.directory import MAX_DIRECTORY_BYTES, Directory, DirectoryNode, DirectoryStream, parse_directory
from streamclf.net.curve_client import HandshakeMonitor, ServiceAddress
from streamclf.net.endpoints import DIRECTORY_PORT, directory_endpoint, is_remote_endpoint
from streamclf.net.zeromq import open_socket

log = logging.getLogger(__name__)

REFRESH_S: Final = 1.0
REPLY_S: Final = 2.0
"""A request without a reply for this long has failed."""
RETRY_S: Final = (0.2, 5.0)
"""The first pause after a failed request, and the longest after it has doubled."""
_MAX_FRAMES: Final = 2
_MAX_LOGGED: Final = 5
"""Nodes that were left out, in the log after one reply."""


@dataclass(frozen=True, slots=True)
class FleetList:
    """The latest directory, with the time of this machine that belongs to its clock."""

    fleet: str
    nodes: dict[str, DirectoryNode]
    """The nodes with endpoints that a subscriber may use."""
    streams: dict[str, DirectoryStream]
    refused: dict[str, str]
    """Why nodes were left out, by name."""
    time: datetime
    received_s: float

    def monotonic_of(self, when: datetime) -> float:
        """Return the monotonic time of this machine at the directory's time `when`."""
        return self.received_s - (self.time - when).total_seconds()


class DirectoryClient:
    """Keep the latest list of nodes. `poll` does what is due and never waits."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: ServiceAddress) -> None:
        self._context = context
        self._name = address.endpoint
        self._address = replace(address, endpoint=directory_endpoint(address.endpoint))
        self._monitor = HandshakeMonitor(self._address)
        self._socket: zmq.Socket[bytes] | None = None
        self._polled: list[zmq.Socket[bytes]] = []
        self._sent_s: float | None = None
        self._due_s = 0.0
        self._pause_s = RETRY_S[0]
        self._number = 0
        self._revision = ""
        self.list: FleetList | None = None
        """None before the first reply."""
        self.fault: str | None = None
        """Why the directory cannot be read now."""

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """The sockets on which a reply arrives."""
        return self._polled

    def poll(self) -> bool:
        """Read replies, and send the request that is due; return whether the list has changed."""
        changed = False
        try:
            if self._socket is not None and self._monitor.check():
                raise EventError(self._explain() or "the connection was refused")
            while self._socket is not None and self._socket.poll(0):
                if self._sent_s is None:
                    raise EventError("it sends replies without a request")
                changed = self._accept(self._receive(self._socket)) or changed
        except (EventError, BusError, zmq.ZMQError) as error:
            self._fail(str(error).removeprefix(f"{self._address.endpoint}: "))
        now_s = time.monotonic()
        if self._sent_s is not None and now_s - self._sent_s >= REPLY_S:
            self._fail(self._explain() or "the directory does not answer; is this its port?")
        elif self._sent_s is None and now_s >= self._due_s:
            self._send()
        return changed

    def wait_s(self) -> float:
        """Return after how many seconds `poll` has something to do without a reply."""
        due_s = self._due_s if self._sent_s is None else self._sent_s + REPLY_S
        return max(0.0, due_s - time.monotonic())

    def explain_silence(self) -> str:
        """Return why there is no list of nodes."""
        return self.fault or self._explain() or "the directory does not answer; is this its port?"

    def close(self) -> None:
        """Disconnect."""
        if self._socket is not None:
            self._monitor.detach()
            self._socket.close(0)
        self._socket, self._polled, self._sent_s = None, [], None

    def _send(self) -> None:
        self._number += 1
        request = {"v": 1, "request": "directory", "id": str(self._number), "known": self._revision}
        try:
            if self._socket is None:
                self._open()
            assert self._socket is not None
            self._socket.send(orjson.dumps(request), zmq.NOBLOCK)
            self._sent_s = time.monotonic()
        except zmq.ZMQError as error:
            self._fail(f"{error.strerror}; give an address like fleet://host:{DIRECTORY_PORT}")

    def _open(self) -> None:
        self._socket = open_socket(self._context, zmq.DEALER, max_bytes=MAX_DIRECTORY_BYTES)
        self._address.configure(self._socket)
        self._polled = [self._socket, self._monitor.attach(self._socket)]
        self._socket.connect(self._address.endpoint)

    def _explain(self) -> str:
        text = self._monitor.explain_silence() if self._socket is not None else ""
        if text.startswith("no program listens"):
            return "no program listens there; is the fleet up, and is this the port of its directory?"
        return text

    @staticmethod
    def _receive(socket: zmq.Socket[bytes]) -> bytes:
        *more, last = socket.recv_multipart(zmq.NOBLOCK)
        if len(more) >= _MAX_FRAMES:
            raise EventError(f"a reply of {len(more) + 1} frames: it is not the directory of a fleet")
        return last

    def _accept(self, reply: bytes) -> bool:
        _refuse_other(reply)
        found = parse_directory(reply)
        if found.id != str(self._number):
            return False  # the reply to an older request
        now_s = time.monotonic()
        self._sent_s, self._due_s, self._pause_s = None, now_s + REFRESH_S, RETRY_S[0]
        if self.fault is not None:
            log.info("%s: the directory answers again", self._name)
        self.fault = None
        if found.unchanged and self.list is not None:
            return False
        self._revision = found.revision
        before = {} if self.list is None else self.list.refused
        self.list = _checked_list(found, now_s)
        fresh = {name: reason for name, reason in self.list.refused.items() if before.get(name) != reason}
        for name, reason in [*fresh.items()][:_MAX_LOGGED]:
            log.warning("%s: node %s is left out: %s", self._name, name, reason)
        if len(fresh) > _MAX_LOGGED:
            log.warning("%s: %d more nodes are left out", self._name, len(fresh) - _MAX_LOGGED)
        return True

    def _fail(self, reason: str) -> None:
        if self.fault is None:
            known = "no node is known yet" if self.list is None else "the last known list of nodes is used"
            log.warning("%s: %s; %s", self._name, reason, known)
        self.fault = reason
        self.close()
        self._due_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_S[1])


def _refuse_other(reply: bytes) -> None:
    """Raise `EventError` for the reply of another server, or of another version."""
    try:
        body = orjson.loads(reply)
    except orjson.JSONDecodeError:
        raise EventError("the reply is not JSON: another program listens there") from None
    if isinstance(body, dict) and body.get("reply") == "error":
        text = str(body.get("error", ""))[:200]
        if text.startswith("request:"):
            raise EventError(
                "this is the replay endpoint of a service, not the directory of a fleet; "
                "give tcp:// and the service's `publish.events` endpoint, or the port of the directory"
            )
        raise EventError(text)
    if isinstance(body, dict) and body.get("v") not in (1, None):
        raise EventError(
            f"the directory has version {str(body['v'])[:20]} of the protocol; install the fleet's version"
        )


def _checked_list(found: Directory, now_s: float) -> FleetList:
    """Leave out nodes whose endpoints are not tcp://, and those that repeat a name or an endpoint."""
    nodes: dict[str, DirectoryNode] = {}
    refused: dict[str, str] = {}
    used: set[str] = set()
    for node in found.nodes:
        if node.events is None or node.replay is None:
            continue  # its service has never been ready
        bad = next((each for each in (node.events, node.replay) if not is_remote_endpoint(each)), None)
        if bad is not None:
            refused[node.name] = f"endpoint {bad[:100]!r} is not like tcp://host:5555"
        elif node.name in nodes or used & {node.events, node.replay}:
            refused[node.name] = f"its name or endpoint {node.events[:100]} is already another node's"
        else:
            nodes[node.name] = node
            used |= {node.events, node.replay}
    return FleetList(found.fleet, nodes, dict(found.streams), refused, found.time, now_s)
