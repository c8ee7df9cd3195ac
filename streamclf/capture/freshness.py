"""Drop old frames of a live source, and read it no faster than a camera can send."""

from __future__ import annotations

import threading

from streamclf.errors import SourceError
from streamclf.sources import Frame
from streamclf.units import NS

MAX_LIVE_FPS = 250
INTERVAL_NS = NS // 10
"""The limit applies to each tenth of a second: the frames of a whole second at once would overrun the ring."""
MAX_STALE_NS = 5 * NS
"""A stream that is late for this long is opened again: the frames in its buffers only get older."""


class FrameRateLimit:
    """Limit the frames per second of a live source to the highest rate of any camera.

    Further frames wait in the connection, so their sender has to wait. Decoding all of them would take the processor
    core that other streams need.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._interval_start_ns = 0
        self._count = 0

    def wait_if_over(self, now_ns: int) -> bool:
        """Count a frame, and wait for the next interval if the limit is exceeded. Returns whether it was."""
        if now_ns - self._interval_start_ns >= INTERVAL_NS:
            self._interval_start_ns, self._count = now_ns, 0
        self._count += 1
        if self._count <= MAX_LIVE_FPS * INTERVAL_NS // NS:
            return False
        self._stop.wait((self._interval_start_ns + INTERVAL_NS - now_ns) / NS)
        return True


class StaleFrameFilter:
    """Reject frames that come much later than their time stamps say."""

    def __init__(self, max_stale_s: float | None) -> None:
        self._max_ns = None if max_stale_s is None else round(max_stale_s * NS)
        self._estimator = DelayEstimator()
        self._stale_since_ns: int | None = None

    def passes(self, frame: Frame) -> bool:
        """Return whether `frame` is fresh. Raises `SourceError` when the stream has been late for too long."""
        if self._max_ns is None:
            return True
        if frame.discontinuity:
            self._estimator = DelayEstimator()  # its time says nothing about the times before
        delay_ns = self._estimator.delay_ns(frame.pts_ns, frame.captured_ns)
        if delay_ns <= self._max_ns:
            self._stale_since_ns = None
            return True
        if self._stale_since_ns is None:
            self._stale_since_ns = frame.captured_ns
        if frame.captured_ns - self._stale_since_ns > MAX_STALE_NS:
            raise SourceError(f"frames arrive {delay_ns / NS:.1f} s late; opening the stream again to skip them")
        return False


CLOCK_DRIFT = 1000
"""A camera's clock may be off by one part in this many; a larger difference counts as delay."""


class DelayEstimator:
    """Estimate how late a frame is from its own time stamp: after a stall, old frames arrive as if they were new.

    The frame with the least delay so far gives the offset between the camera's clock and ours. Time that goes backwards
    is a new clock.
    """

    def __init__(self) -> None:
        self._offset_ns: int | None = None
        self._pts_ns = 0
        self._captured_ns = 0

    def delay_ns(self, pts_ns: int, captured_ns: int) -> int:
        """Return by how many nanoseconds this frame came later than the one with the least delay."""
        offset_ns = captured_ns - pts_ns
        if self._offset_ns is None or pts_ns < self._pts_ns:
            self._offset_ns = offset_ns
        else:
            drifted_ns = self._offset_ns + (captured_ns - self._captured_ns) // CLOCK_DRIFT
            self._offset_ns = offset_ns if offset_ns < drifted_ns else drifted_ns
        self._pts_ns, self._captured_ns = pts_ns, captured_ns
        return offset_ns - self._offset_ns
