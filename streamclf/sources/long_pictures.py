"""Show each picture of a film until the next one: a film need not repeat a picture while nothing changes.

Screen recordings and time lapses have such long pictures. In a live source the same interval is a gap, because nobody
knows what happened meanwhile. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from streamclf.sources.decoded_frame import DecodedFrame
from streamclf.sources.film_clock import FIRST_REPEAT_NS, LONG_PICTURE_NS, MAX_PICTURE_NS
from streamclf.sources.frame_skipping import ShiftedFrameSelector
from streamclf.units import NS

MIN_REPEAT_NS: Final = NS // 50
"""A picture is repeated at the rate of the frames before it, at most 50 times per second."""


class FilmFrameSelector(ShiftedFrameSelector):
    """Need each picture that lasts long: its repetitions may be sampled where the frame itself is not."""

    def may_need(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        """See `FrameSelector`."""
        return after_ns - at_ns > LONG_PICTURE_NS or super().may_need(before_ns, at_ns, after_ns, longest_ns)


def with_long_pictures(frames: Iterator[DecodedFrame]) -> Iterator[DecodedFrame]:
    """Repeat each frame that lasts long until the next one; the last frame for its own duration.

    The frames' times increase strictly. A repetition costs no decoding: it has the same image. Only where time stamps
    are disordered, a frame may last long that was not decoded; the image before stays.
    """
    last: DecodedFrame | None = None
    decoded: DecodedFrame | None = None
    interval_ns = FIRST_REPEAT_NS
    for frame in frames:
        if last is not None:
            assert last.pts_ns is not None
            assert frame.pts_ns is not None
            lasted_ns = frame.pts_ns - last.pts_ns
            if lasted_ns > LONG_PICTURE_NS:
                yield from _repeated(last, decoded or last, frame.pts_ns, interval_ns)
            else:
                interval_ns = max(lasted_ns, MIN_REPEAT_NS)
        yield frame
        last = frame
        if frame.oriented is not None:
            decoded = frame
    if last is not None and LONG_PICTURE_NS < last.duration_ns <= MAX_PICTURE_NS:
        assert last.pts_ns is not None
        yield from _repeated(last, decoded or last, last.pts_ns + last.duration_ns, interval_ns)


def _repeated(last: DecodedFrame, image: DecodedFrame, end_ns: int, interval_ns: int) -> Iterator[DecodedFrame]:
    """Yield `image` again and again, from the frame `last` until `end_ns`."""
    assert last.pts_ns is not None
    for at_ns in range(last.pts_ns + interval_ns, end_ns - interval_ns // 2, interval_ns):
        # The damage is that of one frame, however long it is shown.
        yield image._replace(pts_ns=at_ns, broken=False, duration_ns=0, repeated=True)
