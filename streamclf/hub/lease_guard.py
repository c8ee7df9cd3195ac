"""Refuse the events of streams for which this node holds no valid lease (docs/protocol.md, Fleets)."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import Counter
from pathlib import Path
from typing import Final

from streamclf.errors import EventError
from streamclf.runtime.lease_file import IDLE_STREAM, MAX_LEASE_S, Lease, lease_clock_ns, read_leases
from streamclf.units import NS

MAX_COUNTED: Final = 400
"""Streams whose refused events are counted by name; events of further ones are counted together, under `OTHER`."""
OTHER: Final = "other"
_LISTED: Final = 12

log = logging.getLogger(__name__)


class LeaseGuard:
    """Know the valid leases, and count the events that come without one. One thread uses it."""

    def __init__(self, path: Path) -> None:
        """Read the leases from `path`, whenever that file has changed. Without the file, no stream has a lease."""
        self._path = path
        self._state: object = None
        self._fault = ""
        self._leases: dict[str, Lease] = {}
        self._since_ns: dict[str, int] = {}
        """From when on each stream has had a lease without interruption."""
        self._newest: dict[str, int] = {}
        """The largest token of each stream so far: a smaller one is refused, whoever wrote it."""
        self.refused: Counter[str] = Counter()
        """Events that were refused, by stream, since this process started."""
        self._reported: Counter[str] = Counter()
        self._held: frozenset[str] = frozenset()

    def refresh(self) -> None:
        """Read the file again if it has changed. Call it before each commit."""
        state: object = None
        with contextlib.suppress(OSError):
            status = os.stat(self._path)  # noqa: PTH116 - called for each commit, and three times as fast
            state = status.st_ino, status.st_mtime_ns, status.st_size
        if state == self._state and state is not None:
            return
        self._state = state
        try:
            found, fault = read_leases(self._path), ""
        except EventError as error:
            found, fault = {}, str(error)
        if fault != self._fault:
            self._fault = fault
            if fault:
                log.error("no lease is valid: %s; the events of all streams are refused", fault)
        self._replace(found)

    def token_of(self, stream: str) -> int | None:
        """Return the token with which `stream` may be published now; None without a valid lease."""
        lease = self._leases.get(stream)
        return lease.token if lease is not None and _is_valid(lease, lease_clock_ns()) else None

    def admit(self, stream: str, captured_ns: int | None) -> int | None:
        """Return the token for an event, or count the event as refused and return None.

        `captured_ns` (CLOCK_MONOTONIC) is the capture time of its newest frame. A frame from before the lease belongs
        to the node that had the stream then.
        """
        token = self.token_of(stream)
        if token is not None and captured_ns is not None:
            age_ns = time.monotonic_ns() - captured_ns
            if age_ns > lease_clock_ns() - self._since_ns[stream]:
                token = None
        if token is None and stream != IDLE_STREAM:
            self.refused[stream if stream in self.refused or len(self.refused) < MAX_COUNTED else OTHER] += 1
        return token

    def held(self) -> dict[str, int]:
        """Return the token of each stream that has a valid lease now."""
        now_ns = lease_clock_ns()
        return {stream: lease.token for stream, lease in self._leases.items() if _is_valid(lease, now_ns)}

    def report(self) -> None:
        """Log which leases have become valid and which have ended since the last call. Call it about once a second."""
        held = frozenset(self.held())
        if gained := sorted(held - self._held):
            log.info("may publish %s%s", _listed(gained), self._new_refusals(gained))
        if lost := sorted(self._held - held):
            log.warning("no longer a valid lease for %s: events are refused from now on", _listed(lost))
        self._held = held
        first = sorted(stream for stream in self.refused if stream not in self._reported and stream not in held)
        if first:
            log.warning("no lease for %s%s", _listed(first), self._new_refusals(first))

    def _new_refusals(self, streams: list[str]) -> str:
        count = sum(self.refused[stream] - self._reported[stream] for stream in streams)
        for stream in streams:
            if self.refused[stream]:
                self._reported[stream] = self.refused[stream]
        return f"; events refused: {count}" if count else ""

    def _replace(self, found: dict[str, Lease]) -> None:
        before, since = self._leases, self._since_ns
        self._leases, self._since_ns = {}, {}
        for stream, lease in found.items():
            if lease.token < self._newest.get(stream, 0):
                log.error(
                    "%s: lease %d is older than lease %d; it is not used", stream, lease.token, self._newest[stream]
                )
                continue
            self._newest[stream] = lease.token
            last = before.get(stream)
            is_continued = last is not None and last.expires_ns >= lease.granted_ns
            self._leases[stream] = lease
            self._since_ns[stream] = since[stream] if is_continued else lease.granted_ns


def _is_valid(lease: Lease, now_ns: int) -> bool:
    return 0 < lease.expires_ns - now_ns <= MAX_LEASE_S * NS


def _listed(streams: list[str]) -> str:
    more = f" and {len(streams) - _LISTED} more" if len(streams) > _LISTED else ""
    return ", ".join(streams[:_LISTED]) + more
