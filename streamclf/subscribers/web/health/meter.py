"""Measure each stream from its events: frames per second, predictions per second and latencies."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from streamclf.events.types import MAX_LISTED_STREAMS, Prediction, Received, Status

WINDOW_S: Final = 60.0
"""Rates and latencies are those of the last minute."""
_MAX_PREDICTIONS: Final = 2000
_MAX_STATUSES: Final = 32


@dataclass(slots=True)
class _Samples:
    predictions: deque[tuple[float, float | None]] = field(default_factory=lambda: deque(maxlen=_MAX_PREDICTIONS))
    """(monotonic time of arrival, latency in ms) of the latest predictions."""
    frames: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MAX_STATUSES))
    """(wall-clock time of the status in s, frames so far) since the stream's process started. The clock is that of the
    service, which may differ from this machine's."""
    framed_s: float = 0.0
    """Monotonic time of arrival of the latest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRates:
    """The rates of one stream over the last minute; None where there was nothing to measure."""

    fps: float | None
    predictions_per_s: float
    latency_p50_ms: float | None
    latency_p99_ms: float | None


class StreamMeter:
    """Collect the numbers. One thread calls `notice`, any thread may read."""

    def __init__(self) -> None:
        self._streams: dict[str, _Samples] = {}
        self._lock = threading.Lock()
        self._began_s = time.monotonic()

    def notice(self, event: Received) -> None:
        """Add an event that has just arrived."""
        if not isinstance(event, Prediction | Status):
            return
        now_s = time.monotonic()
        with self._lock:
            if event.stream not in self._streams and len(self._streams) >= MAX_LISTED_STREAMS:
                return
            stream = self._streams.setdefault(event.stream, _Samples())
            if isinstance(event, Prediction):
                stream.predictions.append((now_s, event.latency_ms.capture_to_publish))
            elif (frames := event.counters.get("frames")) is not None:
                at_s = event.time.timestamp()
                if stream.frames and (frames < stream.frames[-1][1] or at_s < stream.frames[-1][0]):
                    stream.frames.clear()  # its process has started again
                stream.frames.append((at_s, float(frames)))
                stream.framed_s = now_s

    def rates(self, name: str) -> StreamRates:
        """Return the rates of a stream."""
        now_s = time.monotonic()
        with self._lock:
            stream = self._streams.get(name) or _Samples()
            recent = [(at_s, ms) for at_s, ms in stream.predictions if now_s - at_s <= WINDOW_S]
            frames = list(stream.frames) if now_s - stream.framed_s <= WINDOW_S else []
        latencies = sorted(ms for _, ms in recent if ms is not None)
        elapsed_s = max(1.0, min(WINDOW_S, now_s - self._began_s))
        if len(recent) == _MAX_PREDICTIONS:
            elapsed_s = max(0.001, now_s - recent[0][0])
        return StreamRates(
            fps=frames_per_s(frames),
            predictions_per_s=len(recent) / elapsed_s,
            latency_p50_ms=percentile(latencies, 0.5),
            latency_p99_ms=percentile(latencies, 0.99),
        )


def frames_per_s(frames: Sequence[tuple[float, float]]) -> float | None:
    """Return the frames per second between the oldest status of the last minute and the newest; None for fewer."""
    if not frames:
        return None
    newest_s, newest = frames[-1]
    oldest_s, oldest = next(each for each in frames if newest_s - each[0] <= WINDOW_S)
    return (newest - oldest) / (newest_s - oldest_s) if newest_s - oldest_s >= 1.0 else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest of the sorted `values` that at least `share` of them do not exceed; None without values."""
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else None
