"""Deliver the frames of a file at their own rate, as a camera would."""

from __future__ import annotations

import threading
import time

from streamclf.units import NS

MAX_LAG_NS = NS // 2
"""If playback lags further behind its clock, it continues from now instead of catching up."""


class RealtimePacer:
    """Hold each frame back until it is due on the monotonic clock."""

    def __init__(self, stop: threading.Event, *, reserve_ns: int = 0) -> None:
        """After a lag, wait `reserve_ns` before playback continues, so that a smaller lag is no gap."""
        self._stop = stop
        self._reserve_ns = reserve_ns
        self._offset_ns: int | None = None
        self._last_due_ns = 0
        self._last_pts_ns = 0

    def wait(self, pts_ns: int, interval_ns: int, *, restart: bool) -> None:
        """Return when the frame at `pts_ns` is due, or when a stop is requested.

        `restart`: media time begins again; this frame is due one interval after the last one.
        """
        now_ns = time.monotonic_ns()
        if self._offset_ns is None:
            self._offset_ns = now_ns - pts_ns
        elif restart or pts_ns < self._last_pts_ns:
            self._offset_ns = self._last_due_ns + interval_ns - pts_ns
        due_ns = self._offset_ns + pts_ns
        if now_ns - due_ns > MAX_LAG_NS:
            due_ns = now_ns + self._reserve_ns
            self._offset_ns = due_ns - pts_ns
        self._last_due_ns, self._last_pts_ns = due_ns, pts_ns
        if due_ns > now_ns:
            self._stop.wait((due_ns - now_ns) / NS)
