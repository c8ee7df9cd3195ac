"""Derive a stream's state from its frames, faults and silence, and keep its counters. No I/O, no clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from streamclf.events.kinds import State
from streamclf.sources.decoding import Decoding
from streamclf.units import NS

STALLED_NS = NS
"""A live stream is stalled after this long without a frame; a slow one, after three of its frame intervals."""
OFFLINE_NS = 3 * NS
STATUS_NS = 5 * NS
"""Counters are reported at least this often, even if nothing changes."""
RATE_NS = 9 * NS // 10
"""The frame rate is measured over at least this long."""

TRANSITIONS: frozenset[tuple[State, State]] = frozenset(
    {
        ("connecting", "live"),
        ("connecting", "frozen"),  # a hung camera is still hung after a new connection
        ("connecting", "offline"),
        ("live", "frozen"),  # frames arrive, but no new ones
        ("frozen", "live"),
        ("frozen", "stalled"),
        ("frozen", "connecting"),
        ("frozen", "offline"),
        ("live", "stalled"),  # connected, but no frame arrives
        ("live", "connecting"),  # the connection is lost
        ("live", "offline"),  # the end of a file
        ("stalled", "live"),
        ("stalled", "frozen"),
        ("stalled", "connecting"),
        ("stalled", "offline"),
        ("offline", "live"),  # attempts to connect continue while the stream is offline
        ("offline", "frozen"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """The content of a status event that is due."""

    state: State
    reason: str | None
    codec: str | None
    note: str | None
    decode: Decoding | None
    finished: bool
    counters: dict[str, int | float]

    @property
    def body(self) -> dict[str, Any]:
        """The body of the status event."""
        body: dict[str, Any] = {
            "state": self.state,
            "reason": self.reason,
            "codec": self.codec,
            "counters": self.counters,
        }
        if self.note is not None:
            body["note"] = self.note
        if self.decode is not None:
            body["decode"] = self.decode
        if self.finished:
            body["finished"] = True
        return body


class StreamStateMachine:
    """The state of one stream. Times are CLOCK_MONOTONIC. Each method returns a `StatusReport` if one is due."""

    def __init__(self, now_ns: int) -> None:
        self.state: State = "connecting"
        self.counters: Counter[str] = Counter()
        self.codec: str | None = None
        self.note: str | None = None
        self.decode: Decoding | None = None
        self.clocks: tuple[int, int] | None = None
        """(Unix time by the camera's own clock, media time) of the latest frame, in ns, if the camera sends it."""
        self._reason: str | None = None
        self._since_ns = self._reported_ns = self._rated_ns = now_ns
        self._rated_frames = 0
        self._fps = 0.0
        self._interval_ns = 0
        self._has_frame = False
        self._ended = self._finished = False
        self._frozen_s: float | None = None

    def start(self, now_ns: int) -> StatusReport:
        """Report the first attempt to connect."""
        return self._report(now_ns)

    def on_frame(self, now_ns: int) -> StatusReport | None:
        """Count a fresh frame."""
        self.counters["frames"] += 1
        if self._has_frame and self.state in ("live", "frozen"):
            self._interval_ns = (7 * self._interval_ns + now_ns - self._since_ns) // 8
        self._since_ns = now_ns
        self._has_frame = True
        if self._frozen_s is None and self.state == "live":
            return None
        if self._frozen_s is not None:
            return self._change("frozen", f"no new image for {self._frozen_s:.0f} s, though frames arrive", now_ns)
        return self._change("live", None, now_ns)

    def set_info(
        self, codec: str, note: str | None, now_ns: int, decode: Decoding | None = None
    ) -> StatusReport | None:
        """Record the source's codec, note and decoding. A change of the last two is reported at once."""
        is_new = (note, decode) != (self.note, self.decode)
        self.codec, self.note, self.decode = codec, note, decode
        return self._report(now_ns) if is_new else None

    def set_frozen(self, seconds: float | None, now_ns: int) -> StatusReport | None:
        """Record that the frames have repeated for too many `seconds`; None records that new images arrive."""
        self._frozen_s = seconds
        if seconds is None and self.state == "frozen":
            return self._change("live", None, now_ns)
        return None  # the next frame changes the state

    def on_fault(self, reason: str, now_ns: int) -> StatusReport | None:
        """Record that a connection failed or was lost; another attempt follows."""
        self._has_frame = False
        if self.state in ("connecting", "offline"):
            was_reported, self._reason = self._reason == reason, reason
            return None if was_reported else self._report(now_ns)
        return self._change("connecting", reason, now_ns)

    def on_end(self, reason: str, now_ns: int, *, finished: bool = False) -> StatusReport | None:
        """Record the final end of the stream. `finished`: it was read to its end."""
        self._ended, self._finished = True, finished
        return self._change("offline", reason, now_ns) or self._report(now_ns)

    def tick(self, now_ns: int, *, silence_is_stall: bool = True) -> StatusReport | None:
        """Check the clock for counters that are due and, if `silence_is_stall`, for a stall or an outage."""
        if now_ns - self._rated_ns >= RATE_NS:
            self._fps = (self.counters["frames"] - self._rated_frames) * NS / (now_ns - self._rated_ns)
            self._rated_ns, self._rated_frames = now_ns, self.counters["frames"]
        if self._ended:
            return None
        silent_ns = now_ns - self._since_ns
        stalled_ns, offline_ns = self._silence_limits_ns
        if silence_is_stall and self.state != "offline" and silent_ns > offline_ns:
            reason = self._reason if self.state == "connecting" else None
            return self._change("offline", reason or f"no frame for {silent_ns / NS:.1f} s", now_ns)
        if silence_is_stall and self.state in ("live", "frozen") and silent_ns > stalled_ns:
            return self._change("stalled", f"no frame for {silent_ns / NS:.1f} s", now_ns)
        return self._report(now_ns) if now_ns - self._reported_ns >= STATUS_NS else None

    def next_tick_ns(self, *, silence_is_stall: bool = True) -> int:
        """Return when `tick` may next have something to report or measure, if no frame comes before."""
        due_ns = min(self._rated_ns + RATE_NS, self._reported_ns + STATUS_NS)
        if silence_is_stall and not self._ended and self.state != "offline":
            stalled_ns, offline_ns = self._silence_limits_ns
            limit_ns = stalled_ns if self.state in ("live", "frozen") else offline_ns
            due_ns = min(due_ns, self._since_ns + limit_ns + 1)
        return due_ns

    @property
    def _silence_limits_ns(self) -> tuple[int, int]:
        """(silence after which the stream is stalled, silence after which it is offline)."""
        stalled_ns = max(STALLED_NS, 3 * self._interval_ns)
        return stalled_ns, max(OFFLINE_NS, stalled_ns + 2 * NS)

    def _change(self, state: State, reason: str | None, now_ns: int) -> StatusReport | None:
        if state == self.state:
            return None
        if (self.state, state) not in TRANSITIONS:
            raise AssertionError(f"{self.state} -> {state} is not a legal transition")
        self.state, self._reason = state, reason
        return self._report(now_ns)

    def _report(self, now_ns: int) -> StatusReport:
        self._reported_ns = now_ns
        counters: dict[str, int | float] = {**self.counters, "fps": round(self._fps, 2)}
        if self.clocks is not None:
            # Unix time = a window's media time + this offset.
            wall_ns, media_ns = self.clocks
            counters["wall_offset_s"] = round((wall_ns - media_ns) / NS, 6)
        return StatusReport(
            state=self.state,
            reason=self._reason,
            codec=self.codec,
            note=self.note,
            decode=self.decode,
            finished=self._finished,
            counters=counters,
        )
