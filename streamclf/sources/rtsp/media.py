"""Turn the RTP and RTCP packets of one track into access units, in order and with their times. Pure: no I/O."""

from __future__ import annotations

import os
from collections.abc import Iterable

from streamclf.sources.rtsp.access_units import AccessUnit, AccessUnitAssembler
from streamclf.sources.rtsp.nal import DEPACKETIZERS
from streamclf.sources.rtsp.reorder import OrderedRun, ReorderBuffer
from streamclf.sources.rtsp.rtcp import ReceptionStats, SenderReport, parse_rtcp
from streamclf.sources.rtsp.rtp import PacketRun, RtpTimeline, runs_of
from streamclf.sources.rtsp.sdp import VideoTrack
from streamclf.units import NS

MAX_REPORT_AGE_S = 60
"""Senders report every few seconds; an older report does not describe the current clock."""


class TrackReceiver:
    """Receive one track through losses, new senders and clock jumps. Times `now` are monotonic seconds."""

    def __init__(self, track: VideoTrack, *, reorder_s: float) -> None:
        """Wait for a missing packet for at most `reorder_s`; 0 over TCP."""
        self._track = track
        self._depacketizer = DEPACKETIZERS[track.codec]()
        self._assembler = AccessUnitAssembler(self._depacketizer)
        self._reorder = ReorderBuffer(reorder_s)
        self.reorders = reorder_s > 0
        """Whether packets may wait for others; only then are `deadline` and `expire` needed."""
        self._timeline = RtpTimeline(track.clock_hz)
        self._reception = ReceptionStats(track.clock_hz)
        self._own_ssrc = int.from_bytes(os.urandom(4), "big")
        self._ssrc: int | None = None
        self._candidate: PacketRun | None = None  # one packet of another sender
        self._damaged = False
        self._clock: tuple[int, int] | None = None  # (Unix time in ns, ticks) of the latest report
        self._early_report: SenderReport | None = None
        self.codec = self._depacketizer.codec
        self.lost = 0
        """Number of packets that never arrived."""
        self.foreign = 0
        """Number of packets that do not belong to this track."""
        self.received_at: float | None = None
        """When the last packet of this track arrived."""
        self.left_at: float | None = None
        """When the sender sent a BYE, unless it has sent packets since."""

    @property
    def trusts_marker(self) -> bool:
        """Whether frames end at the marker bit."""
        return self._assembler.trusts_marker

    @property
    def malformed(self) -> int:
        """Number of packets that are not of this codec, plus frames that were too large."""
        return self._depacketizer.malformed + self._assembler.oversized

    @property
    def unsupported(self) -> int:
        """Number of packets of unsupported types."""
        return self._depacketizer.unsupported.total()

    @property
    def deadline(self) -> float | None:
        """When `expire` is due; None if it is not."""
        return self._reorder.deadline

    def add_damage(self) -> None:
        """Record that bytes of the connection were lost between packets."""
        self._damaged = True

    def push_rtp(self, packets: Iterable[bytes], now: float) -> list[AccessUnit]:
        """Add RTP packets that came one after another. Returns the frames that they complete."""
        runs, foreign = runs_of(packets, self._track.payload_types)
        self.foreign += foreign
        units: list[AccessUnit] = []
        for run in runs:
            self.left_at = None
            if self._ssrc is None:
                self._ssrc = run.ssrc
            if run.ssrc == self._ssrc:
                self._candidate, self.received_at = None, now
                units += self._accept(run, now)
            else:
                units += self._other_sender(run, now)
        return units

    def expire(self, now: float) -> list[AccessUnit]:
        """End overdue waits for missing packets. Returns the frames that this completes, with or without gaps."""
        return self._assemble(self._reorder.expire(now), now)

    def push_rtcp(self, packets: Iterable[bytes], now: float) -> None:
        """Add RTCP packets: the sender's reports and its BYE."""
        for data in packets:
            reports, leaving = parse_rtcp(data)
            for report in reports:
                if self._ssrc is None:
                    self._early_report = report
                elif report.ssrc == self._ssrc:
                    self._set_clock(report, now)
            if self._ssrc in leaving:
                self.left_at = now

    def receiver_report(self, now: float) -> bytes:
        """Write the report to send to the sender every few seconds."""
        return self._reception.report(self._own_ssrc, now)

    def media_ns(self, ticks: int) -> int:
        """Convert ticks to media time in nanoseconds, which is 0 at the first packet."""
        return ticks * NS // self._track.clock_hz

    def wall_ns(self, ticks: int) -> int | None:
        """Return the Unix time of the exposure at `ticks`, by the sender's clock, in nanoseconds; None if unknown."""
        if self._clock is None:
            return None
        wall_ns, since = self._clock
        if abs(ticks - since) > MAX_REPORT_AGE_S * self._track.clock_hz:
            return None
        return wall_ns + self.media_ns(ticks - since)

    def _other_sender(self, run: PacketRun, now: float) -> list[AccessUnit]:
        """Switch to another sender after two packets from it in a row. A single one is a stray packet."""
        first = self._candidate
        if first is None or first.ssrc != run.ssrc:
            self.foreign += first is not None
            if first is None:
                self.received_at = now
            if len(run.payloads) == 1:
                self._candidate = run
                return []
            first, run = run.split(1)
        self._candidate, self.received_at = None, now
        units = self._assemble(self._reorder.drain(), now)
        self._ssrc = run.ssrc
        self._timeline.restart()
        self._clock = None
        self._damaged = True
        return units + self._accept(first, now) + self._accept(run, now)

    def _accept(self, run: PacketRun, now: float) -> list[AccessUnit]:
        self._reception.add_run(run, now)
        return self._assemble(self._reorder.push(run, now), now)

    def _assemble(self, arrivals: list[OrderedRun], now: float) -> list[AccessUnit]:
        units: list[AccessUnit] = []
        for arrival in arrivals:
            self.lost += arrival.lost
            if self._damaged:
                self._damaged = False
                arrival = OrderedRun(arrival.run, max(1, arrival.lost))
            ticks = self._timeline.push(arrival.run.timestamp, now)
            if self._timeline.jumped:
                self._clock = None  # the sender's clock was set, or its stream began again
            units += self._assembler.push(arrival, ticks, now)
            if self._early_report is not None:
                report, self._early_report = self._early_report, None
                if report.ssrc == self._ssrc:
                    self._set_clock(report, now)
        return units

    def _set_clock(self, report: SenderReport, now: float) -> None:
        self._reception.add_sender_report(report, now)
        ticks = self._timeline.ticks_of(report.timestamp)
        if ticks is not None:
            self._clock = (report.time_ns, ticks)
