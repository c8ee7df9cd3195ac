"""Extract NAL units from RTP payloads: H.264 (RFC 6184) and H.265 (RFC 7798), in the modes that cameras use.

Modes that send frames out of their decoding order (STAP-B, MTAP, FU-B; DONL fields) are not supported: no camera uses
them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from itertools import islice

MAX_NAL_BYTES = 16 << 20
"""Twice the size of an 8K key frame at the best quality."""


class Depacketizer(ABC):
    """Assemble the NAL units of one track; one object for each connection."""

    header_bytes: int
    fragment: tuple[int, int]
    """(mask, value) of the first byte of a packet that contains a part of a NAL unit."""
    codec: str
    """FFmpeg's name of the codec."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        """The received parts of a NAL unit that is not complete yet."""
        self._size = 0
        self.malformed = 0
        """Number of packets that are not of this codec."""
        self.unsupported: Counter[int] = Counter()
        """Number of packets of each unsupported type."""
        self.damaged = False
        """Whether data was missing or wrong since the caller last reset this."""

    @abstractmethod
    def push(self, payload: bytes, *, after_loss: bool) -> list[bytes]:
        """Return the NAL units that `payload` completes, without start codes. `after_loss`: packets before are lost."""

    def push_middle(self, payloads: Sequence[bytes], begin: int) -> int:
        """Add payloads from `begin` on, as long as they contain only the middle of the current NAL unit.

        Returns the index of the first payload that was not added. The result is the same as `push` for each, but in one
        call, because most packets are of this kind.
        """
        (mask, value), flags = self.fragment, self.header_bytes
        data, left, append = flags + 1, MAX_NAL_BYTES - self._size, self.parts.append
        end = begin
        for payload in islice(payloads, begin, None):
            size = len(payload) - data
            if size <= 0 or payload[0] & mask != value or payload[flags] & 0xC0 or size > left:
                break
            append(payload[data:])
            left -= size
            end += 1
        self._size = MAX_NAL_BYTES - left
        return end

    @abstractmethod
    def is_slice(self, nal: bytes) -> bool:
        """Return whether the unit contains a part of a frame's image, rather than parameters or metadata."""

    @abstractmethod
    def begins_frame(self, nal: bytes) -> bool:
        """Return whether the unit contains the first part of a frame."""

    def flush(self) -> list[bytes]:
        """Return the received part of an incomplete NAL unit, and begin a new one.

        A decoder decodes an incomplete slice as far as it goes. An incomplete parameter set would damage every frame
        after it, so it is dropped.
        """
        if not self.parts:
            return []
        self.damaged = True
        nal = b"".join(self.parts)
        self._drop()
        return [nal] if self.is_slice(nal) else []

    def _drop(self) -> None:
        self.parts, self._size = [], 0

    def _malformed(self) -> list[bytes]:
        self.malformed += 1
        self.damaged = True
        return self.flush()

    def _aggregate(self, payload: bytes, begin: int) -> list[bytes]:
        """Split an aggregation packet: several whole NAL units, each after its length."""
        nals = self.flush()
        while begin + 2 <= len(payload):
            size = payload[begin] << 8 | payload[begin + 1]
            nal = payload[begin + 2 : begin + 2 + size]
            if not size or len(nal) < size:
                return nals + self._malformed()
            nals.append(nal)
            begin += 2 + size
        return nals

    def _fragment(self, header: bytes, flags: int, data: bytes, *, after_loss: bool) -> list[bytes]:
        """Add one part of a NAL unit with header `header`. The highest bits of `flags` are S (start) and E (end)."""
        begins, ends = flags & 0x80, flags & 0x40
        cut = self.flush() if self.parts and (begins or after_loss) else []
        if begins:
            self.parts.append(header)
        elif not self.parts:
            self.damaged = True  # its beginning is lost, so the rest is useless
            return cut
        self.parts.append(data)
        self._size += len(data)
        if self._size > MAX_NAL_BYTES:
            self._drop()
            return cut + self._malformed()
        if ends:
            cut.append(b"".join(self.parts))
            self._drop()
        return cut


class H264Depacketizer(Depacketizer):
    """Depacketize H.264 in packetization modes 0 and 1 (RFC 6184)."""

    codec = "h264"
    header_bytes = 1
    fragment = (0x1F, 28)

    def push(self, payload: bytes, *, after_loss: bool) -> list[bytes]:
        """See `Depacketizer.push`."""
        if not payload:
            return []  # some senders keep firewalls open with empty packets
        kind = payload[0] & 31
        if kind == 28:
            if len(payload) < 3:
                return self._malformed()
            header = bytes([payload[0] & 0xE0 | payload[1] & 31])
            return self._fragment(header, payload[1], payload[2:], after_loss=after_loss)
        if kind == 24:
            return self._aggregate(payload, 1)
        if 25 <= kind <= 29:
            self.unsupported[kind] += 1
            self.damaged = True
            return self.flush()
        if kind in (0, 30, 31):
            return self._malformed()
        return [*self.flush(), payload]

    def is_slice(self, nal: bytes) -> bool:
        """See `Depacketizer.is_slice`."""
        return 1 <= nal[0] & 31 <= 5

    def begins_frame(self, nal: bytes) -> bool:
        """Check that `first_mb_in_slice` is 0: its code is then the single bit 1."""
        return nal[0] & 31 in (1, 2, 5) and len(nal) > 1 and nal[1] > 127


class H265Depacketizer(Depacketizer):
    """Depacketize H.265 without DONL fields (RFC 7798)."""

    codec = "hevc"
    header_bytes = 2
    fragment = (0x7E, 49 << 1)

    def push(self, payload: bytes, *, after_loss: bool) -> list[bytes]:
        """See `Depacketizer.push`."""
        if not payload:
            return []
        if len(payload) < 3:
            return self._malformed()
        kind = payload[0] >> 1 & 63
        if kind == 49:
            if len(payload) < 4:
                return self._malformed()
            header = bytes([payload[0] & 0x81 | (payload[2] & 63) << 1, payload[1]])
            return self._fragment(header, payload[2], payload[3:], after_loss=after_loss)
        if kind == 48:
            return self._aggregate(payload, 2)
        if kind > 49:
            self.unsupported[kind] += 1
            self.damaged = True
            return self.flush()
        return [*self.flush(), payload]

    def is_slice(self, nal: bytes) -> bool:
        """See `Depacketizer.is_slice`."""
        return nal[0] >> 1 & 63 < 32

    def begins_frame(self, nal: bytes) -> bool:
        """Check `first_slice_segment_in_pic_flag`."""
        return self.is_slice(nal) and len(nal) > 2 and nal[2] > 127


DEPACKETIZERS: dict[str, type[Depacketizer]] = {"H264": H264Depacketizer, "H265": H265Depacketizer}
"""Depacketizers by the codec name in an SDP's rtpmap."""
