"""RTP payloads -> NAL units: H.264 (RFC 6184) and H.265 (RFC 7798), in the modes that cameras use.

Not those in which pictures are sent out of their decoding order (STAP-B, MTAP, FU-B; DONL fields): no camera does that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from itertools import islice

MAX_NAL_BYTES = 16 << 20
"""A key frame of 8K at the best quality has half of that."""


class Depacketizer(ABC):
    """Puts the NAL units of one track together; one object for each connection."""

    header_bytes: int
    fragment: tuple[int, int]
    """(mask, value) of the first byte of a packet that holds a part of a NAL unit."""
    codec: str
    """FFmpeg's name of it."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        """Of a NAL unit whose end has not come yet."""
        self._size = 0
        self.malformed = 0
        """Packets that were none of this codec."""
        self.unsupported: Counter[int] = Counter()
        """Packets of kinds that we do not take apart, by their number."""
        self.damaged = False
        """Whether something was missing or wrong, since whoever asks set it back."""

    @abstractmethod
    def push(self, payload: bytes, *, after_loss: bool) -> list[bytes]:
        """The NAL units that `payload` completes, without start codes; `after_loss`: packets before it are missing."""

    def follow(self, payloads: Sequence[bytes], begin: int) -> int:
        """Where a NAL unit has begun: take payloads, from the one at `begin` on, as long as they hold nothing but its
        middle; the first that was not taken. As `push` would take each, in one call: most packets are of this kind."""
        (mask, value), flags = self.fragment, self.header_bytes
        data, room, append = flags + 1, MAX_NAL_BYTES - self._size, self.parts.append
        end = begin
        for payload in islice(payloads, begin, None):
            size = len(payload) - data
            if size <= 0 or payload[0] & mask != value or payload[flags] & 0xC0 or size > room:
                break
            append(payload[data:])
            room -= size
            end += 1
        self._size = MAX_NAL_BYTES - room
        return end

    @abstractmethod
    def is_picture(self, nal: bytes) -> bool:
        """Whether it holds a part of a picture, rather than parameters or remarks."""

    @abstractmethod
    def begins_picture(self, nal: bytes) -> bool:
        """Whether that part is a picture's first."""

    def flush(self) -> list[bytes]:
        """What there is of a NAL unit whose end did not come. A slice is decoded as far as it goes; half a parameter
        set would spoil every picture after it."""
        if not self.parts:
            return []
        self.damaged = True
        nal = b"".join(self.parts)
        self._drop()
        return [nal] if self.is_picture(nal) else []

    def _drop(self) -> None:
        self.parts, self._size = [], 0

    def _wrong(self) -> list[bytes]:
        self.malformed += 1
        self.damaged = True
        return self.flush()

    def _aggregate(self, payload: bytes, begin: int) -> list[bytes]:
        """Several whole NAL units, each after its length."""
        nals = self.flush()
        while begin + 2 <= len(payload):
            size = payload[begin] << 8 | payload[begin + 1]
            nal = payload[begin + 2 : begin + 2 + size]
            if not size or len(nal) < size:
                return nals + self._wrong()
            nals.append(nal)
            begin += 2 + size
        return nals

    def _fragment(self, header: bytes, flags: int, data: bytes, *, after_loss: bool) -> list[bytes]:
        """One part of a NAL unit; `header` is the whole one's, `flags` has S and E as its highest bits."""
        begins, ends = flags & 0x80, flags & 0x40
        cut = self.flush() if self.parts and (begins or after_loss) else []
        if begins:
            self.parts.append(header)
        elif not self.parts:
            self.damaged = True  # its beginning is lost: the rest is of no use
            return cut
        self.parts.append(data)
        self._size += len(data)
        if self._size > MAX_NAL_BYTES:
            self._drop()
            return cut + self._wrong()
        if ends:
            cut.append(b"".join(self.parts))
            self._drop()
        return cut


class H264(Depacketizer):
    """RFC 6184, packetization modes 0 and 1."""

    codec = "h264"
    header_bytes = 1
    fragment = (0x1F, 28)

    def push(self, payload: bytes, *, after_loss: bool) -> list[bytes]:
        """See `Depacketizer.push`."""
        if not payload:
            return []  # some senders keep the way open with empty packets
        kind = payload[0] & 31
        if kind == 28:
            if len(payload) < 3:
                return self._wrong()
            header = bytes([payload[0] & 0xE0 | payload[1] & 31])
            return self._fragment(header, payload[1], payload[2:], after_loss=after_loss)
        if kind == 24:
            return self._aggregate(payload, 1)
        if 25 <= kind <= 29:
            self.unsupported[kind] += 1
            self.damaged = True
            return self.flush()
        if kind in (0, 30, 31):
            return self._wrong()
        return [*self.flush(), payload]

    def is_picture(self, nal: bytes) -> bool:
        """See `Depacketizer.is_picture`."""
        return 1 <= nal[0] & 31 <= 5

    def begins_picture(self, nal: bytes) -> bool:
        """`first_mb_in_slice` is 0, whose code is one bit."""
        return nal[0] & 31 in (1, 2, 5) and len(nal) > 1 and nal[1] > 127


class H265(Depacketizer):
    """RFC 7798 without DONL fields."""

    codec = "hevc"
    header_bytes = 2
    fragment = (0x7E, 49 << 1)

    def push(self, payload: bytes, *, after_loss: bool) -> list[bytes]:
        """See `Depacketizer.push`."""
        if not payload:
            return []
        if len(payload) < 3:
            return self._wrong()
        kind = payload[0] >> 1 & 63
        if kind == 49:
            if len(payload) < 4:
                return self._wrong()
            header = bytes([payload[0] & 0x81 | (payload[2] & 63) << 1, payload[1]])
            return self._fragment(header, payload[2], payload[3:], after_loss=after_loss)
        if kind == 48:
            return self._aggregate(payload, 2)
        if kind > 49:
            self.unsupported[kind] += 1
            self.damaged = True
            return self.flush()
        return [*self.flush(), payload]

    def is_picture(self, nal: bytes) -> bool:
        """See `Depacketizer.is_picture`."""
        return nal[0] >> 1 & 63 < 32

    def begins_picture(self, nal: bytes) -> bool:
        """`first_slice_segment_in_pic_flag`."""
        return self.is_picture(nal) and len(nal) > 2 and nal[2] > 127


DEPACKETIZERS: dict[str, type[Depacketizer]] = {"H264": H264, "H265": H265}
"""By the name in an SDP's rtpmap."""
