"""Which packets need not be decoded: no other picture is predicted from theirs, and nobody will want it. Pure.

A picture that is left out still counts with its time: sampling goes by times, and is to choose the same pictures as if
all had been decoded. What it may choose depends on the pictures before and after (`FrameSelector`), so that a spare
packet waits, undecoded, for the next packet's time where its own is not enough; that costs nothing, since nothing is
predicted from it. Wherever times or data are not as they should be, everything is decoded until the next key frame.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

ItemT = TypeVar("ItemT")

MAX_PENDING_SKIPPED = 64
MAX_PENDING_SKIPPED_NS = 250_000_000
"""What was skipped is told of when the next picture comes out. Before so many, or so long, have gone untold one is
decoded: a stream of which nobody heard for a second would count as stalled."""
FAR_NS = 1 << 62
MAX_TIMES = 256
"""Packets of which no picture has come, while others may be skipped: a decoder holds back a few for each thread."""


class FrameSelector(Protocol):
    """Who takes the pictures, and can say beforehand which of them it will not want."""

    def may_need(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        """False is a promise: the picture at `at_ns` will not be wanted, neither when it is there nor when the next
        one is, if that comes at `after_ns` or sooner.

        `before_ns`: the time of the picture before, or of an earlier one. `longest_ns`: the longest interval between
        pictures since the last one that was given out.
        """

    def may_need_previous(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        """False is a promise: the picture before, at `before_ns`, will not be wanted only because the next one is there
        and has the time `at_ns`. `shortest_ns`: the shortest interval since the last one that was given out, or more.
        """


class ShiftedFrameSelector:
    """An interest in times of another clock, which is ahead by `shift_ns`; as long as that is unknown, in all."""

    def __init__(self, interest: FrameSelector) -> None:
        self._interest = interest
        self.shift_ns: int | None = None

    def may_need(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        """See `FrameSelector`."""
        shift_ns = self.shift_ns
        return shift_ns is None or self._interest.may_need(
            before_ns + shift_ns, at_ns + shift_ns, after_ns + shift_ns, longest_ns
        )

    def may_need_previous(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        """See `FrameSelector`."""
        shift_ns = self.shift_ns
        return shift_ns is None or self._interest.may_need_previous(before_ns + shift_ns, at_ns + shift_ns, shortest_ns)


@dataclass(frozen=True, slots=True, order=True)
class SkippedPacket(Generic[ItemT]):
    """A packet that was not decoded, the media time of its picture, and when it came (CLOCK_MONOTONIC)."""

    at_ns: int
    arrived_ns: int = field(compare=False)
    item: ItemT = field(compare=False)


class PacketSkipper(Generic[ItemT]):
    """Between the packets of one stream, in decoding order, and its decoder."""

    def __init__(self, *, prompt: bool) -> None:
        """`prompt`: no picture that is wanted may come a moment later because another one is left out."""
        self.interest: FrameSelector | None = None
        """None: everything is decoded."""
        self._prompt = prompt
        self._times: list[int] = []  # of the picture given out last, if any, and of all packets beyond it
        self._has_out = False
        self._decoding: set[int] = set()
        self._skipped: list[SkippedPacket[ItemT]] = []  # not yet told
        self._held: SkippedPacket[ItemT] | None = None
        self._key_ns: int | None = None  # of the last key frame; None: something was amiss since
        self._refuses = False

    def admit(
        self, item: ItemT, at_ns: int | None, *, arrived_ns: int, key: bool, spare: bool, sound: bool
    ) -> Sequence[ItemT]:
        """Take the next packet: those to decode now, in this order.

        `key`, `spare`: see `streamclf.sources.nal_references.Look`. `sound`: nothing is known to be wrong with it.
        """
        if self.interest is None:
            return (item,)
        if len(self._times) > 2 * MAX_TIMES:
            self._forget()  # of a decoder that gives nothing out
        if at_ns is None or (self._has_out and at_ns <= self._times[0]):
            items = [*self.finish(), item]
            self._forget()
            return items
        if not self._times or at_ns > self._times[-1]:
            is_new = True
            self._times.append(at_ns)
        else:
            place = bisect_left(self._times, at_ns)
            is_new = self._times[place] != at_ns
            if is_new:
                self._times.insert(place, at_ns)
        items = [] if self._held is None else self._resolve(sound)
        if not sound:
            self._key_ns = None
        elif key and not self._refuses:
            self._key_ns = at_ns
        may_skip = spare and is_new and self._key_ns is not None and at_ns > self._key_ns and self._has_room(arrived_ns)
        if not may_skip or self._is_waited_for(at_ns) or (wants := self._wants(at_ns)):
            self._decoding.add(at_ns)
            items.append(item)
        elif wants is None:
            self._held = SkippedPacket(at_ns, arrived_ns, item)
        else:
            insort(self._skipped, SkippedPacket(at_ns, arrived_ns, item))
        return items

    def finish(self) -> list[ItemT]:
        """What is still to be decoded when no more packets come."""
        return self._resolve(sound=True)

    def out(self, at_ns: int | None) -> Sequence[SkippedPacket[ItemT]]:
        """The decoder's next picture, in the order of showing, is the one at `at_ns`: what was skipped before it."""
        if self.interest is None:
            return ()
        if at_ns is None:
            self._forget()
            return self.rest()
        if not self._skipped and self._times and self._times[-1] == at_ns:
            # As nearly always, nothing was skipped, and the decoder holds nothing back.
            self._times, self._has_out = [at_ns], True
            self._decoding.clear()
            return ()
        jumped = self._has_out and at_ns <= self._times[0]
        count = len(self._skipped) if jumped else bisect_left(self._skipped, at_ns, key=lambda one: one.at_ns)
        told, self._skipped = self._skipped[:count], self._skipped[count:]
        place = bisect_left(self._times, at_ns)
        self._times[:place] = [] if self._times[place : place + 1] == [at_ns] else [at_ns]
        self._has_out = True
        self._decoding = {time_ns for time_ns in self._decoding if time_ns > at_ns}
        return told

    def rest(self) -> Sequence[SkippedPacket[ItemT]]:
        """What was skipped and not told yet: no picture follows it."""
        told, self._skipped = self._skipped, []
        return told

    def distrust(self, at_ns: int | None = None) -> None:
        """Something is wrong with what was decoded, with the picture at `at_ns` if known: skip nothing until the next
        key frame. Pictures shown before the last one come out after it was admitted; they are of no consequence to it.
        """
        if at_ns is None or self._key_ns is None or at_ns >= self._key_ns:
            self._key_ns = None

    def refuse(self) -> None:
        """Skip nothing any more: a packet is not a picture here."""
        self._refuses, self._key_ns = True, None

    def _has_room(self, now_ns: int) -> bool:
        """Whether one more may be left untold. Nothing may before the first picture: it may not be decodable."""
        if not self._has_out or len(self._times) > MAX_TIMES:
            return False
        untold = self._skipped
        return not untold or (
            len(untold) < MAX_PENDING_SKIPPED and now_ns - untold[0].arrived_ns < MAX_PENDING_SKIPPED_NS
        )

    def _forget(self) -> None:
        self._times, self._has_out, self._key_ns = [], False, None
        self._decoding.clear()

    def _resolve(self, sound: bool) -> list[ItemT]:
        """Decode or skip the packet that waited for the next one's time."""
        held, self._held = self._held, None
        if held is None:
            return []
        is_sure = sound and self._key_ns is not None and self._is_known(held.at_ns)
        if is_sure and self._wants(held.at_ns) is False:
            insort(self._skipped, held)
            return []
        self._decoding.add(held.at_ns)
        return [held.item]

    def _wants(self, at_ns: int) -> bool | None:
        """Whether the picture may be wanted; None: only when the one after it comes, whose time may still change."""
        assert self.interest is not None
        place = bisect_left(self._times, at_ns)
        before_ns = self._times[place - 1]
        longest_ns = max(later - earlier for earlier, later in pairwise(self._times[: place + 1]))
        if self.interest.may_need(before_ns, at_ns, at_ns, longest_ns):
            return True
        if place + 1 == len(self._times):
            return None
        return None if self.interest.may_need(before_ns, at_ns, self._times[place + 1], longest_ns) else False

    def _is_known(self, at_ns: int) -> bool:
        """Whether its time, and one before, are known still."""
        place = bisect_left(self._times, at_ns)
        return 0 < place < len(self._times) and self._times[place] == at_ns

    def _is_waited_for(self, at_ns: int) -> bool:
        """Whether an earlier picture may be wanted as soon as this one is told of, or the decoder has it."""
        assert self.interest is not None
        if not self._prompt:
            return False
        place = bisect_left(self._times, at_ns)
        shortest_ns = min((later - earlier for earlier, later in pairwise(self._times[:place])), default=FAR_NS)
        if self.interest.may_need_previous(self._times[place - 1], at_ns, shortest_ns):
            return True
        return any(earlier_ns < at_ns and self._wants(earlier_ns) is not False for earlier_ns in self._decoding)
