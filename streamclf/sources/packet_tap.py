"""Define how a source hands on its encoded video, for consumers that keep it: films are made by copying packets."""

from __future__ import annotations

from typing import Final, Protocol

COPIED_CODECS: Final = frozenset({"h264", "hevc"})
"""FFmpeg's names of the codecs whose packets are handed on."""


class PacketSink(Protocol):
    """A consumer of encoded video. All methods are called by the thread that reads the source, and must not block."""

    def begin(self, codec: str, extradata: bytes | None) -> None:
        """Begin another sequence of packets, with the parameter sets of the container or the connection.

        Packets of `codec` follow, in decoding order. A source that has no such packets never calls this.
        """

    def push(self, data: bytes, stamp_ns: int | None, *, key: bool) -> None:
        """Add a packet. `stamp_ns` is the `Frame.stamp_ns` of its frame, None if it has no time stamp."""
