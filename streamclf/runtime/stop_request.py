"""Ask a command to end: by signal, from its own code, or after a time limit."""

from __future__ import annotations

import time
from datetime import datetime

_POLL_S = 0.1
"""Interval at which a wait checks the flag: without a lock, nothing can wake it."""


class StopRequest:
    """A flag that tells a command to end. It is set by `request`, or when `seconds` have passed since it was made.

    Unlike `threading.Event` it has no lock: a signal handler runs in the main thread, which may hold that lock.
    """

    def __init__(self, seconds: float | None = None, *, drain_s: float = 0.0) -> None:
        self._end_s = None if seconds is None else time.monotonic() + seconds
        self._drain_s = drain_s
        self._requested_s: float | None = None
        self.when_caught_up = False
        """Whether to end as soon as everything that is in the journal now has been handled."""
        self.caught_up_after: datetime | None = None
        """With `when_caught_up`: everything that was in the journal at this time of the service's clock."""

    def request(self) -> None:
        """Ask the command to end. Safe in a signal handler and in any thread."""
        if self._requested_s is None:
            self._requested_s = time.monotonic()

    @property
    def is_requested(self) -> bool:
        """Whether somebody asked the command to end: it finishes what has arrived, and starts nothing that waits."""
        return self._requested_s is not None

    @property
    def is_set(self) -> bool:
        """Whether the command must end now: `drain_s` after the request, or when its time is over."""
        now_s = time.monotonic()
        if self._requested_s is not None and now_s >= self._requested_s + self._drain_s:
            return True
        return self._end_s is not None and now_s >= self._end_s

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds` or until the command must end; return whether it must end."""
        wake_s = time.monotonic() + seconds
        while not self.is_set and (remaining_s := wake_s - time.monotonic()) > 0:
            time.sleep(min(remaining_s, _POLL_S))
        return self.is_set
