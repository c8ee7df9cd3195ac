"""Report what one outlet does: lines for people, its state and its counts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import datetime, timezone

from engines.printable import printable
from streamclf.events.outlet_status import MAX_REASON_CHARS, OutletStatus
from streamclf.redact import redact


class OutletReport:
    """The state and the counts of an outlet. Any thread may change the state; the main loop changes the counts."""

    def __init__(self, name: str, notify: Callable[[int, str], None] | None = None) -> None:
        """Report as the command `name` on stderr, or call `notify` with the level and the text of each line."""
        self._name = name
        self._notify = notify
        self._waits_for = ""
        self._since = datetime.now(timezone.utc)
        self.delivered = 0
        """Events that the receiver has confirmed."""
        self.refused = 0
        """Events that the receiver has refused for good."""
        self.lost = 0
        """Ranges of events that were gone from the journal before they could be delivered."""

    def notice(self, message: str, level: int = logging.INFO) -> None:
        """Report one line for people, without credentials and control characters."""
        text = printable(redact(message))
        if self._notify:
            self._notify(level, text)
        else:
            print(f"streamclf {self._name}: {text}", file=sys.stderr, flush=True)

    def waiting(self, reason: str) -> None:
        """Record that the outlet waits for its receiver or for the service."""
        if not self._waits_for:
            self._since = datetime.now(timezone.utc)
        self._waits_for = printable(redact(reason))[:MAX_REASON_CHARS] or "its receiver"

    def running(self) -> None:
        """Record that the outlet delivers, or has nothing to deliver."""
        if self._waits_for:
            self._waits_for, self._since = "", datetime.now(timezone.utc)

    @property
    def status(self) -> OutletStatus:
        """The present state and counts."""
        return OutletStatus(
            state="waiting" if self._waits_for else "running",
            reason=self._waits_for or None,
            since=self._since,
            delivered=self.delivered,
            refused=self.refused,
            lost=self.lost,
        )
