"""Detect frozen video: a camera whose sensor or encoder hangs keeps sending old images. Pure: no I/O, no clock."""

from __future__ import annotations

from collections import OrderedDict

from engines.arrays import U8
from streamclf.units import NS

REMEMBERED = 64
"""Number of past frames to compare with. An encoder that gets the same image again and again produces as many different
frames as lie between two key frames. A film that is played in a loop for a test is longer than this."""
LONGEST_NS = 2 * NS
"""A longer interval between two frames is an outage and counts as this much at most."""
ROWS = 4
"""Only every fourth row is compared: a model sees no motion between them, and the hash takes 20 us."""


class FrozenDetector:
    """Measure for how long every frame has repeated one of the last frames.

    Frames are compared exactly, at the model's input size. A sensor's noise makes every frame new, even of an empty
    room at night. A tolerance large enough for noise would also hide a person far away. Time is CLOCK_MONOTONIC of the
    capture. Memory and time per frame are constant.
    """

    def __init__(self) -> None:
        self._hashes: OrderedDict[int, None] = OrderedDict()
        self._previous_ns: int | None = None
        self._frozen_ns = 0

    def update(self, frame: U8, captured_ns: int) -> float:
        """Add the next sampled frame, (H, W, 3) uint8 RGB. Returns the seconds of video since the last new frame."""
        key = hash(frame[::ROWS].tobytes())
        is_known = key in self._hashes
        self._hashes[key] = None
        self._hashes.move_to_end(key)
        if len(self._hashes) > REMEMBERED:
            self._hashes.popitem(last=False)
        if is_known and self._previous_ns is not None:
            self._frozen_ns += min(captured_ns - self._previous_ns, LONGEST_NS)
        else:
            self._frozen_ns = 0
        self._previous_ns = captured_ns
        return self._frozen_ns / NS
