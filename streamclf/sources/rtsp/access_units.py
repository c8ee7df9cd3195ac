"""NAL units -> access units: what a decoder makes one picture of. Pure."""

from __future__ import annotations

from typing import NamedTuple

from streamclf.sources.rtsp.nal import MAX_NAL_BYTES, Depacketizer
from streamclf.sources.rtsp.reorder import OrderedRun

START_CODE = b"\0\0\0\1"
MAX_NALS = 2048
"""Of one picture. Level 6.2 of H.264 allows no more slices; encoders make a few dozen."""


class AccessUnit(NamedTuple):
    """A picture's data in Annex B form. `timestamp`: ticks. `damaged`: some of it is missing or wrong. `waited_s`: for
    how long it was complete, as one knows afterwards, before that was clear."""

    data: bytes
    timestamp: int
    damaged: bool
    waited_s: float


class AccessUnitAssembler:
    """Ends a picture at the packet with the marker bit, which is its last one (RFC 6184, section 5.1).

    Where the bit is lost or never set, a picture ends when the next one begins: at another time stamp, or at a slice
    that is a picture's first. Where it is set in the middle of pictures, as some cameras do for every slice, it is
    trusted no more, and `trusts_marker` says so.
    """

    def __init__(self, depacketizer: Depacketizer) -> None:
        self._depacketizer = depacketizer
        self._nals: list[bytes] = []
        self._size = 0
        self._pictures_end = 0  # number of NAL units up to the last slice
        self._timestamp: int | None = None
        self._done: int | None = None  # time stamp of the picture that a marker ended last
        self._last_at = 0.0
        self._damaged = False
        self.trusts_marker = True
        self.oversized = 0
        """Pictures that were given up because they had too many bytes or NAL units."""

    def push(self, arrival: OrderedRun, timestamp: int, now: float) -> list[AccessUnit]:
        """Take the next packets, whose time is `timestamp` (ticks); the pictures that are complete."""
        run, lost = arrival
        depacketizer = self._depacketizer
        units: list[AccessUnit] = []
        if timestamp != self._timestamp:
            if depacketizer.parts:
                self._take(depacketizer.flush(), units, now)
            if self._pictures_end:
                self._damaged |= lost > 0  # its end may be among them
                self._finish(units, now)
            self._timestamp = timestamp
        payloads, at = run.payloads, 0
        if lost:
            self._damaged = True
            self._take(depacketizer.push(payloads[0], after_loss=True), units, now)
            at = 1
        count = len(payloads)
        while at < count:
            if depacketizer.parts and (at := depacketizer.follow(payloads, at)) == count:
                break
            if at:
                self._last_at = now
            nals = depacketizer.push(payloads[at], after_loss=False)
            if nals or depacketizer.damaged:
                self._take(nals, units, now)
            at += 1
        self._last_at = now
        if run.marker and self.trusts_marker:
            if depacketizer.parts:
                self._take(depacketizer.flush(), units, now)
            if self._pictures_end:
                self._finish(units, now)
                self._done = timestamp
        return units

    def _take(self, nals: list[bytes], units: list[AccessUnit], now: float) -> None:
        depacketizer = self._depacketizer
        self._damaged |= depacketizer.damaged
        depacketizer.damaged = False
        for nal in nals:
            if len(nal) <= depacketizer.header_bytes:
                continue  # of no content
            is_picture = depacketizer.is_picture(nal)
            if is_picture:
                if depacketizer.begins_picture(nal):
                    if self._pictures_end:
                        self._finish(units, now)
                elif self._timestamp == self._done and not self._pictures_end and not self._damaged:
                    self.trusts_marker = False  # the picture that it ended goes on
            self._append(nal, is_picture)

    def _append(self, nal: bytes, is_picture: bool) -> None:
        self._size += len(nal)
        if len(self._nals) >= MAX_NALS or self._size > MAX_NAL_BYTES:
            self.oversized += 1
            self._nals, self._size, self._pictures_end, self._damaged = [], 0, 0, True
            return
        self._nals.append(nal)
        if is_picture:
            self._pictures_end = len(self._nals)

    def _finish(self, units: list[AccessUnit], now: float) -> None:
        """What follows the last slice belongs to the next picture."""
        nals, end = self._nals, self._pictures_end
        if end == len(nals):
            self._nals, self._size = [], 0
        else:
            nals, self._nals = nals[:end], nals[end:]
            self._size = sum(map(len, self._nals))
        self._pictures_end = 0
        assert self._timestamp is not None  # a packet brought it
        waited_s = now - self._last_at if 0.0 < self._last_at < now else 0.0
        data = START_CODE + START_CODE.join(nals)
        units.append(AccessUnit(data, self._timestamp, self._damaged, waited_s))
        self._damaged = False
