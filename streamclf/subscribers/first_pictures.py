"""Get a picture of a stream at the start of an action, for a notification: the film is complete only later.

The picture is a preview: the capture process makes previews of its newest frame while a client subscribes to them. So
this client subscribes to a stream's previews when an action starts, and cancels after the first one. That takes some
tenths of a second, works from another machine, and costs the capture process a few previews.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import zmq

from streamclf.client.event_socket import EventSocket
from streamclf.client.fleet_previews import FleetPreviews
from streamclf.events.types import Action, topic_of
from streamclf.net.curve_client import ServiceAddress
from streamclf.net.endpoints import FLEET_SCHEME
from streamclf.runtime.stop_request import StopRequest

WAIT_S: Final = 1.0
"""A picture that has not come by then is not waited for: the stream may be stalled."""
MAX_AGE_S: Final = 2.0
"""An action that started earlier gets no picture: it would show something else."""
MAX_STREAMS: Final = 64
"""Streams whose previews are requested at the same time."""
_TOPIC: Final = b"preview/"


@dataclass(slots=True)
class _Wanted:
    deadline_s: float
    actions: list[Action] = field(default_factory=list)


class FirstPictures:
    """Request previews at the starts of actions. Used by one thread."""

    def __init__(self, address: ServiceAddress) -> None:
        """Connect to the service. Raises `BusError` for an endpoint that cannot be used."""
        self._context = zmq.Context(io_threads=1)
        try:
            self._socket: EventSocket | FleetPreviews = (
                FleetPreviews(address)
                if address.endpoint.startswith(FLEET_SCHEME)
                else EventSocket(self._context, address, [])
            )
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._wanted: dict[str, _Wanted] = {}
        self._found: list[tuple[Action, bytes]] = []
        self.missed = 0
        """Starts of actions that got no picture."""

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()
        self._context.destroy(linger=0)

    def request(self, action: Action, age_s: float) -> bool:
        """Request a picture for the start of an action, `age_s` after it was published; return whether one may come."""
        if action.phase != "start" or age_s > MAX_AGE_S:
            return False
        wanted = self._wanted.get(action.stream)
        if wanted is None:
            self._read(0.0)  # previews that were sent before the last cancellation came are old
            if len(self._wanted) >= MAX_STREAMS:
                self.missed += 1
                return False
            wanted = self._wanted[action.stream] = _Wanted(time.monotonic() + WAIT_S)
            self._socket.subscribe(topic_of("preview", action.stream))
        wanted.actions.append(action)
        return True

    def receive(self, timeout_s: float = 0.0) -> list[tuple[Action, bytes]]:
        """Return the pictures that have come, as JPEG, each with its action; wait at most `timeout_s` for the first.

        Requests that are overdue end without a picture.
        """
        if self._wanted:
            self._read(timeout_s)
        found, self._found = self._found, []
        now_s = time.monotonic()
        for stream in [name for name, wanted in self._wanted.items() if now_s > wanted.deadline_s]:
            self.missed += len(self._end(stream))
        return found

    def fetch(self, actions: Iterable[tuple[Action, float]], stop: StopRequest) -> dict[tuple[str, int], bytes]:
        """Request and wait for the pictures of these actions, each with its age; return them by epoch and offset.

        This takes `WAIT_S` at most, and ends early if `stop` is requested.
        """
        for action, age_s in actions:
            self.request(action, age_s)
        found: dict[tuple[str, int], bytes] = {}
        while True:
            found |= {(each.epoch, each.offset): jpeg for each, jpeg in self.receive(0.1) if each.offset is not None}
            if not self._wanted or stop.is_requested:
                return found

    def _read(self, timeout_s: float) -> None:
        """Read all previews that have come; wait at most `timeout_s` for the first."""
        while (frames := self._socket.receive(0.0 if self._found else timeout_s)) is not None:
            stream = frames[0].removeprefix(_TOPIC).removesuffix(b"/").decode("ascii", "replace")
            if len(frames) == 2 and stream in self._wanted:
                self._found += [(action, frames[1]) for action in self._end(stream)]

    def _end(self, stream: str) -> list[Action]:
        self._socket.cancel(topic_of("preview", stream))
        return self._wanted.pop(stream).actions
