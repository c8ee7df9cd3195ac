"""Hold the requests to save examples, between the thread that answers clients and the loop that talks to captures."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from streamclf.errors import EventError
from streamclf.events.example_request import ExampleRequest, ExampleResult, parse_example_result

MAX_PENDING: Final = 64
"""Requests that wait for a result at the same time."""
MAX_PER_MINUTE: Final = 240
MAX_RESULTS: Final = 512
RESULT_S: Final = 120.0
"""A result is kept for this long, until its client has asked for it."""
ANSWER_S: Final = 30.0
"""A capture process that has not answered after this time is taken to have ended."""


@dataclass(slots=True)
class _Request:
    stream: str
    payload: bytes
    added_s: float
    result: ExampleResult | None = None


@dataclass(slots=True)
class ExampleRequests:
    """Requests by id. All methods may be called in any thread; none waits."""

    enabled: bool = False
    """Whether the configuration has the section `examples`."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _requests: OrderedDict[str, _Request] = field(default_factory=OrderedDict)
    _unsent: deque[str] = field(default_factory=deque)
    _recent_s: deque[float] = field(default_factory=deque)
    _pipe: tuple[int, int] = field(default_factory=os.pipe)

    def __post_init__(self) -> None:
        for end in self._pipe:
            os.set_blocking(end, False)

    @property
    def wake_fd(self) -> int:
        """Descriptor that is readable while requests wait to be sent."""
        return self._pipe[0]

    def close(self) -> None:
        """Close the descriptors."""
        for end in self._pipe:
            os.close(end)

    def submit(self, request: ExampleRequest) -> str:
        """Add a request; return its id. Raises `EventError` where none is accepted now."""
        now_s = time.monotonic()
        with self._lock:
            if not self.enabled:
                raise EventError("the service saves no examples; add the section examples to its configuration")
            self._expire(now_s)
            while self._recent_s and now_s - self._recent_s[0] > 60:
                self._recent_s.popleft()
            if len(self._recent_s) >= MAX_PER_MINUTE:
                raise EventError(f"more than {MAX_PER_MINUTE} requests within a minute; try again later")
            if sum(each.result is None for each in self._requests.values()) >= MAX_PENDING:
                raise EventError(f"{MAX_PENDING} examples wait to be saved already; try again later")
            self._recent_s.append(now_s)
            request_id = secrets.token_hex(12)
            payload = request.model_dump_json(exclude_defaults=True).encode()
            self._requests[request_id] = _Request(request.stream, payload, now_s)
            while len(self._requests) > MAX_RESULTS:
                self._requests.popitem(last=False)
            self._unsent.append(request_id)
            if len(self._unsent) == 1:
                os.write(self._pipe[1], b"x")
        return request_id

    def pop_unsent(self) -> list[tuple[str, str, bytes]]:
        """Return (id, stream, request) of each request that has not been sent to a capture process."""
        with self._lock:
            if self._unsent:
                os.read(self._pipe[0], 1)
            found = [(each, self._requests[each]) for each in self._unsent if each in self._requests]
            self._unsent.clear()
            return [(request_id, each.stream, each.payload) for request_id, each in found]

    def complete(self, request_id: str, result: ExampleResult) -> None:
        """Store the result of a request; an unknown id, or a second result, is ignored."""
        with self._lock:
            request = self._requests.get(request_id)
            if request is not None and request.result is None:
                request.result = result

    def complete_with(self, request_id: str, payload: bytes) -> None:
        """Store the result that a capture process has sent. Raises `EventError`."""
        self.complete(request_id, parse_example_result(payload))

    def result(self, request_id: str) -> ExampleResult | None:
        """Return the result of a request; None while it is being saved. Raises `EventError` for an unknown id."""
        with self._lock:
            self._expire(time.monotonic())
            request = self._requests.get(request_id)
            if request is None:
                raise EventError("no such request; the hub was restarted, or the result has expired")
            return request.result

    def _expire(self, now_s: float) -> None:
        for request_id, each in list(self._requests.items()):
            age_s = now_s - each.added_s
            if age_s > RESULT_S:
                del self._requests[request_id]
            elif each.result is None and age_s > ANSWER_S:
                each.result = ExampleResult(error=f"{each.stream}: its process has not answered; it may have ended")
