"""Keep the encoded video of the last seconds, from a key frame on, within a limit of bytes.

One thread reads the source and adds packets; another one copies them into a film. Neither waits for the other for
longer than it takes to copy a few references. The packets get the media times of their frames, so that a film has the
times that the events have.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Final

from streamclf.clips.bitstream import ParameterSets, is_sequence_set, parameter_sets_of, read_extradata
from streamclf.sources.frame import Frame
from streamclf.units import NS

MAX_UNTIMED: Final = 64
"""So many packets may wait for the times of their frames. A decoder holds back fewer; other packets give no frame."""
MAX_BACK_NS: Final = 2 * NS
MAX_AHEAD_NS: Final = 10 * NS
"""A time that is earlier than the latest one by more than the first, or later by more than the second, is a jump."""
USUAL_INTERVAL_NS: Final = NS // 25
ENTRY_BYTES: Final = 300
"""Memory of an entry besides its data."""


NO_SETS: Final = ParameterSets()


@dataclass(frozen=True, slots=True, eq=False)
class VideoFormat:
    """The properties that all packets of one film share. Two sequences of packets never share a format."""

    codec: str
    """FFmpeg's name; "jpeg" for pictures, which have to be encoded."""
    sets: ParameterSets = NO_SETS


@dataclass(slots=True, eq=False)
class PacketEntry:
    """One packet. `at_ns` is the media time of its frame; it is final once `is_timed` is set."""

    number: int
    format: VideoFormat
    data: bytes = field(repr=False)
    stamp_ns: int | None
    key: bool
    at_ns: int
    wall_ns: int
    """Wall-clock time at which it arrived."""
    is_timed: bool = False


