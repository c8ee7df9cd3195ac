"""Which frames of a live source are taken: no old ones, and not more than a camera makes."""

from __future__ import annotations

import threading

from streamclf.errors import SourceError
from streamclf.sources import Frame
from streamclf.windows.sampling import NS

MAX_LIVE_FPS = 250
TURN_NS = NS // 10
"""Evenly, a tenth of a second at a time: a second's worth at once would run over the ring."""
STALE_FOR_NS = 5 * NS
"""A stream that is late for this long is opened anew: what waits in its buffers will only get older."""


class FloodGate:
    """Takes no more pictures a second from a live source than any camera makes: the others wait in the connection, so
    that their sender has to. Decoding a flood would take the core that other streams need."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._since_ns = 0
        self._taken = 0

    def hold(self, now_ns: int) -> bool:
        """Count a picture, and wait where it is one too many; whether it was."""
        if now_ns - self._since_ns >= TURN_NS:
            self._since_ns, self._taken = now_ns, 0
        self._taken += 1
        if self._taken <= MAX_LIVE_FPS * TURN_NS // NS:
            return False
        self._stop.wait((self._since_ns + TURN_NS - now_ns) / NS)
        return True


class FreshOnly:
    """Lets no picture through that comes much later than its time stamp promises."""

    def __init__(self, max_stale_s: float | None) -> None:
        self._max_ns = None if max_stale_s is None else round(max_stale_s * NS)
        self._freshness = Freshness()
        self._stale_since_ns: int | None = None

    def passes(self, frame: Frame) -> bool:
        """Whether `frame` is fresh. Raises `SourceError` when the stream has been late for too long."""
        if self._max_ns is None:
            return True
        late_ns = self._freshness.late_ns(frame.pts_ns, frame.captured_ns)
        if late_ns <= self._max_ns:
            self._stale_since_ns = None
            return True
        if self._stale_since_ns is None:
            self._stale_since_ns = frame.captured_ns
        if frame.captured_ns - self._stale_since_ns > STALE_FOR_NS:
            raise SourceError(f"pictures come {late_ns / NS:.1f} s late; opening the stream anew to see the present")
        return False


CLOCK_DRIFT = 1000
"""A camera's clock may be off by a thousandth; more than that counts as delay."""


class Freshness:
    """How late a frame is, judged by its own time stamp: after a stall, old pictures arrive as if they were new.

    The promptest frame so far tells the offset between the camera's clock and ours. Time that goes backwards is
    a new clock.
    """

    def __init__(self) -> None:
        self._offset_ns: int | None = None
        self._pts_ns = 0
        self._captured_ns = 0

    def late_ns(self, pts_ns: int, captured_ns: int) -> int:
        """Nanoseconds by which this frame came later than the promptest one."""
        offset_ns = captured_ns - pts_ns
        if self._offset_ns is None or pts_ns < self._pts_ns:
            self._offset_ns = offset_ns
        else:
            drifted_ns = self._offset_ns + (captured_ns - self._captured_ns) // CLOCK_DRIFT
            self._offset_ns = offset_ns if offset_ns < drifted_ns else drifted_ns
        self._pts_ns, self._captured_ns = pts_ns, captured_ns
        return offset_ns - self._offset_ns
