"""Ctrl-C and SIGTERM as requests, not as exceptions in the middle of something."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_on_signals(request: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGINT and SIGTERM ask for a clean end instead of raising in the middle of something."""
    before = {number: signal.signal(number, lambda *_: request()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
