"""Compute the media time of a film's frames, also where its time stamps are disordered, restart or stand still. Pure.

Media time begins at 0 and increases strictly. A live source uses `streamclf.sources.media_clock` instead: there a jump
of time is a fault of the source, which must end a segment.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field
from typing import Final

from streamclf.sources.media_clock import WRAP_SLACK_NS, WRAPS_NS
from streamclf.units import NS

LATE_NS: Final = NS
"""A time stamp that goes back by more than this is the beginning of another recording, not a disordered frame."""
LATE_INTERVALS: Final = 2.5
"""A key frame that goes back by more than this many frame intervals begins another recording, too. Films of key frames
alone may have disordered ones."""
LONG_PICTURE_NS: Final = NS // 4
"""A picture that lasts longer than this is repeated. Sampling takes the nearest frame, so that the next picture would
otherwise begin half an interval too early."""
FIRST_REPEAT_NS: Final = NS // 10
"""The interval between the repetitions of a picture, where no frames before it give another one."""
MAX_PICTURE_NS: Final = 30 * 3600 * NS
"""A picture lasts no longer than this. A longer jump is an error in the file (FFmpeg's `dts_error_threshold`)."""
MAX_STREAM_PICTURE_NS: Final = 10 * NS
"""The same limit for formats that may restart their clock anywhere, as MPEG-TS may (FFmpeg's `dts_delta_threshold`)."""
DECLARED_SLACK_NS: Final = 10 * NS
"""A jump that ends later than this after the declared end of the film is an error in the file, too."""
ORDERLY_FRAMES: Final = 8
"""After this many frames in the order of their time stamps, the time stamps of packets may be relied on."""
MAX_PENDING: Final = 256
"""The most time stamps kept. A decoder holds back fewer packets; more means that it returns no frames."""
SHALLOW_CODECS: Final = frozenset(
    {"mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v2", "msmpeg4v3", "vc1", "wmv3", "h263"}
)
SHALLOW_DEPTH: Final = 4
DEEP_DEPTH: Final = 18
"""A frame comes out of the decoder after at most this many later packets (H.264 and H.265: 16), or never."""


@dataclass(slots=True)
class _Recording:
    """One of the recordings that a film joins: its time stamps increase from its first to its last picture."""

    first_ns: int
    newest_ns: int
    pending: list[tuple[int, int]] = field(default_factory=list)
    """The time stamps of packets whose frames did not come out yet, and the packets' numbers; in order of time."""
    shown_ns: int | None = None
    """The time stamp given to the last frame that came out."""
    reordered: bool = False
    """Whether decoding order differs from the order of time stamps."""
    disordered: bool = False
    """Whether a frame came out with an earlier time stamp than the frame before it."""
    orderly: int = 0


class FilmClock:
    """The media time of each frame of one film, in nanoseconds.

    `add_packet` gets the time stamp of each packet that goes to the decoder, `frame_ns` that of each frame that comes
    out. Where frames come out in the order of their time stamps, these are the times. Otherwise each frame gets the
    earliest time stamp of a packet that is left, so that decoding order decides. FFmpeg's best-effort time is similar.

    - MPEG's counter of 33 bits wraps around after 26.5 h: it is unwrapped.
    - AVI stores no presentation times. FFmpeg's guesses are wrong for most films with B frames.
    - Where the time stamps go back, another recording begins, and media time goes on.
    - A frame without a time stamp, or with one that is no later than that of the frame before it, follows after one
      frame interval.
    """

    def __init__(
        self, *, codec: str, interval_ns: int, declared_ns: int | None, restarts: bool = False, guessed: bool = False
    ) -> None:
        """Begin at media time 0.

        `interval_ns`: the nominal interval between frames. `declared_ns`: the film's declared duration. `restarts`: the
        format may restart its clock anywhere. `guessed`: the format has no presentation times.
        """
        self._interval_ns = interval_ns
        self._declared_ns = declared_ns
        self._max_picture_ns = MAX_STREAM_PICTURE_NS if restarts else MAX_PICTURE_NS
        self._guessed = guessed
        self._depth = SHALLOW_DEPTH if codec in SHALLOW_CODECS else DEEP_DEPTH
        self._recordings: list[_Recording] = []
        self._current: _Recording | None = None
        self._packets = 0
        self._last_ns: int | None = None
        self._duration_ns = 0
        self.joined = False
        """Whether the film joins recordings, or has a jump in time that is an error."""
        self.longest_ns = 0
        """The longest time that a picture lasted."""
        self._wrapped_ns = 0
        self._offset_ns: int | None = None

    @property
    def offset_ns(self) -> int | None:
        """Media time less time stamp; None before the first frame that has a time stamp."""
        return None if self._offset_ns is None else self._offset_ns + self._wrapped_ns

    @property
    def end_ns(self) -> int:
        """Media time at which the last frame ends."""
        return 0 if self._last_ns is None else self._last_ns + self._step_ns()

    @property
    def orderly(self) -> bool:
        """Whether frames come out in the order of the packets' time stamps, so that frames may be skipped by them."""
        current = self._current
        return current is not None and len(self._recordings) == 1 and current.orderly >= ORDERLY_FRAMES

    def add_packet(self, stamp_ns: int | None, *, key: bool) -> None:
        """Record a packet that goes to the decoder next."""
        self._packets += 1
        if stamp_ns is None:
            return
        recording = self._recordings[-1] if self._recordings else None
        stamp_ns += self._wrapped_ns
        if recording is not None and abs(recording.newest_ns - stamp_ns - WRAPS_NS[0]) < WRAP_SLACK_NS:
            self._wrapped_ns += WRAPS_NS[0]
            stamp_ns += WRAPS_NS[0]
            recording.orderly = 0
        if recording is None or self._begins_another(recording, stamp_ns, key):
            recording = _Recording(first_ns=stamp_ns, newest_ns=stamp_ns)
            self._recordings.append(recording)
        recording.reordered |= stamp_ns < recording.newest_ns
        recording.newest_ns = max(recording.newest_ns, stamp_ns)
        recording.first_ns = min(recording.first_ns, stamp_ns)
        insort(recording.pending, (stamp_ns, self._packets))
        if sum(len(each.pending) for each in self._recordings) > MAX_PENDING:
            self._recordings[0].pending.pop(0) if self._recordings[0].pending else self._recordings.pop(0)

    def drop_packet(self, stamp_ns: int | None) -> None:
        """Record that the packet added last, with this time stamp, gives no frame."""
        if stamp_ns is not None:
            stamp_ns += self._wrapped_ns
        for recording in reversed(self._recordings):
            for place in reversed(range(len(recording.pending))):
                if recording.pending[place][0] == stamp_ns:
                    del recording.pending[place]
                    return

    def frame_ns(self, stamp_ns: int | None, duration_ns: int, *, has_b_frames: bool) -> int:
        """Return the media time of the next frame that comes out of the decoder.

        `has_b_frames`: whether the decoder may reorder frames.
        """
        before = self._current
        shown_ns = None if before is None else before.shown_ns
        value_ns = self._value(stamp_ns, has_b_frames)
        last_ns, current = self._last_ns, self._current
        follows_ns = 0 if last_ns is None else last_ns + self._step_ns()
        if value_ns is None:
            media_ns = follows_ns
        elif current is not before or self._offset_ns is None:
            assert current is not None
            self.joined |= last_ns is not None
            # Leading packets that could not be decoded have their place in time, too.
            lead_ns = value_ns - current.first_ns
            media_ns = follows_ns + (lead_ns if 0 <= lead_ns <= LATE_NS else 0)
            self._offset_ns = media_ns - value_ns
        else:
            assert last_ns is not None
            media_ns = value_ns + self._offset_ns
            if shown_ns is not None and shown_ns - LATE_NS <= value_ns <= shown_ns:
                media_ns = max(follows_ns, last_ns + 1)
            elif last_ns - media_ns > LATE_NS or media_ns - last_ns > self._longest_ns(last_ns):
                media_ns, self.joined = follows_ns, True
                self._offset_ns = media_ns - value_ns
            media_ns = max(media_ns, last_ns + 1)
        self.longest_ns = max(self.longest_ns, media_ns - (last_ns or 0))
        self._last_ns, self._duration_ns = media_ns, duration_ns
        return media_ns

    def skipped_ns(self, stamp_ns: int) -> int:
        """Return the media time of a frame that was not decoded, because no consumer needs it."""
        media_ns = stamp_ns + (self.offset_ns or 0)
        if self._last_ns is not None:
            media_ns = max(media_ns, self._last_ns + 1)
        self._last_ns = media_ns
        return media_ns

    def _begins_another(self, recording: _Recording, stamp_ns: int, key: bool) -> bool:
        """Return whether a packet belongs to the next recording: its frame would come before one that was shown.

        No frame that is decoded after a key frame comes before it, except those that directly follow.
        """
        if key and recording.newest_ns - stamp_ns > LATE_INTERVALS * self._interval_ns:
            return True
        return recording.shown_ns is not None and recording.shown_ns - stamp_ns > LATE_NS

    def _value(self, stamp_ns: int | None, has_b_frames: bool) -> int | None:
        """Return the time stamp that counts for the next frame, and forget it."""
        number, stamp_ns = self._find(stamp_ns)
        recording = self._current
        if recording is None:
            return None
        pending = recording.pending
        if stamp_ns is None and not (self._guessed and has_b_frames):
            return None
        is_guess = has_b_frames and (self._guessed or not recording.reordered)
        if stamp_ns is not None and not (is_guess or recording.disordered):
            if recording.shown_ns is None or stamp_ns >= recording.shown_ns:
                del pending[: bisect_right(pending, (stamp_ns, self._packets))]
                recording.orderly += 1
                recording.shown_ns = stamp_ns
                return stamp_ns
            recording.disordered = True
        recording.orderly = 0
        if number is not None:  # the decoder will not return frames of packets from long before this one
            pending[:] = [(ns, n) for ns, n in pending if n >= number - self._depth]
        if not pending:
            return stamp_ns
        value_ns = pending.pop(0)[0]
        recording.shown_ns = value_ns if recording.shown_ns is None else max(value_ns, recording.shown_ns)
        return value_ns

    def _find(self, stamp_ns: int | None) -> tuple[int | None, int | None]:
        """Make the recording current that a frame belongs to.

        Returns the number of the frame's packet, if known, and the time stamp without wrap-arounds.
        """
        if stamp_ns is not None:
            stamp_ns += self._wrapped_ns
            before_wrap_ns = stamp_ns - WRAPS_NS[0] if self._wrapped_ns else stamp_ns
            for place, recording in enumerate(self._recordings):
                for ns, number in recording.pending:
                    if ns in (stamp_ns, before_wrap_ns):
                        del self._recordings[:place]
                        self._current = recording
                        return number, ns
        while len(self._recordings) > 1 and not self._recordings[0].pending:
            del self._recordings[0]
        if self._recordings:
            self._current = self._recordings[0]
        return None, stamp_ns

    def _step_ns(self) -> int:
        """Return how long the last frame lasts, if the next one has no time that says so."""
        return self._duration_ns if 0 < self._duration_ns <= MAX_PICTURE_NS else self._interval_ns

    def _longest_ns(self, last_ns: int) -> int:
        """Return how long the picture at `last_ns` may last."""
        if self._declared_ns is None or self.joined:
            return self._max_picture_ns
        left_ns = self._declared_ns + DECLARED_SLACK_NS - last_ns
        return max(min(self._max_picture_ns, left_ns), MAX_STREAM_PICTURE_NS)
