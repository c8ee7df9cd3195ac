"""Split a TCP stream into RTSP messages and interleaved packets (RFC 2326, section 10.12), even after junk. Pure."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import NamedTuple

from streamclf.sources.rtsp.message import MAX_HEAD_BYTES, MalformedMessageError, RtspMessage, parse_head
from streamclf.sources.rtsp.rtp import VERSION

DOLLAR = 0x24
HEAD = struct.Struct(">BBHB")
"""The beginning of a packet: `$`, channel, length, and the first byte of RTP or RTCP."""
HEAD_BYTES = HEAD.size
RESPONSE = b"RTSP/0.0 000"
"""The beginning of a response, with any digit in place of a zero."""
MIN_PACKET_BYTES = 8
MAX_JUNK_BYTES = 256 << 10
"""The size of a large key frame. A server that sends so much without one packet speaks another protocol."""
RTCP_TYPES = range(200, 208)


class ReceivedPackets(NamedTuple):
    """Packets that came one after another, on channel 0 (RTP) or 1 (RTCP)."""

    channel: int
    packets: list[bytes]


class InterleavedParser:
    """Split the received bytes into packets and messages.

    Some cameras lose bytes of their stream or write log lines into it. Then the parser searches for the next packet by
    the values that its header must have.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._channels: tuple[int, int] | None = None
        self._payload_types: frozenset[int] = frozenset()
        self._body: tuple[RtspMessage, int] | None = None
        self._skipped = 0  # bytes since the last packet or message
        self.junk = 0
        """Number of bytes so far that were neither packet nor message, counted once one follows."""

    def set_channels(self, channels: tuple[int, int], payload_types: frozenset[int]) -> None:
        """Accept packets from now on: RTP and RTCP on these two channels."""
        self._channels, self._payload_types = channels, payload_types

    def feed(self, data: bytes) -> list[ReceivedPackets | RtspMessage]:
        """Add received bytes and return the items that they complete. Raises `MalformedMessageError`."""
        # The rest from before is shorter than a packet or message, and mostly empty.
        buffer = self._buffer = self._buffer + data if self._buffer else data
        items: list[ReceivedPackets | RtspMessage] = []
        at = 0
        while at < len(buffer):
            begun = self._packets(at, items)
            at = self._next(begun, items) if begun < len(buffer) else begun
            if at == begun:
                break
        self._buffer = buffer[at:]
        return items

    def _packets(self, at: int, items: list[ReceivedPackets | RtspMessage]) -> int:
        """Extract the RTP packets that begin at `at`, one after another. Returns where something else begins.

        Mostly the buffer holds only RTP packets. `_next` handles everything else, incomplete packets included.
        """
        if self._channels is None or self._body is not None or self._skipped:
            return at
        buffer, channel = self._buffer, self._channels[0]
        end, unpack = len(buffer), HEAD.unpack_from
        packets = []
        # No packet is shorter than its header.
        while at + HEAD_BYTES <= end:
            dollar, number, length, first = unpack(buffer, at)
            after = at + 4 + length
            if dollar != DOLLAR or number != channel or first >> 6 != VERSION or length < MIN_PACKET_BYTES:
                break
            if after > end:
                break
            packets.append(buffer[at + 4 : after])
            at = after
        if packets:
            items.append(ReceivedPackets(0, packets))
        return at

    def _next(self, at: int, items: list[ReceivedPackets | RtspMessage]) -> int:
        """Parse one item. Returns where the next one begins, or `at` if this one is not complete yet."""
        buffer = self._buffer
        if self._body is not None:
            return self._finish_body(at, items)
        first = buffer[at]
        if first == DOLLAR and self._channels is not None:
            if len(buffer) - at < 4:
                return at
            length = buffer[at + 2] << 8 | buffer[at + 3]
            if buffer[at + 1] in self._channels and self._may_be_packet(at):
                end = at + 4 + length
                if end > len(buffer):
                    return at
                items.append(ReceivedPackets(int(buffer[at + 1] != self._channels[0]), [buffer[at + 4 : end]]))
                self._end_junk()
                return end
        elif first in b"\r\n":
            return at + 1  # between messages
        elif self._begins_message(at):
            return self._message(at, items)
        return self._resync(at + 1, at)

    def _finish_body(self, at: int, items: list[ReceivedPackets | RtspMessage]) -> int:
        assert self._body is not None  # the caller has checked
        message, length = self._body
        if len(self._buffer) - at < length:
            return at
        items.append(replace(message, body=self._buffer[at : at + length]))
        self._body = None
        return at + length

    def _message(self, at: int, items: list[ReceivedPackets | RtspMessage]) -> int:
        end = self._buffer.find(b"\r\n\r\n", at, at + MAX_HEAD_BYTES)
        if end < 0:
            return at if len(self._buffer) - at < MAX_HEAD_BYTES else self._resync(at + 1, at)
        try:
            message, length = parse_head(self._buffer[at:end])
        except MalformedMessageError:
            return self._resync(at + 1, at)
        self._end_junk()
        if length:
            self._body = (message, length)
        else:
            items.append(message)
        return end + 4

    def _begins_message(self, at: int) -> bool:
        """Return whether a message may begin at `at`, as far as the received bytes show."""
        start = self._buffer[at : at + 24]
        if start[0] == RESPONSE[0]:
            # Versions and responses differ only in their digits.
            shape = bytes(0x30 if 0x30 <= byte <= 0x39 else byte for byte in start[: len(RESPONSE)])
            if RESPONSE.startswith(shape):
                return True
        if self._skipped:
            return False  # `_resync` searches for responses only, too
        word, space, _ = start.partition(b" ")
        letters = word.replace(b"_", b"")
        return len(word) <= 20 and letters.isalpha() and letters.isupper() and (bool(space) or len(start) <= 20)

    def _may_be_packet(self, at: int) -> bool:
        """Check the version and type of RTP or RTCP, if those bytes have been received."""
        buffer = self._buffer
        assert self._channels is not None  # the caller has checked
        length = buffer[at + 2] << 8 | buffer[at + 3]
        if length < MIN_PACKET_BYTES:
            return False
        if len(buffer) - at < 6:
            return True
        if buffer[at + 4] >> 6 != VERSION:
            return False
        # Without junk before, any payload type is valid. After junk, the type distinguishes packets from junk.
        if not self._skipped:
            return True
        kind = buffer[at + 5]
        return kind in RTCP_TYPES if buffer[at + 1] == self._channels[1] else kind & 127 in self._payload_types

    def _resync(self, begin: int, at: int) -> int:
        """Skip to where a packet or response may begin."""
        if self._channels is None:
            raise MalformedMessageError("a response that is not RTSP")
        self._skipped += 1
        found, response = begin, self._buffer.find(b"RTSP/", begin)
        response = len(self._buffer) if response < 0 else response
        # Never search beyond the response: a hostile server could make us search the same bytes a thousand times.
        while (dollar := self._buffer.find(b"$", found, response)) >= 0 and not self._may_begin_packet(dollar):
            found = dollar + 1
        found = response if dollar < 0 else dollar
        self._skipped += found - at
        if self._skipped > MAX_JUNK_BYTES:
            raise MalformedMessageError(f"{self._skipped} bytes without a packet")
        return found

    def _may_begin_packet(self, at: int) -> bool:
        """Return whether a packet may begin with the `$` at `at`, as far as the received bytes show."""
        buffer = self._buffer
        assert self._channels is not None  # the caller has checked
        if at + 1 < len(buffer) and buffer[at + 1] not in self._channels:
            return False
        return at + 4 > len(buffer) or self._may_be_packet(at)

    def _end_junk(self) -> None:
        if self._skipped:
            self.junk += self._skipped
            self._skipped = 0
