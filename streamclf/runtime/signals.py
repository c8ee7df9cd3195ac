"""Ctrl-C and SIGTERM as requests, not as exceptions in the middle of something."""

from __future__ import annotations

import contextlib
import os
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


@contextlib.contextmanager
def reload_on_hangup(reload: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGHUP asks for the configuration to be read again, as daemons take it.

    In a terminal that was closed it means what it says, and asks for the end.
    """
    had_terminal = os.isatty(2)

    def hangup(*_: object) -> None:
        if had_terminal and not os.isatty(2):
            stop()
        else:
            reload()

    before = signal.signal(signal.SIGHUP, hangup)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
