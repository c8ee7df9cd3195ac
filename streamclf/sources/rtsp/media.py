"""One track: RTP and RTCP as they come -> access units, in order and with their time. Pure: bytes and a clock in."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from streamclf.sources.rtsp.access_units import AccessUnit, AccessUnitAssembler
from streamclf.sources.rtsp.nal import DEPACKETIZERS
from streamclf.sources.rtsp.reorder import OrderedRun, ReorderBuffer
from streamclf.sources.rtsp.rtcp import ReceptionStats, SenderReport, parse_rtcp
from streamclf.sources.rtsp.rtp import PacketRun, RtpTimeline, runs_of
from streamclf.sources.rtsp.sdp import VideoTrack

NS = 1_000_000_000
MAX_REPORT_AGE_S = 60
"""Senders report every few seconds; an older report says nothing of the clock as it is now."""


class TrackReceiver:
    """Follows one track through losses, new senders and jumps of its clock. Times `now` are monotonic seconds."""

    def __init__(self, track: VideoTrack, *, reorder_s: float) -> None:
        """`reorder_s`: how long a missing packet is waited for; 0 over TCP."""
        self._track = track
        self._depacketizer = DEPACKETIZERS[track.codec]()
        self._assembler = AccessUnitAssembler(self._depacketizer)
        self._reorder = ReorderBuffer(reorder_s)
        self.reorders = reorder_s > 0
        """Whether packets may wait for others, so that `deadline` and `expire` have something to say."""
        self._timeline = RtpTimeline(track.clock_hz)
        self._reception = ReceptionStats(track.clock_hz)
        self._own_ssrc = secrets.randbits(32)
        self._ssrc: int | None = None
        self._candidate: PacketRun | None = None  # of one packet
        self._damaged = False
        self._clock: tuple[int, int] | None = None  # Unix time in ns at so many ticks
        self._early_report: SenderReport | None = None
        self.codec = self._depacketizer.codec
        self.lost = 0
        """Packets that never came."""
        self.foreign = 0
        """Packets that are none of this track."""
        self.came_at: float | None = None
        """When the last packet of this track came."""
        self.left_at: float | None = None
        """When the sender said goodbye, unless it has sent since."""

    @property
    def trusts_marker(self) -> bool:
        """Whether pictures end at the marker bit."""
        return self._assembler.trusts_marker

    @property
    def malformed(self) -> int:
        """Packets that were none of this codec, and pictures of more bytes than any has."""
        return self._depacketizer.malformed + self._assembler.oversized

    @property
    def unsupported(self) -> int:
        """Packets of kinds that we do not take apart."""
        return self._depacketizer.unsupported.total()

    @property
    def deadline(self) -> float | None:
        """When `expire` has something to do."""
        return self._reorder.deadline

    def note_damage(self) -> None:
        """Bytes of the connection were lost between the packets."""
        self._damaged = True

    def rtp(self, packets: Iterable[bytes], now: float) -> list[AccessUnit]:
        """The pictures that these packets complete, which came one after another."""
        runs, foreign = runs_of(packets, self._track.payload_types)
        self.foreign += foreign
        units: list[AccessUnit] = []
        for run in runs:
            self.left_at = None
            if self._ssrc is None:
                self._ssrc = run.ssrc
            if run.ssrc == self._ssrc:
                self._candidate, self.came_at = None, now
                units += self._accept(run, now)
            else:
                units += self._other_sender(run, now)
        return units

    def expire(self, now: float) -> list[AccessUnit]:
        """The pictures that are complete, or as complete as they will be, since nobody waits for more."""
        return self._assemble(self._reorder.expire(now), now)

    def rtcp(self, packets: Iterable[bytes], now: float) -> None:
        """Take the sender's reports."""
        for data in packets:
            reports, leaving = parse_rtcp(data)
            for report in reports:
                if self._ssrc is None:
                    self._early_report = report
                elif report.ssrc == self._ssrc:
                    self._set_clock(report, now)
            if self._ssrc in leaving:
                self.left_at = now

    def report(self, now: float) -> bytes:
        """What to tell the sender every few seconds."""
        return self._reception.report(self._own_ssrc, now)

    def media_ns(self, ticks: int) -> int:
        """Media time in nanoseconds, 0 at the first packet."""
        return ticks * NS // self._track.clock_hz

    def wall_ns(self, ticks: int) -> int | None:
        """Unix time at which the picture with this time stamp was taken, by the sender's clock; None if unknown."""
        if self._clock is None:
            return None
        wall_ns, since = self._clock
        if abs(ticks - since) > MAX_REPORT_AGE_S * self._track.clock_hz:
            return None
        return wall_ns + self.media_ns(ticks - since)

    def _other_sender(self, run: PacketRun, now: float) -> list[AccessUnit]:
        """Two packets of another one and none of the known one between: that is gone. One alone is somebody's error."""
        first = self._candidate
        if first is None or first.ssrc != run.ssrc:
            self.foreign += first is not None
            if first is None:
                self.came_at = now
            if len(run.payloads) == 1:
                self._candidate = run
                return []
            first, run = run.divided(1)
        self._candidate, self.came_at = None, now
        units = self._assemble(self._reorder.drain(), now)
        self._ssrc = run.ssrc
        self._timeline.restart()
        self._clock = None
        self._damaged = True
        return units + self._accept(first, now) + self._accept(run, now)

    def _accept(self, run: PacketRun, now: float) -> list[AccessUnit]:
        self._reception.packets(run, now)
        return self._assemble(self._reorder.push(run, now), now)

    def _assemble(self, arrivals: list[OrderedRun], now: float) -> list[AccessUnit]:
        units: list[AccessUnit] = []
        for arrival in arrivals:
            self.lost += arrival.lost
            if self._damaged:
                self._damaged = False
                arrival = OrderedRun(arrival.run, max(1, arrival.lost))
            ticks = self._timeline.at(arrival.run.timestamp, now)
            if self._timeline.jumped:
                self._clock = None  # the sender's clock was set, or its stream begins anew
            units += self._assembler.push(arrival, ticks, now)
            if self._early_report is not None:
                report, self._early_report = self._early_report, None
                if report.ssrc == self._ssrc:
                    self._set_clock(report, now)
        return units

    def _set_clock(self, report: SenderReport, now: float) -> None:
        self._reception.sender(report, now)
        ticks = self._timeline.of(report.timestamp)
        if ticks is not None:
            self._clock = (report.time_ns, ticks)
