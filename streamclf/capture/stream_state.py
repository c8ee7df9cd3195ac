"""How a stream is: its states and counters, freshness by media time. No I/O, no clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from streamclf.events.types import State
from streamclf.windows.sampling import NS

STALLED_NS = NS
"""Without a picture for this long a live stream is stalled, or three of its frame intervals if it is slow."""
OFFLINE_NS = 3 * NS
STATUS_NS = 5 * NS
"""Counters are told this often even if nothing changes."""
RATE_NS = 9 * NS // 10
"""The rate is that of the pictures since a moment at least so long ago."""

TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        ("connecting", "live"),
        ("connecting", "frozen"),  # a hung camera is still hung after a new connection
        ("connecting", "offline"),
        ("live", "frozen"),  # pictures come, but no new ones
        ("frozen", "live"),
        ("frozen", "stalled"),
        ("frozen", "connecting"),
        ("frozen", "offline"),
        ("live", "stalled"),  # connected, but no picture comes
        ("live", "connecting"),  # the connection is gone
        ("live", "offline"),  # the end of a file
        ("stalled", "live"),
        ("stalled", "frozen"),
        ("stalled", "connecting"),
        ("stalled", "offline"),
        ("offline", "live"),  # attempts go on while it is offline
        ("offline", "frozen"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is to be said now: the body of a status event."""

    state: State
    reason: str | None
    codec: str | None
    note: str | None
    finished: bool
    counters: dict[str, int | float]

    @property
    def body(self) -> dict[str, Any]:
        """As a status event carries it."""
        body: dict[str, Any] = {
            "state": self.state,
            "reason": self.reason,
            "codec": self.codec,
            "counters": self.counters,
        }
        if self.note is not None:
            body["note"] = self.note
        if self.finished:
            body["finished"] = True
        return body


class Health:
    """The state of one stream. Times are CLOCK_MONOTONIC; each method gives a `Report` if there is one to make."""

    def __init__(self, now_ns: int) -> None:
        self.state: State = "connecting"
        self.counters: Counter[str] = Counter()
        self.codec: str | None = None
        self.note: str | None = None
        self.clocks: tuple[int, int] | None = None
        """(Unix time by the camera's own clock, media time) of the last picture, in nanoseconds, where it said."""
        self._reason: str | None = None
        self._since_ns = self._reported_ns = self._rated_ns = now_ns
        self._rated_frames = 0
        self._fps = 0.0
        self._interval_ns = 0
        self._has_frame = False
        self._ended = self._finished = False
        self._still_s: float | None = None

    def begin(self, now_ns: int) -> Report:
        """The first attempt to connect."""
        return self._report(now_ns)

    def frame(self, now_ns: int) -> Report | None:
        """A fresh picture is there."""
        self.counters["frames"] += 1
        if self._has_frame and self.state in ("live", "frozen"):
            self._interval_ns = (7 * self._interval_ns + now_ns - self._since_ns) // 8
        self._since_ns = now_ns
        self._has_frame = True
        if self._still_s is None and self.state == "live":
            return None
        if self._still_s is not None:
            return self._change("frozen", f"no new picture for {self._still_s:.0f} s, though pictures arrive", now_ns)
        return self._change("live", None, now_ns)

    def still(self, seconds: float | None, now_ns: int) -> Report | None:
        """For too many `seconds` the pictures have been old ones; None: they have not."""
        self._still_s = seconds
        if seconds is None and self.state == "frozen":
            return self._change("live", None, now_ns)
        return None  # the next frame will tell

    def fault(self, reason: str, now_ns: int) -> Report | None:
        """The connection could not be made, or is lost; another attempt will follow."""
        self._has_frame = False
        if self.state in ("connecting", "offline"):
            told, self._reason = self._reason == reason, reason
            return None if told else self._report(now_ns)
        return self._change("connecting", reason, now_ns)

    def end(self, reason: str, now_ns: int, *, finished: bool = False) -> Report | None:
        """Nothing more will come, ever; `finished`: because all has been shown."""
        self._ended, self._finished = True, finished
        return self._change("offline", reason, now_ns) or self._report(now_ns)

    def tick(self, now_ns: int, *, watched: bool = True) -> Report | None:
        """Time goes by: stalled or offline, if pictures are `watched` for, or the counters' turn."""
        if now_ns - self._rated_ns >= RATE_NS:
            self._fps = (self.counters["frames"] - self._rated_frames) * NS / (now_ns - self._rated_ns)
            self._rated_ns, self._rated_frames = now_ns, self.counters["frames"]
        if self._ended:
            return None
        silent_ns = now_ns - self._since_ns
        stalled_ns, offline_ns = self._patience_ns
        if watched and self.state != "offline" and silent_ns > offline_ns:
            reason = self._reason if self.state == "connecting" else None
            return self._change("offline", reason or f"no picture for {silent_ns / NS:.1f} s", now_ns)
        if watched and self.state in ("live", "frozen") and silent_ns > stalled_ns:
            return self._change("stalled", f"no picture for {silent_ns / NS:.1f} s", now_ns)
        return self._report(now_ns) if now_ns - self._reported_ns >= STATUS_NS else None

    def due_ns(self, *, watched: bool = True) -> int:
        """When `tick` may next have something to say, or to measure, if no picture comes until then."""
        due_ns = min(self._rated_ns + RATE_NS, self._reported_ns + STATUS_NS)
        if watched and not self._ended and self.state != "offline":
            stalled_ns, offline_ns = self._patience_ns
            silence_ns = stalled_ns if self.state in ("live", "frozen") else offline_ns
            due_ns = min(due_ns, self._since_ns + silence_ns + 1)
        return due_ns

    @property
    def _patience_ns(self) -> tuple[int, int]:
        """Longer silence than the first is a stall; than the second, an outage."""
        stalled_ns = max(STALLED_NS, 3 * self._interval_ns)
        return stalled_ns, max(OFFLINE_NS, stalled_ns + 2 * NS)

    def _change(self, state: State, reason: str | None, now_ns: int) -> Report | None:
        if state == self.state:
            return None
        if (self.state, state) not in TRANSITIONS:
            raise AssertionError(f"{self.state} -> {state} is no legal transition")
        self.state, self._reason = state, reason
        return self._report(now_ns)

    def _report(self, now_ns: int) -> Report:
        self._reported_ns = now_ns
        counters: dict[str, int | float] = {**self.counters, "fps": round(self._fps, 2)}
        if self.clocks is not None:
            # What to add to a window's media time to have Unix time.
            wall_ns, media_ns = self.clocks
            counters["wall_offset_s"] = round((wall_ns - media_ns) / NS, 6)
        return Report(
            state=self.state,
            reason=self._reason,
            codec=self.codec,
            note=self.note,
            finished=self._finished,
            counters=counters,
        )
