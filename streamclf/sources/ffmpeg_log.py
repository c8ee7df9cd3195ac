"""Read FFmpeg's log lines, which report some faults that PyAV does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import av
import av.logging


@contextmanager
def captured_log(level: int = av.logging.WARNING) -> Iterator[list[tuple[int, str, str]]]:
    """Collect this thread's log lines of FFmpeg up to `level`, as (level, component, text), in a `with` block.

    The log is captured only while a packet is read. PyAV takes Python's lock for each line. If the log were always
    captured, closing a decoder would be a deadlock: its threads would wait for that lock.
    """
    before = av.logging.get_level()
    av.logging.set_skip_repeated(False)  # a second loss is one more line
    av.logging.set_level(level)
    try:
        with av.logging.Capture() as lines:
            yield lines
    finally:
        av.logging.set_level(before)
