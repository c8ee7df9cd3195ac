"""Whether pictures that arrive are new ones: a camera whose sensor or encoder hangs goes on sending. Pure."""

from __future__ import annotations

from collections import OrderedDict

from engines.arrays import U8
from streamclf.windows.sampling import NS

REMEMBERED = 64
"""Pictures that are known again. An encoder that is fed one picture for ever makes as many different ones as lie
between two key frames; a film that somebody plays over and over for a test is longer than this."""
LONGEST_NS = 2 * NS
"""A longer pause between two pictures is an outage, and nobody's picture stands still in it."""
ROWS = 4
"""Every fourth row is compared: nothing that a model could see moves between them, and it costs 20 us."""


class Stillness:
    """Tells for how long every picture has been one that was seen before.

    Pictures are compared as the model gets them, exactly: a sensor's noise makes each one new, also of an empty room
    at night, while a tolerance that let noise through would also let a person far away through.
    Time is CLOCK_MONOTONIC of the pictures' capture; memory and time per picture do not grow.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._previous_ns: int | None = None
        self._still_ns = 0

    def offer(self, picture: U8, captured_ns: int) -> float:
        """Take the next sampled picture, (H, W, 3) uint8 RGB; seconds of pictures since the last new one."""
        key = hash(picture[::ROWS].tobytes())
        is_known = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        if is_known and self._previous_ns is not None:
            self._still_ns += min(captured_ns - self._previous_ns, LONGEST_NS)
        else:
            self._still_ns = 0
        self._previous_ns = captured_ns
        return self._still_ns / NS
