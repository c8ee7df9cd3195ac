"""One TCP stream -> RTSP messages and interleaved packets (RFC 2326, section 10.12), also after junk. Pure."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import NamedTuple

from streamclf.sources.rtsp.message import MAX_HEAD_BYTES, MalformedMessageError, RtspMessage, parse_head
from streamclf.sources.rtsp.rtp import VERSION

DOLLAR = 0x24
HEAD = struct.Struct(">BBHB")
"""How a packet begins: `$`, channel, length, and the first byte of RTP or RTCP."""
HEAD_BYTES = HEAD.size
ANSWER = b"RTSP/0.0 000"
"""How an answer begins, any digit in place of a zero."""
MIN_PACKET_BYTES = 8
MAX_JUNK_BYTES = 256 << 10
"""A large key frame's worth without one packet in it: whoever sends this speaks something else."""
RTCP_TYPES = range(200, 208)


class ReceivedPackets(NamedTuple):
    """Packets that came one after another, on channel 0, RTP, or 1, RTCP."""

    channel: int
    packets: list[bytes]


class InterleavedParser:
    """Cuts what comes in. Some cameras lose bytes of their stream or write a log into it: then the next packet is
    looked for, by what its header must be."""

    def __init__(self) -> None:
        self._buffer = b""
        self._channels: tuple[int, int] | None = None
        self._payload_types: frozenset[int] = frozenset()
        self._body: tuple[RtspMessage, int] | None = None
        self._skipped = 0  # since the last packet or message
        self.junk = 0
        """Bytes that were neither packet nor message, and ended with one."""

    def expect(self, channels: tuple[int, int], payload_types: frozenset[int]) -> None:
        """From now on packets may come: RTP and RTCP on these channels, of whatever number."""
        self._channels, self._payload_types = channels, payload_types

    def feed(self, data: bytes) -> list[ReceivedPackets | RtspMessage]:
        """What `data` completes. Raises `MalformedMessageError` where nothing can be made of it."""
        # What is left over from before is less than a packet or a message, and most often nothing.
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
        """Cut out the RTP that begins here, packet after packet, which most of the time is all there is; where
        something else begins: `_next` tells what it is, or that it is not complete yet."""
        if self._channels is None or self._body is not None or self._skipped:
            return at
        buffer, channel = self._buffer, self._channels[0]
        end, unpack = len(buffer), HEAD.unpack_from
        packets = []
        # No packet is shorter than this.
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
        """Where the next item begins, `at` if this one is not complete yet."""
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
                self._in_step()
                return end
        elif first in b"\r\n":
            return at + 1  # between messages
        elif self._begins_message(at):
            return self._message(at, items)
        return self._resync(at + 1, at)

    def _finish_body(self, at: int, items: list[ReceivedPackets | RtspMessage]) -> int:
        assert self._body is not None  # asked before
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
        self._in_step()
        if length:
            self._body = (message, length)
        else:
            items.append(message)
        return end + 4

    def _begins_message(self, at: int) -> bool:
        """Whether it may be one, by as much of it as is there."""
        start = self._buffer[at : at + 24]
        if start[0] == ANSWER[0]:
            # Digits are what differs between versions and answers.
            shape = bytes(0x30 if 0x30 <= byte <= 0x39 else byte for byte in start[: len(ANSWER)])
            if ANSWER.startswith(shape):
                return True
        if self._skipped:
            return False  # where a stretch is skipped at once, nothing but an answer is looked for either
        word, space, _ = start.partition(b" ")
        letters = word.replace(b"_", b"")
        return len(word) <= 20 and letters.isalpha() and letters.isupper() and (bool(space) or len(start) <= 20)

    def _may_be_packet(self, at: int) -> bool:
        """Version and type of RTP or RTCP, as far as they are there."""
        buffer = self._buffer
        assert self._channels is not None  # asked before
        length = buffer[at + 2] << 8 | buffer[at + 3]
        if length < MIN_PACKET_BYTES:
            return False
        if len(buffer) - at < 6:
            return True
        if buffer[at + 4] >> 6 != VERSION:
            return False
        # In step, another type is some other packet's; out of step it is what tells a packet from junk.
        if not self._skipped:
            return True
        kind = buffer[at + 5]
        return kind in RTCP_TYPES if buffer[at + 1] == self._channels[1] else kind & 127 in self._payload_types

    def _resync(self, begin: int, at: int) -> int:
        """Skip to what may be a packet or an answer."""
        if self._channels is None:
            raise MalformedMessageError("an answer that is not RTSP")
        self._skipped += 1
        found, answer = begin, self._buffer.find(b"RTSP/", begin)
        answer = len(self._buffer) if answer < 0 else answer
        # Never beyond the answer: what is searched twice, a hostile server would let us search a thousand times.
        while (dollar := self._buffer.find(b"$", found, answer)) >= 0 and not self._may_begin_packet(dollar):
            found = dollar + 1
        found = answer if dollar < 0 else dollar
        self._skipped += found - at
        if self._skipped > MAX_JUNK_BYTES:
            raise MalformedMessageError(f"{self._skipped} bytes without a packet")
        return found

    def _may_begin_packet(self, at: int) -> bool:
        """Whether a packet may begin with the `$` there, as far as more of it has come."""
        buffer = self._buffer
        assert self._channels is not None  # asked before
        if at + 1 < len(buffer) and buffer[at + 1] not in self._channels:
            return False
        return at + 4 > len(buffer) or self._may_be_packet(at)

    def _in_step(self) -> None:
        if self._skipped:
            self.junk += self._skipped
            self._skipped = 0
