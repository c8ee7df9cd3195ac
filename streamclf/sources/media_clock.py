"""Media time that goes where the camera's clock goes: wrapped counters unwrapped, missing time stamps filled in."""

from __future__ import annotations

NS = 1_000_000_000
WRAPS_NS = (round(2**33 * NS / 90_000), round(2**32 * NS / 90_000))
"""After 26.5 h MPEG's 33 bits at 90 kHz begin again at 0, after 13.3 h RTP's 32 bits. FFmpeg follows the first wrap of
a connection, not all of them."""
WRAP_SLACK_NS = 60 * NS
"""A jump back that lands this near to where a wrap would lead is one."""
ESTIMATE_SLACK_NS = NS
"""A time stamp that is this little before an estimated one is later in truth."""


class MediaClock:
    """The media time of each picture of one connection, in nanoseconds.

    Jumps are passed on as they are: sampling begins a new segment with them. A counter that wraps around is no jump.
    A picture without a time stamp gets the one that it should have by the clock, since the picture before it.
    """

    def __init__(self) -> None:
        self._offset_ns = 0
        self._last_ns: int | None = None
        self._captured_ns = 0
        self._estimated = False

    def at(self, pts_ns: int | None, captured_ns: int) -> int:
        """Media time of the picture stamped `pts_ns`, or unstamped, that was decoded at `captured_ns` (monotonic)."""
        last_ns = self._last_ns
        if last_ns is None:
            # FFmpeg may know no time for the first picture of an RTSP stream, from which it counts the others'.
            media_ns = 0 if pts_ns is None else pts_ns
        else:
            expected_ns = last_ns + captured_ns - self._captured_ns
            media_ns = expected_ns if pts_ns is None else self._continued(pts_ns, last_ns, expected_ns)
        self._last_ns, self._captured_ns, self._estimated = media_ns, captured_ns, pts_ns is None
        return media_ns

    def _continued(self, pts_ns: int, last_ns: int, expected_ns: int) -> int:
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