class PacketRing:
    """The packets of the last `keep_ns`, at most `max_bytes`: a `streamclf.sources.packet_tap.PacketSink`.

    Packets that must leave before they are `needed_ns` old are counted; None means `keep_ns`.
    """

    def __init__(self, *, keep_ns: int, max_bytes: int, needed_ns: int | None = None) -> None:
        self._keep_ns, self._max_bytes = keep_ns, max_bytes
        self._needed_ns = keep_ns if needed_ns is None else needed_ns
        self._lock = threading.Lock()
        self._entries: deque[PacketEntry] = deque()
        self._keys: deque[PacketEntry] = deque()
        self._untimed: deque[PacketEntry] = deque()
        self._format: VideoFormat | None = None
        self._needs_key = True
        self._number = 0
        self._shift_ns: int | None = None
        self._newest_ns: int | None = None
        self._interval_ns = USUAL_INTERVAL_NS
        self._held: int | None = None
        self.bytes = 0
        """The memory that the packets take."""
        self.evicted = 0
        """Packets that were removed before their time, because they took too many bytes."""

    @property
    def has_packets(self) -> bool:
        """Whether the present source hands on packets."""
        return self._format is not None

    def end(self) -> None:
        """End the present sequence: the source was closed. Its packets stay until they are too old."""
        with self._lock:
            self._settle_all()
            self._format = None

    def begin(self, codec: str, extradata: bytes | None) -> None:
        """See `PacketSink`."""
        with self._lock:
            self._settle_all()
            self._format = VideoFormat(codec, read_extradata(codec, extradata))
            self._needs_key, self._shift_ns, self._newest_ns = True, None, None

    def push(self, data: bytes, stamp_ns: int | None, *, key: bool) -> None:
        """See `PacketSink`."""
        with self._lock:
            if self._format is None or (self._needs_key and not key):
                return
            if key:
                self._follow_parameter_sets(data)
            self._append(data, stamp_ns, key)

    def push_picture(self, jpeg: bytes, at_ns: int, wall_ns: int) -> None:
        """Add a picture of a source that has no packets, with its media time."""
        with self._lock:
            if self._format is None or self._is_jump(at_ns):
                self._format, self._newest_ns = VideoFormat("jpeg"), None
            self._append(jpeg, None, key=True, wall_ns=wall_ns)
            if self._untimed:  # empty if the picture alone takes too many bytes
                self._time(self._untimed.pop(), at_ns)

    def add_frame(self, frame: Frame, wall_ns: int) -> None:
        """Give the packet of `frame` the frame's media time."""
        if frame.repeated or not self._untimed:
            return
        with self._lock:
            entry = self._find(frame.stamp_ns)
            if entry is None:
                return
            if self._is_jump(frame.pts_ns):
                self._split_at(entry)
            if entry.stamp_ns is not None:
                self._shift_ns = frame.pts_ns - entry.stamp_ns
            entry.wall_ns = wall_ns
            self._time(entry, frame.pts_ns)
            while self._untimed and (self._untimed[0].is_timed or len(self._untimed) > MAX_UNTIMED):
                first = self._untimed.popleft()
                if not first.is_timed:
                    self._time(first, self._estimated_ns(first.stamp_ns))

    def hold(self, number: int | None) -> None:
        """Do not remove packets from `number` on because of their age; None ends this. The limit of bytes remains."""
        with self._lock:
            self._held = number

    def first_from(self, at_ns: int) -> PacketEntry | None:
        """Return the key frame from which a film shows everything after `at_ns`, or else the earliest one there is."""
        with self._lock:
            found: PacketEntry | None = None
            newest = self._keys[-1].format if self._keys else None
            for entry in self._keys:
                if entry.is_timed and entry.format is newest and (found is None or entry.at_ns <= at_ns):
                    found = entry
            return found

    def first_key_after(self, number: int) -> PacketEntry | None:
        """Return the first key frame that is not before the packet `number`; None while there is none."""
        with self._lock:
            return next((entry for entry in self._keys if entry.is_timed and entry.number >= number), None)

    def packets_from(self, number: int, limit: int) -> Sequence[PacketEntry]:
        """Return up to `limit` packets from `number` on, or from the oldest one, in decoding order.

        All of them have their final times.
        """
        with self._lock:
            if not self._entries:
                return ()
            skip = max(0, number - self._entries[0].number)
            found: list[PacketEntry] = []
            for place in range(skip, min(len(self._entries), skip + limit)):
                entry = self._entries[place]
                if not entry.is_timed:
                    break
                found.append(entry)
            return found

    def newest_wall_ns(self) -> int | None:
        """Return the wall-clock time of the newest picture; None without one."""
        with self._lock:
            return next((entry.wall_ns for entry in reversed(self._entries) if entry.wall_ns), None)

    def stretch(self, begin_ns: int, end_ns: int) -> tuple[int, int, list[PacketEntry]] | None:
        """Return the pictures between two wall-clock times: first and last media time, and packets in decoding order.

        The packets begin with the key frame that the first picture needs. The stretch is shorter where the ring does
        not reach back so far, where the source changes within it, or where it has ended. None if no picture is in it.
        """
        with self._lock:
            for _, group in groupby(reversed(self._entries), key=lambda entry: id(entry.format)):
                if found := _stretch_of([*group][::-1], begin_ns, end_ns):
                    return found
            return None

    def longest_group_ns(self) -> int:
        """Return the longest time between two key frames that the ring has."""
        with self._lock:
            times = [entry.at_ns for entry in self._keys if entry.format is self._keys[-1].format]
            return max((later - earlier for earlier, later in pairwise(times)), default=0)

    def _append(self, data: bytes, stamp_ns: int | None, key: bool, wall_ns: int = 0) -> None:
        assert self._format is not None
        self._needs_key = False
        self._number += 1
        at_ns = self._estimated_ns(stamp_ns)
        entry = PacketEntry(self._number, self._format, data, stamp_ns, key, at_ns, wall_ns)
        self._entries.append(entry)
        self._untimed.append(entry)
        self.bytes += len(data) + ENTRY_BYTES
        if key:
            self._keys.append(entry)
        self._evict()

    def _estimated_ns(self, stamp_ns: int | None) -> int:
        if stamp_ns is not None and self._shift_ns is not None:
            return stamp_ns + self._shift_ns
        return 0 if self._newest_ns is None else self._newest_ns + self._interval_ns

    def _find(self, stamp_ns: int | None) -> PacketEntry | None:
        """Return the packet of the frame with this stamp; a frame without a stamp is that of the first packet."""
        for entry in self._untimed:
            if not entry.is_timed and (stamp_ns is None or entry.stamp_ns in (stamp_ns, None)):
                return entry
        return None

    def _time(self, entry: PacketEntry, at_ns: int) -> None:
        if self._newest_ns is not None and 0 < at_ns - self._newest_ns < NS:
            self._interval_ns = at_ns - self._newest_ns
        entry.at_ns, entry.is_timed = at_ns, True
        self._newest_ns = at_ns if self._newest_ns is None else max(self._newest_ns, at_ns)

    def _settle_all(self) -> None:
        for entry in self._untimed:
            if not entry.is_timed:
                self._time(entry, self._estimated_ns(entry.stamp_ns))
        self._untimed.clear()

    def _is_jump(self, at_ns: int) -> bool:
        newest_ns = self._newest_ns
        return newest_ns is not None and not newest_ns - MAX_BACK_NS <= at_ns <= newest_ns + MAX_AHEAD_NS

    def _split_at(self, first: PacketEntry) -> None:
        """Give the packets from `first` on another format: a film never continues over a jump in time."""
        self._newest_ns = self._shift_ns = None
        if self._format is first.format:
            self._format = replace(self._format)
        changed = replace(first.format) if self._format is None else self._format
        for entry in self._untimed:
            if entry.number >= first.number:
                entry.format = changed

    def _follow_parameter_sets(self, data: bytes) -> None:
        """Begin another format where a key frame changes the sequence's parameters, such as the size of pictures."""
        assert self._format is not None
        codec, known = self._format.codec, self._format.sets
        found = parameter_sets_of(codec, data, known.length_bytes)
        if any(is_sequence_set(codec, unit) and unit not in known.units for unit in found):
            self._format = VideoFormat(codec, ParameterSets(found, known.length_bytes))

    def _evict(self) -> None:
        """Remove whole groups of pictures: those that are too old, then as many as take too many bytes."""
        newest_ns = self._newest_ns
        while len(self._keys) > 1:
            first, second = self._keys[0], self._keys[1]
            age_ns = newest_ns - second.at_ns if newest_ns is not None and second.is_timed else 0
            is_over = first.format is not second.format
            is_free = self._held is None or second.number <= self._held
            if not (is_free and (is_over or age_ns >= self._keep_ns)) and self.bytes <= self._max_bytes:
                return
            is_early = not is_free or not (is_over or age_ns >= self._needed_ns)
            self._remove_until(second.number, is_early=is_early)
        if self.bytes > self._max_bytes:  # a single group of pictures is too large
            self._remove_until(self._number + 1, is_early=True)
            self._needs_key = True

    def _remove_until(self, number: int, *, is_early: bool) -> None:
        while self._entries and self._entries[0].number < number:
            entry = self._entries.popleft()
            self.bytes -= len(entry.data) + ENTRY_BYTES
            self.evicted += is_early
            if entry.key:
                self._keys.popleft()
            if self._untimed and self._untimed[0] is entry:
                self._untimed.popleft()


def _stretch_of(entries: list[PacketEntry], begin_ns: int, end_ns: int) -> tuple[int, int, list[PacketEntry]] | None:
    """Return the stretch of packets that share a format; see `PacketRing.stretch`."""
    delays = [entry.wall_ns - entry.at_ns for entry in entries if entry.is_timed and entry.wall_ns]
    if not delays:
        return None
    delay_ns = min(delays)  # of a picture that came without waiting for others
    shown = [e for e in entries if e.is_timed and begin_ns <= e.at_ns + delay_ns <= end_ns]
    if not shown:
        return None
    from_ns, first_number = min((entry.at_ns, entry.number) for entry in shown)
    keys = [e for e in entries if e.key and e.is_timed and e.number <= first_number and e.at_ns <= from_ns]
    if not keys:  # its key frame is not kept any more: begin with the first one that is
        keys = [entry for entry in shown if entry.key][:1]
        if not keys:
            return None
        from_ns = keys[0].at_ns
    last_number = max(entry.number for entry in shown)
    to_ns = max(entry.at_ns for entry in shown)
    return from_ns, to_ns, [e for e in entries if keys[-1].number <= e.number <= last_number]
