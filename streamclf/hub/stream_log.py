"""Log when streams go live, are lost and are back, from their status events. No clock: the caller gives the time.

The hub is the one process that receives the statuses of all streams, and it continues while capture processes end and
start. So a stream that is lost and back gives two lines, and streams that stay away share one line a minute at most.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from streamclf.events.types import MAX_LISTED_STREAMS
from streamclf.units import duration_text

REMIND_AFTER_S: Final = (60.0, 300.0, 900.0, 3600.0)
"""Ages of an outage at which a line reports it again; after the last one, the line is repeated at that interval."""
REMIND_INTERVAL_S: Final = 60.0
"""Shortest time between two such lines, however many streams are away."""
MAX_LOSSES: Final = 3
LOSS_WINDOW_S: Final = 600.0
"""After more than `MAX_LOSSES` losses within `LOSS_WINDOW_S`, a stream is unstable: its losses are only counted."""
SILENT_S: Final = 30.0
"""A stream whose last status is this old has ended: a capture process sends one every 5 s."""
LISTED_STREAMS: Final = 12
REMOVED: Final = "removed from the configuration"
"""The reason of the last status of a stream that was removed."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Stream:
    """The condition of one stream. Times are monotonic seconds."""

    name: str
    condition: Literal["starting", "live", "frozen", "away", "ended", "paused"] = "starting"
    since_s: float = 0.0
    """When the stream was last live, if it is away; else when its condition began."""
    seen_s: float = 0.0
    """When its last status came."""
    reason: str = ""
    is_reported: bool = True
    """Whether a line reports the present outage."""
    was_live: bool = False
    remind_s: float = 0.0
    losses_s: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_LOSSES + 1))
    unstable_s: float | None = None
    """Since when it is unstable."""
    lost_times: int = 0
    """Its losses since then."""


