"""Receive the previews of single streams of a fleet, whichever node runs them."""

from __future__ import annotations

import time
from typing import Final

from streamclf.client.fleet_receiver import FleetReceiver
from streamclf.events.types import topic_of
from streamclf.net.curve_client import ServiceAddress

_POLL_S: Final = 0.02


class FleetPreviews:
    """Previews of single streams of a fleet, with the methods of `EventSocket`."""

    def __init__(self, address: ServiceAddress) -> None:
        self._receiver = FleetReceiver(address, None, ["heartbeat"], False, None, None)
        self._streams: frozenset[str] = frozenset()

    def subscribe(self, topic: bytes) -> None:
        """Subscribe to the previews of the stream in `topic`."""
        self._change(self._streams | {_stream_of(topic)})

    def cancel(self, topic: bytes) -> None:
        """Cancel the subscription to the previews of the stream in `topic`."""
        self._change(self._streams - {_stream_of(topic)})

    def receive(self, timeout_s: float) -> list[bytes] | None:
        """Return the topic and the picture of the next preview, or None if there is none within `timeout_s`."""
        end_s = time.monotonic() + timeout_s
        while not self._receiver.previews:
            left_s = end_s - time.monotonic()
            self._receiver.receive(max(0.0, min(left_s, _POLL_S)))
            if left_s <= 0 and not self._receiver.previews:
                return None
        stream, jpeg = self._receiver.previews.popitem()
        return [topic_of("preview", stream), jpeg]

    def close(self) -> None:
        """Disconnect."""
        self._receiver.close()

    def _change(self, streams: frozenset[str]) -> None:
        self._streams = streams
        self._receiver.watch_only(streams)


def _stream_of(topic: bytes) -> str:
    return topic.removeprefix(b"preview/").removesuffix(b"/").decode("ascii", "replace")
