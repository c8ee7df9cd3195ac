"""Compute the media time of a live stream: by its time stamps, or by arrival while the stamps are unsound."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import Final, NamedTuple

from streamclf.sources.media_clock import MediaClock
from streamclf.units import NS

STANDING_FRAMES: Final = 10
"""So many frames in a row with the same time stamp mean that the stamps stand still."""
STANDING_NS: Final = 2 * NS
"""Of a slow camera, three frames with the same stamp mean it if they arrive over this time."""
MAX_DISORDERED: Final = 4
DISORDER_NS: Final = 120 * NS
"""So many steps backwards or jumps within this time are disorder. A camera whose clock is set makes one or two."""
JUMP_NS: Final = 10 * NS
"""A step forward that exceeds the time passed by this much is a jump."""
SAMPLE_NS: Final = NS // 5
WINDOW_NS: Final = 6 * NS
"""The stamps' progress is compared with the time passed over windows of up to this length. A stale stream is opened
again after 7 s, so a wrong unit must be detected before."""
SLOW_RULES: Final = (
    # Over at least these seconds and frames, the stamps show at least this frame rate and at most this progress per
    # second.
    (0.5, 12, 250.0, 1 / 4),
    (2.0, 3, 80.0, 1 / 4),
    (5.0, 3, 0.0, 1 / 20),  # no camera buffers so much for a slow network
)
FAST_RATIO: Final = 4.0
"""Stamps that run so much faster than time, in both halves of a window, are in another unit. A server that sends its
buffer first does so in one half only."""
SOUND_NS: Final = 300 * NS
"""Stamps are used again after this long without a fault, so that a clock cannot switch to and fro."""
MAX_SKIPPED_NS: Final = 60 * NS
"""A live playlist lists less video than this, so no more can be skipped beyond the time passed."""
MAX_INTERVAL_NS: Final = NS
"""A longer step in segmented video is a gap, not a frame interval."""


class _Sample(NamedTuple):
    arrived_ns: int
    media_ns: int
    frames: int
    longest_ns: int
    """The longest wait for a frame since the sample before."""


class StampCheck:
    """Find out whether the time stamps of a live stream describe the times of its frames.

    A network delays frames, delivers them in bursts and loses some. All of that leaves the stamps of a sound camera in
    order, and in step with time over a few seconds.
    """

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self._equal = 0
        self._standing_since_ns = 0
        self._disordered: deque[int] = deque(maxlen=MAX_DISORDERED)
        self._samples: deque[_Sample] = deque()
        self._frames = self._longest_ns = 0

    def push(self, media_ns: int, arrived_ns: int) -> str | None:
        """Add the next frame, in display order. Returns what is wrong with the stamps; None if nothing is known."""
        last, self._last = self._last, (media_ns, arrived_ns)
        if last is None:
            self._restart(media_ns, arrived_ns)
            return None
        step_ns, passed_ns = media_ns - last[0], arrived_ns - last[1]
        if step_ns < 0 or step_ns > passed_ns + JUMP_NS:
            self._equal = 0
            self._disordered.append(arrived_ns)
            self._restart(media_ns, arrived_ns)
            is_full = len(self._disordered) == MAX_DISORDERED
            return "its time stamps are out of order" if is_full and self._is_recent(arrived_ns) else None
        if step_ns:
            self._equal = 0
        else:
            self._standing_since_ns = self._standing_since_ns if self._equal else last[1]
            self._equal += 1
        self._frames += 1
        self._longest_ns = max(self._longest_ns, passed_ns)
        if self._is_standing(arrived_ns):
            return "its time stamps stand still"
        if arrived_ns - self._samples[-1].arrived_ns < SAMPLE_NS:
            return None
        self._samples.append(_Sample(arrived_ns, media_ns, self._frames, self._longest_ns))
        self._longest_ns = 0
        # The first sample may be older than the window: two halves of the window need one in the middle.
        while len(self._samples) > 3 and arrived_ns - self._samples[1].arrived_ns > WINDOW_NS:
            self._samples.popleft()
        return "its time stamps do not follow real time" if self._is_slow() or self._is_fast() else None

    def _restart(self, media_ns: int, arrived_ns: int) -> None:
        self._samples.clear()
        self._samples.append(_Sample(arrived_ns, media_ns, 0, 0))
        self._frames = self._longest_ns = 0

    def _is_recent(self, arrived_ns: int) -> bool:
        return arrived_ns - self._disordered[0] <= DISORDER_NS

    def _is_standing(self, arrived_ns: int) -> bool:
        return self._equal >= STANDING_FRAMES or (
            self._equal >= 2 and arrived_ns - self._standing_since_ns >= STANDING_NS
        )

    def _is_slow(self) -> bool:
        return any(self._is_slower(*rule) for rule in SLOW_RULES)

    def _is_slower(self, min_s: float, min_frames: int, fps: float, ratio: float) -> bool:
        newest, longest_ns = self._samples[-1], 0
        for later, sample in pairwise(reversed(self._samples)):
            longest_ns = max(longest_ns, later.longest_ns)
            passed_ns, frames = newest.arrived_ns - sample.arrived_ns, newest.frames - sample.frames
            if passed_ns >= min_s * NS and frames >= min_frames:
                media_ns = newest.media_ns - sample.media_ns
                # After one long wait the next frames come in a burst, so one wait must not be most of the window.
                is_even = longest_ns <= passed_ns // 2
                return is_even and media_ns * fps <= frames * NS and media_ns <= ratio * passed_ns
        return False

    def _is_fast(self) -> bool:
        first, newest = self._samples[0], self._samples[-1]
        if newest.arrived_ns - first.arrived_ns < WINDOW_NS:
            return False
        middle_ns = (first.arrived_ns + newest.arrived_ns) // 2
        middle = min(self._samples, key=lambda sample: abs(sample.arrived_ns - middle_ns))
        return _runs_fast(first, middle) and _runs_fast(middle, newest)


def _runs_fast(first: _Sample, last: _Sample) -> bool:
    passed_ns = last.arrived_ns - first.arrived_ns
    return passed_ns > 0 and last.media_ns - first.media_ns > FAST_RATIO * passed_ns


class LiveClock:
    """The media time of each frame of one live connection, in nanoseconds.

    It follows the time stamps (`MediaClock`). While they are unsound (`StampCheck`), frames get the time at which they
    arrive. The change to arrival begins a new segment, because the times before it were wrong.
    """

    def __init__(self, *, check: bool = True) -> None:
        """`check`: frames arrive when they are made. If not, as in a file on a server, all stamps are used."""
        self._clock = MediaClock()
        self._check = StampCheck() if check else None
        self._last: tuple[int, int] | None = None
        self._shift_ns = 0
        self._faulty_ns = 0
        self._reason: str | None = None
        self.is_discontinuous = False
        """Whether the time of the last frame does not continue that of the frame before it."""

    @property
    def uses_arrival(self) -> bool:
        """Whether frames get the time at which they arrive."""
        return self._reason is not None

    @property
    def note(self) -> str | None:
        """The status note about unsound time stamps; None while they are used."""
        return None if self._reason is None else f"{self._reason}: frames get the time at which they arrive"

    def media_ns(self, pts_ns: int | None, captured_ns: int) -> int:
        """Return the media time of the frame with time stamp `pts_ns`, if any, that arrived at `captured_ns`."""
        stamp_ns = self._clock.media_ns(pts_ns, captured_ns)
        reason = None if self._check is None else self._check.push(stamp_ns, captured_ns)
        last = self._last
        media_ns = stamp_ns + self._shift_ns
        self.is_discontinuous = reason is not None and self._reason is None
        if reason is not None:
            self._faulty_ns = captured_ns
            self._reason = self._reason or reason
        if self._reason is not None and last is not None:
            # The clock never stands still: the sampler ignores a second frame with the same time.
            media_ns = last[0] + max(1, captured_ns - last[1])
            self._shift_ns = media_ns - stamp_ns
            if captured_ns - self._faulty_ns > SOUND_NS:
                self._reason = None
        self._last = (media_ns, captured_ns)
        return media_ns


class SegmentClock:
    """The media time of each frame of a live stream that arrives in segments (HLS), in nanoseconds.

    Frames arrive in their order, but each segment may have been written alone, with time stamps from 0. A frame whose
    stamp does not continue the one before follows it after one frame interval. The stamps of segments that were skipped
    stay a gap.
    """

    uses_arrival = is_discontinuous = False
    note = None

    def __init__(self) -> None:
        self._clock = MediaClock()
        self._last: tuple[int, int] | None = None  # of the stamps, captured
        self._interval_ns = NS // 25
        self._shift_ns = 0

    def media_ns(self, pts_ns: int | None, captured_ns: int) -> int:
        """Return the media time of the frame with time stamp `pts_ns`, if any, that was read at `captured_ns`."""
        stamp_ns = self._clock.media_ns(pts_ns, captured_ns)
        last, self._last = self._last, (stamp_ns, captured_ns)
        if last is None:
            return stamp_ns
        step_ns, passed_ns = stamp_ns - last[0], captured_ns - last[1]
        if not 0 < step_ns <= passed_ns + MAX_SKIPPED_NS:
            self._shift_ns += self._interval_ns - step_ns
        elif step_ns < MAX_INTERVAL_NS:
            self._interval_ns = step_ns
        return stamp_ns + self._shift_ns
