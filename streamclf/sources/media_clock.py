"""Compute media time that follows the camera's clock: counters unwrapped, missing time stamps estimated."""

from __future__ import annotations

from streamclf.units import NS

WRAPS_NS = (round(2**33 * NS / 90_000), round(2**32 * NS / 90_000))
"""MPEG's 33 bits at 90 kHz wrap around to 0 after 26.5 h, RTP's 32 bits after 13.3 h. FFmpeg unwraps the first time of
a connection, not the later ones."""
WRAP_SLACK_NS = 60 * NS
"""A jump back counts as a wrap-around if the unwrapped time is this near to the expected time."""
ESTIMATE_SLACK_NS = NS
"""A time stamp that is less than this before an estimated one counts as later: the estimate was too late."""


class MediaClock:
    """The media time of each frame of one connection, in nanoseconds.

    Jumps are passed on unchanged; sampling begins a new segment with them. A counter that wraps around is not a jump.
    A frame without a time stamp gets the time of the frame before, plus the time that has passed on our clock.
    """

    def __init__(self) -> None:
        self._offset_ns = 0
        self._last_ns: int | None = None
        self._captured_ns = 0
        self._estimated = False

    def media_ns(self, pts_ns: int | None, captured_ns: int) -> int:
        """Return the media time of the frame with time stamp `pts_ns`, if any, decoded at `captured_ns` (monotonic)."""
        last_ns = self._last_ns
        if last_ns is None:
            # FFmpeg may not know the time of an RTSP stream's first frame, although it counts the others from it.
            media_ns = 0 if pts_ns is None else pts_ns
        else:
            expected_ns = last_ns + captured_ns - self._captured_ns
            media_ns = expected_ns if pts_ns is None else self._unwrapped(pts_ns, last_ns, expected_ns)
        self._last_ns, self._captured_ns, self._estimated = media_ns, captured_ns, pts_ns is None
        return media_ns

    def _unwrapped(self, pts_ns: int, last_ns: int, expected_ns: int) -> int:
        media_ns = pts_ns + self._offset_ns
        if media_ns > last_ns:
            return media_ns
        if self._estimated and last_ns - media_ns < ESTIMATE_SLACK_NS:
            return last_ns + 1
        for wrap_ns in WRAPS_NS:
            if abs(media_ns + wrap_ns - expected_ns) < WRAP_SLACK_NS:
                self._offset_ns += wrap_ns
                return media_ns + wrap_ns
        return media_ns
