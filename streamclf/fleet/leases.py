"""Keep the leases of a fleet: which node may publish which stream, until when; pure logic without Ray or a clock.

Times are seconds of one monotonic clock, that of the fleet's head. A node measures its own part with its own clock: it
counts `lease_s`, less a margin, from the moment before it asked for the renewal. The head counts `lease_s` from the
moment at which it got that request. So the node stops publishing before the head can give its streams to another node,
without any agreement of the two clocks, as long as their rates differ by less than the margin.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any, Final

RATE_MARGIN: Final = 0.05
"""A node gives up this part of each lease, so that clocks may run at rates that differ by 5 %."""
_NEVER: Final = float("-inf"), 0.0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one run of a node, its session, to publish one stream. Later grants have larger tokens."""

    token: int
    session: str
    wall_s: float
    """When it was granted, by the clock of the wall, for people."""


@dataclass(slots=True)
class LeaseTable:
    """The leases by stream, and when each session renewed its leases last."""

    lease_s: float
    leases: dict[str, Lease] = field(default_factory=dict)
    last_token: int = 0
    _renewed: dict[str, tuple[float, float]] = field(default_factory=dict)
    """(time, `lease_s` at that time): a shorter `lease_s` holds for a session from its next renewal."""
    _streams: dict[str, set[str]] = field(default_factory=dict)

    def grant(self, stream: str, session: str, *, wall_s: float) -> Lease:
        """Give a stream that has no lease to a session.

        Tokens also follow the wall clock, so that a fleet whose state was lost does not begin with small ones again.
        """
        assert stream not in self.leases, f"{stream} has a lease"
        self.last_token = max(self.last_token + 1, int(wall_s))
        lease = self.leases[stream] = Lease(self.last_token, session, wall_s)
        self._streams.setdefault(session, set()).add(stream)
        return lease

    def renew(self, session: str, now_s: float) -> None:
        """Renew all leases of a session; also the one way by which a session becomes known."""
        self._renewed[session] = now_s, self.lease_s

    def of(self, session: str) -> dict[str, int]:
        """Return the tokens of a session by stream."""
        return {stream: self.leases[stream].token for stream in self._streams.get(session, ())}

    def is_alive(self, session: str, now_s: float) -> bool:
        """Return whether the leases of the session go on, as far as the head can know."""
        renewed_s, lease_s = self._renewed.get(session, _NEVER)
        return now_s - renewed_s <= lease_s

    def age(self, session: str, now_s: float) -> float:
        """Return the seconds since the session renewed its leases."""
        return now_s - self._renewed.get(session, _NEVER)[0]

    def release(self, session: str, kept: Collection[str]) -> set[str]:
        """End the leases of a session that are not in `kept`, which it no longer uses; return their streams."""
        ended = {stream for stream in self._streams.get(session, ()) if stream not in kept}
        for stream in ended:
            del self.leases[stream]
            self._streams[session].discard(stream)
        return ended

    def revoke(self, stream: str) -> None:
        """Take back a lease that its session cannot know yet."""
        self._streams[self.leases.pop(stream).session].discard(stream)

    def end(self, session: str) -> set[str]:
        """Forget a session that cannot publish any more; return the streams that have no lease now."""
        ended = self.release(session, ())
        self._streams.pop(session, None)
        self._renewed.pop(session, None)
        return ended

    def expired(self, now_s: float) -> list[str]:
        """Return the sessions whose leases have ended."""
        return [session for session in self._renewed if not self.is_alive(session, now_s)]

    def as_dict(self) -> dict[str, Any]:
        """Return the part that must survive a restart."""
        return {
            "last_token": self.last_token,
            "lease_s": max([self.lease_s, *(lease_s for _, lease_s in self._renewed.values())]),
            "leases": {stream: astuple(lease) for stream, lease in self.leases.items()},
        }

    @classmethod
    def restored(cls, lease_s: float, stored: Mapping[str, Any], sessions: Collection[str], now_s: float) -> LeaseTable:
        """Return the table of a controller that was restarted.

        Its sessions may have renewed their leases until the very end, so each holds for the longest time, from now.
        """
        table = cls(lease_s=lease_s, last_token=int(stored["last_token"]))
        for stream, (token, session, wall_s) in stored["leases"].items():
            table.leases[stream] = Lease(int(token), str(session), float(wall_s))
            table._streams.setdefault(session, set()).add(stream)
        for session in {*sessions, *table._streams}:
            table._renewed[session] = now_s, max(lease_s, float(stored["lease_s"]))
        return table
