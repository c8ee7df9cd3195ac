"""Record published events and their arrival times, for tests that wait for an event with a deadline."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import zmq

POLL_MS = 50
CALL_S = 30.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One event, and the monotonic time of its arrival."""

    at_s: float
    event: dict[str, Any]
    raw: bytes

    @property
    def window(self) -> tuple[int, float, float]:
        """The (segment, start, end) of a prediction's window."""
        window = self.event["window"]
        return window["segment"], window["start_s"], window["end_s"]

    def probability(self, label: str) -> float:
        """Return the probability of `label` in a prediction."""
        return float(dict(self.event["top"])[label])


class Watcher:
    """Subscribe to everything with plain ZeroMQ, and record the events in the order of their arrival."""

    def __init__(self, endpoint: str) -> None:
        self.seen: list[Seen] = []
        self._endpoint = endpoint
        self._changed = threading.Condition()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(CALL_S)

    def wait(
        self,
        what: str,
        stream: str | None,
        *,
        since: float,
        within: float,
        where: Callable[[Seen], bool] = lambda _: True,
    ) -> Seen:
        """Wait for the first `what` (prediction, status) of `stream` that arrived since `since` and satisfies `where`.

        A heartbeat has no stream. Fail unless it arrives `within` that many seconds after `since`. Return it.
        """
        deadline = since + within
        checked = 0
        with self._changed:
            while True:
                for seen in self.seen[checked:]:
                    if self._matches(seen, what, stream, since) and where(seen):
                        assert seen.at_s <= deadline, f"after {seen.at_s - since:.2f} s, allowed {within}: {seen.event}"
                        return seen
                checked = len(self.seen)
                if not self._changed.wait(max(0.0, deadline + 0.5 - time.monotonic())):
                    raise AssertionError(
                        f"no such {what} of {stream} within {within} s of:\n{self._describe(stream, since)}"
                    )

    def state(self, stream: str, *states: str, since: float, within: float, reason: str = "") -> Seen:
        """Wait for a status with one of `states` whose reason contains `reason`."""

        def matches(seen: Seen) -> bool:
            return seen.event["state"] in states and reason in (seen.event["reason"] or "")

        return self.wait("status", stream, since=since, within=within, where=matches)

    def events(self, what: str, stream: str, *, since: float = 0.0, until: float = float("inf")) -> list[Seen]:
        """Return the events that arrived between `since` and `until`."""
        with self._changed:
            return [seen for seen in self.seen if self._matches(seen, what, stream, since) and seen.at_s <= until]

    def _run(self) -> None:
        with zmq.Context.instance().socket(zmq.SUB) as socket:
            socket.linger = 0
            socket.rcvhwm = 0
            for topic in (b"prediction/", b"status/", b"action/", b"heartbeat/"):
                socket.subscribe(topic)
            socket.connect(self._endpoint)
            while not self._done.is_set():
                if socket.poll(POLL_MS):
                    _, raw = socket.recv_multipart()
                    at_s = time.monotonic()
                    with self._changed:
                        self.seen.append(Seen(at_s, json.loads(raw), raw))
                        self._changed.notify_all()

    @staticmethod
    def _matches(seen: Seen, what: str, stream: str | None, since: float) -> bool:
        return seen.at_s >= since and seen.event["type"] == what and seen.event.get("stream") == stream

    def _describe(self, stream: str | None, since: float) -> str:
        events = [seen for seen in self.seen if seen.event.get("stream") == stream and seen.at_s >= since - 5]
        return "\n".join(f"{seen.at_s - since:+7.2f} {seen.raw.decode()[:400]}" for seen in events[-25:])
