"""Assemble NAL units into access units: the data of one frame. Pure: no I/O, no clock."""

from __future__ import annotations

from typing import NamedTuple

from streamclf.sources.rtsp.nal import MAX_NAL_BYTES, Depacketizer
from streamclf.sources.rtsp.reorder import OrderedRun

START_CODE = b"\0\0\0\1"
MAX_NALS = 2048
"""NAL units of one frame. Level 6.2 of H.264 allows no more slices; encoders make a few dozen."""


class AccessUnit(NamedTuple):
    """A frame's data in Annex B form. `timestamp` is in ticks. `damaged`: some data is missing or wrong.

    `waited_s`: seconds from the frame's last packet until the assembler could detect that it was the last.
    """

    data: bytes
    timestamp: int
    damaged: bool
    waited_s: float


class AccessUnitAssembler:
    """End a frame at the packet with the marker bit, which is its last one (RFC 6184, section 5.1).

    If the bit is lost or never set, a frame ends when the next one begins: at another time stamp, or at a slice that is
    the first of a frame. Some cameras set the bit on every slice, in the middle of frames. The assembler then stops
    using it, and `trusts_marker` becomes False.
    """

    def __init__(self, depacketizer: Depacketizer) -> None:
        self._depacketizer = depacketizer
        self._nals: list[bytes] = []
        self._size = 0
        self._slices_end = 0  # number of NAL units up to and including the last slice
        self._timestamp: int | None = None
        self._done: int | None = None  # time stamp of the last frame that a marker ended
        self._last_at = 0.0
        self._damaged = False
        self.trusts_marker = True
        self.oversized = 0
        """Number of frames dropped because they had too many bytes or NAL units."""

    def push(self, arrival: OrderedRun, timestamp: int, now: float) -> list[AccessUnit]:
        """Add the next packets, all with `timestamp` (ticks). Returns the frames that they complete."""
        run, lost = arrival
        depacketizer = self._depacketizer
        units: list[AccessUnit] = []
        if timestamp != self._timestamp:
            if depacketizer.parts:
                self._add(depacketizer.flush(), units, now)
            if self._slices_end:
                self._damaged |= lost > 0  # its end may be among the lost packets
                self._finish(units, now)
            self._timestamp = timestamp
        payloads, at = run.payloads, 0
        if lost:
            self._damaged = True
            self._add(depacketizer.push(payloads[0], after_loss=True), units, now)
            at = 1
        count = len(payloads)
        while at < count:
            if depacketizer.parts and (at := depacketizer.push_middle(payloads, at)) == count:
                break
            if at:
                self._last_at = now
            nals = depacketizer.push(payloads[at], after_loss=False)
            if nals or depacketizer.damaged:
                self._add(nals, units, now)
            at += 1
        self._last_at = now
        if run.marker and self.trusts_marker:
            if depacketizer.parts:
                self._add(depacketizer.flush(), units, now)
            if self._slices_end:
                self._finish(units, now)
                self._done = timestamp
        return units

    def _add(self, nals: list[bytes], units: list[AccessUnit], now: float) -> None:
        depacketizer = self._depacketizer
        self._damaged |= depacketizer.damaged
        depacketizer.damaged = False
        for nal in nals:
            if len(nal) <= depacketizer.header_bytes:
                continue  # empty
            is_slice = depacketizer.is_slice(nal)
            if is_slice:
                if depacketizer.begins_frame(nal):
                    if self._slices_end:
                        self._finish(units, now)
                elif self._timestamp == self._done and not self._slices_end and not self._damaged:
                    self.trusts_marker = False  # the frame that the marker ended continues
            self._append(nal, is_slice)

    def _append(self, nal: bytes, is_slice: bool) -> None:
        self._size += len(nal)
        if len(self._nals) >= MAX_NALS or self._size > MAX_NAL_BYTES:
            self.oversized += 1
            self._nals, self._size, self._slices_end, self._damaged = [], 0, 0, True
            return
        self._nals.append(nal)
        if is_slice:
            self._slices_end = len(self._nals)

    def _finish(self, units: list[AccessUnit], now: float) -> None:
        """Complete the frame. NAL units after the last slice belong to the next frame."""
        nals, end = self._nals, self._slices_end
        if end == len(nals):
            self._nals, self._size = [], 0
        else:
            nals, self._nals = nals[:end], nals[end:]
            self._size = sum(map(len, self._nals))
        self._slices_end = 0
        assert self._timestamp is not None  # set with the first packet
        waited_s = now - self._last_at if 0.0 < self._last_at < now else 0.0
        data = START_CODE + START_CODE.join(nals)
        units.append(AccessUnit(data, self._timestamp, self._damaged, waited_s))
        self._damaged = False
