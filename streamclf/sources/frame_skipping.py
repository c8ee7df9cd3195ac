"""Skip decoding of frames that no consumer needs and that no other frame is predicted from. Pure: no I/O, no clock.

A skipped frame still counts with its time stamp: sampling goes by times, and must choose the same frames as if all had
been decoded. Whether a frame is needed depends on the frames before and after it (`FrameSelector`). If its own time is
not enough to decide, a disposable packet waits, undecoded, for the next packet's time. Waiting costs nothing, because
no frame is predicted from it. If times or data are not as expected, all packets are decoded until the next key
frame.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

from streamclf.units import NS

PacketT = TypeVar("PacketT")

MAX_PENDING_SKIPPED = 64
MAX_PENDING_SKIPPED_NS = NS // 4
"""Skipped frames are returned when the next decoded frame comes out. Before this many of them wait, or the oldest waits
this long, one packet is decoded: a stream that returns no frame for a second would count as stalled."""
NO_INTERVAL_NS = 1 << 62
MAX_TIMES = 256
"""Skipping needs fewer packets than this inside the decoder: a decoder holds back a few for each of its threads."""


class FrameSelector(Protocol):
    """A consumer of frames that knows in advance which frames it does not need."""

    def may_need(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        """Return whether the consumer may need the frame at `at_ns`.

        False is certain: the consumer needs the frame neither when it arrives nor when the next one does, if that comes
        at `after_ns` or sooner. `before_ns` is the time of the frame before, or of an earlier one. `longest_ns` is the
        longest interval between frames since the last one that was returned.
        """

    def may_need_previous(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        """Return whether a next frame at `at_ns` may make the consumer need the frame before it, at `before_ns`.

        False is certain. `shortest_ns` is the shortest interval since the last frame that was returned, or more.
        """


class ShiftedFrameSelector:
    """Translate times for a selector whose clock is ahead by `shift_ns`; while that is None, need every frame."""

    def __init__(self, selector: FrameSelector) -> None:
        self._selector = selector
        self.shift_ns: int | None = None

    def may_need(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        """See `FrameSelector`."""
        shift_ns = self.shift_ns
        return shift_ns is None or self._selector.may_need(
            before_ns + shift_ns, at_ns + shift_ns, after_ns + shift_ns, longest_ns
        )

    def may_need_previous(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        """See `FrameSelector`."""
        shift_ns = self.shift_ns
        return shift_ns is None or self._selector.may_need_previous(before_ns + shift_ns, at_ns + shift_ns, shortest_ns)


@dataclass(frozen=True, slots=True, order=True)
class SkippedPacket(Generic[PacketT]):
    """A packet that was not decoded, the media time of its frame, and its arrival time (CLOCK_MONOTONIC)."""

    at_ns: int
    arrived_ns: int = field(compare=False)
    packet: PacketT = field(compare=False)


class PacketSkipper(Generic[PacketT]):
    """Decide which packets of one stream go to its decoder. Packets come in decoding order."""

    def __init__(self, *, low_delay: bool) -> None:
        """Skip nothing before a selector is set. `low_delay`: skipping must not delay another needed frame."""
        self.selector: FrameSelector | None = None
        """None decodes every packet."""
        self._low_delay = low_delay
        self._times: list[int] = []  # of the frame that came out last, if any, and of all packets beyond it
        self._has_output = False
        self._decoding: set[int] = set()
        self._skipped: list[SkippedPacket[PacketT]] = []  # not returned yet
        self._held: SkippedPacket[PacketT] | None = None
        self._key_ns: int | None = None  # of the last key frame; None: data or times were wrong since
        self._disabled = False

    def push(
        self, packet: PacketT, at_ns: int | None, *, arrived_ns: int, key: bool, disposable: bool, intact: bool
    ) -> Sequence[PacketT]:
        """Add the next packet. Returns the packets to decode now, in this order.

        `key`, `disposable`: see `streamclf.sources.packet_kind.PacketKind`. `intact`: no damage is known.
        """
        if self.selector is None:
            return (packet,)
        if len(self._times) > 2 * MAX_TIMES:
            self._reset()  # the decoder returns nothing
        if at_ns is None or (self._has_output and at_ns <= self._times[0]):
            packets = [*self.flush(), packet]
            self._reset()
            return packets
        if not self._times or at_ns > self._times[-1]:
            is_new = True
            self._times.append(at_ns)
        else:
            place = bisect_left(self._times, at_ns)
            is_new = self._times[place] != at_ns
            if is_new:
                self._times.insert(place, at_ns)
        packets = [] if self._held is None else self._release_held(intact)
        if not intact:
            self._key_ns = None
        elif key and not self._disabled:
            self._key_ns = at_ns
        # A disposable key frame is a picture of a codec that predicts nothing, such as Motion JPEG.
        is_sound = self._key_ns is not None and (key or at_ns > self._key_ns)
        may_skip = disposable and is_new and is_sound and self._may_skip_another(arrived_ns)
        if not may_skip or self._delays_another(at_ns) or (needed := self._needs(at_ns)):
            self._decoding.add(at_ns)
            packets.append(packet)
        elif needed is None:
            self._held = SkippedPacket(at_ns, arrived_ns, packet)
        else:
            insort(self._skipped, SkippedPacket(at_ns, arrived_ns, packet))
        return packets

    def flush(self) -> list[PacketT]:
        """Return the packets to decode when no more packets come."""
        return self._release_held(intact=True)

    def pop_skipped_before(self, at_ns: int | None) -> Sequence[SkippedPacket[PacketT]]:
        """Return the packets skipped before the decoder's next output, the frame at `at_ns` in display order."""
        if self.selector is None:
            return ()
        if at_ns is None:
            self._reset()
            return self.pop_skipped()
        if not self._skipped and self._times and self._times[-1] == at_ns:
            # The usual case: nothing was skipped, and the decoder holds nothing back.
            self._times, self._has_output = [at_ns], True
            self._decoding.clear()
            return ()
        jumped = self._has_output and at_ns <= self._times[0]
        count = len(self._skipped) if jumped else bisect_left(self._skipped, at_ns, key=lambda skipped: skipped.at_ns)
        popped, self._skipped = self._skipped[:count], self._skipped[count:]
        place = bisect_left(self._times, at_ns)
        self._times[:place] = [] if self._times[place : place + 1] == [at_ns] else [at_ns]
        self._has_output = True
        self._decoding = {time_ns for time_ns in self._decoding if time_ns > at_ns}
        return popped

    def pop_skipped(self) -> Sequence[SkippedPacket[PacketT]]:
        """Return all skipped packets that were not returned yet; no decoded frame follows them."""
        popped, self._skipped = self._skipped, []
        return popped

    def pause_until_key(self, at_ns: int | None = None) -> None:
        """Skip nothing until the next key frame, because a decoded frame, at `at_ns` if known, is damaged.

        Frames that are shown before the last key frame come out after it was pushed. Damage in them does not affect it.
        """
        if at_ns is None or self._key_ns is None or at_ns >= self._key_ns:
            self._key_ns = None

    def disable(self) -> None:
        """Skip nothing from now on: in this stream a packet is not always a whole frame."""
        self._disabled, self._key_ns = True, None

    def _may_skip_another(self, now_ns: int) -> bool:
        """Return whether one more packet may be skipped; never before the first frame, which may be undecodable."""
        if not self._has_output or len(self._times) > MAX_TIMES:
            return False
        pending = self._skipped
        return not pending or (
            len(pending) < MAX_PENDING_SKIPPED and now_ns - pending[0].arrived_ns < MAX_PENDING_SKIPPED_NS
        )

    def _reset(self) -> None:
        self._times, self._has_output, self._key_ns = [], False, None
        self._decoding.clear()

    def _release_held(self, intact: bool) -> list[PacketT]:
        """Decode or skip the packet that waited for the next packet's time."""
        held, self._held = self._held, None
        if held is None:
            return []
        is_sure = intact and self._key_ns is not None and self._is_known(held.at_ns)
        if is_sure and self._needs(held.at_ns) is False:
            insort(self._skipped, held)
            return []
        self._decoding.add(held.at_ns)
        return [held.packet]

    def _needs(self, at_ns: int) -> bool | None:
        """Return whether the frame may be needed; None while the next frame's time decides, which may still change."""
        assert self.selector is not None
        place = bisect_left(self._times, at_ns)
        before_ns = self._times[place - 1]
        longest_ns = max(later - earlier for earlier, later in pairwise(self._times[: place + 1]))
        if self.selector.may_need(before_ns, at_ns, at_ns, longest_ns):
            return True
        if place + 1 == len(self._times):
            return None
        return None if self.selector.may_need(before_ns, at_ns, self._times[place + 1], longest_ns) else False

    def _is_known(self, at_ns: int) -> bool:
        """Return whether the frame's time, and one before it, are still known."""
        place = bisect_left(self._times, at_ns)
        return 0 < place < len(self._times) and self._times[place] == at_ns

    def _delays_another(self, at_ns: int) -> bool:
        """Return whether an earlier frame may be needed, or come out of the decoder, only once this frame does."""
        assert self.selector is not None
        if not self._low_delay:
            return False
        place = bisect_left(self._times, at_ns)
        shortest_ns = min((later - earlier for earlier, later in pairwise(self._times[:place])), default=NO_INTERVAL_NS)
        if self.selector.may_need_previous(self._times[place - 1], at_ns, shortest_ns):
            return True
        return any(earlier_ns < at_ns and self._needs(earlier_ns) is not False for earlier_ns in self._decoding)
