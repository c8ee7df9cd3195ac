"""Ask a command to end: by signal, from its own code, or after a time limit."""

from __future__ import annotations

import time

_POLL_S = 0.1
"""Interval at which a wait checks the flag: without a lock, nothing can wake it."""


class StopRequest:
    """A flag that tells a command to end. It is set by `request`, or when `seconds` have passed since it was made.

    Unlike `threading.Event` it has no lock: a signal handler runs in the main thread, which may hold that lock.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._end_s = None if seconds is None else time.monotonic() + seconds
        self._was_requested = False

    def request(self) -> None:
        """Ask the command to end. Safe in a signal handler and in any thread."""
        self._was_requested = True

    @property
    def is_set(self) -> bool:
        """Whether the command must end now."""
        return self._was_requested or (self._end_s is not None and time.monotonic() >= self._end_s)

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds` or until the command must end; return whether it must end."""
        wake_s = time.monotonic() + seconds
        while not self.is_set and (remaining_s := wake_s - time.monotonic()) > 0:
            time.sleep(min(remaining_s, _POLL_S))
        return self.is_set