class StreamLog:
    """Follow the statuses of all streams, and write a line for each change that an operator has to know."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._reminded_s = float("-inf")

    def apply(self, name: str, status: Mapping[str, Any], now_s: float) -> None:
        """Log what the status event of a stream changes."""
        state, reason = status.get("state"), str(status.get("reason") or "")
        if state is None:  # not a valid event; the hub refuses it
            return
        is_new = name not in self._streams
        if is_new and len(self._streams) >= MAX_LISTED_STREAMS:
            return
        stream = self._streams.setdefault(name, _Stream(name, since_s=now_s))
        stream.seen_s = now_s
        if state == "live":
            # A capture process begins with `connecting`. Without that, this hub was started while the stream was live.
            self._set_live(stream, _details(status), now_s, is_known=is_new)
        elif state == "frozen":
            self._set_lost(stream, "frozen", reason, now_s)
        elif state == "stalled":
            if stream.condition in ("live", "frozen"):  # a line follows if it lasts: the stream is then offline
                stream.condition, stream.since_s, stream.is_reported = "away", now_s, False
        elif status.get("finished"):
            stream.condition = "ended"
            _write(logging.INFO, stream, f"ended: {reason}")
        elif status.get("paused"):
            if stream.condition != "paused":
                stream.condition = "paused"
                _write(logging.INFO, stream, reason)
        elif state == "offline" and reason == REMOVED:
            del self._streams[name]
            _write(logging.INFO, stream, reason)
        elif reason:
            self._set_lost(stream, "away", reason, now_s)
        elif stream.condition != "away":  # a new capture process, for the first time or with another configuration
            stream.condition, stream.since_s = "starting", now_s

    def tick(self, now_s: float) -> None:
        """Log the streams that are still away, and those that are stable again. Call it about once a second."""
        for stream in self._streams.values():
            self._check_stability(stream, now_s)
        troubled = [stream for stream in self._streams.values() if _is_troubled(stream, now_s)]
        if not any(stream.remind_s <= now_s for stream in troubled) or now_s - self._reminded_s < REMIND_INTERVAL_S:
            return
        self._reminded_s = now_s
        troubled.sort(key=_trouble_began_s)
        if len(troubled) == 1:
            _write(logging.WARNING, troubled[0], f"still {_describe(troubled[0], now_s)}")
        else:
            log.warning("%d streams still away: %s", len(troubled), _listed(troubled, now_s))
        for stream in troubled:
            stream.remind_s = _next_reminder_s(_trouble_began_s(stream), now_s)

    def _set_live(self, stream: _Stream, details: str, now_s: float, *, is_known: bool) -> None:
        before, away_s = stream.condition, now_s - stream.since_s
        if before == "live":
            return
        was_live, was_reported = stream.was_live, stream.is_reported
        stream.condition, stream.since_s, stream.was_live, stream.is_reported = "live", now_s, True, True
        if is_known or not was_reported or stream.unstable_s is not None:
            return
        if before == "frozen":
            _write(logging.INFO, stream, f"new images again after {duration_text(away_s)}")
        elif before == "away" and was_live:
            _write(logging.INFO, stream, f"live again after {duration_text(away_s)}{details}")
        else:
            _write(logging.INFO, stream, f"live{details}")

    def _set_lost(self, stream: _Stream, condition: Literal["away", "frozen"], reason: str, now_s: float) -> None:
        before, was_reported = stream.condition, stream.is_reported
        stream.condition, stream.reason, stream.is_reported = condition, reason, True
        if before == condition and was_reported:
            return
        if before != "away":
            stream.since_s = now_s
        stream.losses_s.append(now_s)
        if stream.unstable_s is not None:
            stream.lost_times += 1
            return
        stream.remind_s = _next_reminder_s(stream.since_s, now_s)
        word = "frozen" if condition == "frozen" else "lost" if stream.was_live else "not live yet"
        if len(stream.losses_s) > MAX_LOSSES and now_s - stream.losses_s[0] <= LOSS_WINDOW_S:
            stream.unstable_s, stream.lost_times = now_s, len(stream.losses_s)
            word = f"unstable, {len(stream.losses_s)} times within {duration_text(now_s - stream.losses_s[0])} {word}"
            reason += "; further losses are only counted, until it is live for 10 min"
        _write(logging.WARNING, stream, f"{word}: {reason}")

    def _check_stability(self, stream: _Stream, now_s: float) -> None:
        """End the unstable condition of a stream that has been live for long enough."""
        if stream.unstable_s is None or stream.condition != "live" or now_s - stream.since_s < LOSS_WINDOW_S:
            return
        span = duration_text(stream.since_s - stream.unstable_s)
        _write(logging.INFO, stream, f"stable again, live for 10 min; before, it was lost {stream.lost_times} times "
               f"within {span}")  # fmt: skip
        stream.unstable_s = None
        stream.losses_s.clear()


def _is_troubled(stream: _Stream, now_s: float) -> bool:
    is_away = stream.condition in ("away", "frozen") and stream.is_reported
    return (is_away or stream.unstable_s is not None) and now_s - stream.seen_s < SILENT_S


def _trouble_began_s(stream: _Stream) -> float:
    return stream.since_s if stream.unstable_s is None else stream.unstable_s


def _next_reminder_s(since_s: float, now_s: float) -> float:
    """Return when to report an outage again. A line that would follow soon is left out: others may share this one."""
    age_s, before_s = now_s - since_s, 0.0
    for step_s in REMIND_AFTER_S:
        if step_s - age_s > (step_s - before_s) / 2:
            return since_s + step_s
        before_s = step_s
    return since_s + before_s * (int(age_s / before_s + 0.5) + 1)


def _describe(stream: _Stream, now_s: float) -> str:
    if stream.unstable_s is not None:
        span = duration_text(now_s - stream.unstable_s)
        return f"unstable, lost {stream.lost_times} times within {span}, now {stream.condition}: {stream.reason}"
    return f"{stream.condition} after {duration_text(now_s - stream.since_s)}: {stream.reason}"


def _listed(streams: list[_Stream], now_s: float) -> str:
    """List streams with the time that they have been away. The line of each loss has its reason."""
    texts = []
    for stream in streams[:LISTED_STREAMS]:
        note = f"unstable, lost {stream.lost_times} times within " if stream.unstable_s is not None else ""
        texts.append(f"{stream.name} ({note}{duration_text(now_s - _trouble_began_s(stream))})")
    more = f" and {len(streams) - LISTED_STREAMS} more" if len(streams) > LISTED_STREAMS else ""
    return ", ".join(texts) + more


def _details(status: Mapping[str, Any]) -> str:
    counters = status.get("counters")
    counters = counters if isinstance(counters, Mapping) else {}
    size = f"{counters['width']}x{counters['height']}" if counters.get("width") and counters.get("height") else None
    known = [str(part) for part in (status.get("codec"), size, status.get("note")) if part]
    return f" ({', '.join(known)})" if known else ""


def _write(level: int, stream: _Stream, text: str) -> None:
    log.log(level, "%s", text, extra={"stream": stream.name})
