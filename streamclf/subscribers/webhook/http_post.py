"""Send one POST with a deadline for the whole exchange. Redirects and proxies are not followed."""

from __future__ import annotations

import contextlib
import http.client
import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

from engines.printable import printable
from streamclf import __version__
from streamclf.errors import StreamclfError
from streamclf.net.http_target import MIN_TOKEN_CHARS, Target
from streamclf.net.urls import split_url
from streamclf.redact import MASK, redact
from streamclf.runtime.stop_request import StopRequest

MAX_RETRY_AFTER_S = 3600.0
_TIMEOUT_S = 10.0
_GRACE_S = 1.0
"""When the command must end, an answer that is under way has this much time to arrive."""
_MAX_ANSWER_BYTES = 64 * 1024
_POLL_S = 0.1
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_LOCATION_CHARS = 2048
_MAX_SHOWN_CHARS = 300
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


class UnreachableError(StreamclfError):
    """The receiver gave no valid HTTP answer; another attempt may help."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The HTTP answer of a receiver."""

    status: int
    reason: str
    retry_after_s: float | None = None
    location: str | None = None
    """The place that a redirect names, as it may be shown; None for other answers."""

    def __str__(self) -> str:
        place = "" if self.location is None else f" to {self.location} (not followed)"
        return f"{self.status} {self.reason}{place}"


class Poster:
    """Keep one connection to a target. Not thread-safe."""

    def __init__(self, target: Target, stop: StopRequest, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._target, self._stop, self._timeout_s = target, stop, timeout_s
        if target.scheme == "https":
            context = ssl.create_default_context()
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                target.host, target.port, timeout=timeout_s, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout_s)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send `body` and wait for the answer. Raises `UnreachableError`, also after `timeout_s`."""
        all_headers = {"Content-Type": "application/json", "User-Agent": f"streamclf/{__version__}", **headers}
        if self._target.authorization:
            all_headers["Authorization"] = self._target.authorization
        is_reused = self._connection.sock is not None
        try:
            return self._exchange(body, all_headers)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            if is_reused and isinstance(error, ConnectionError):
                # The receiver may have closed the idle connection. That shows only now, and is no failure.
                return self.post(body, headers)
            raise UnreachableError(_fault(error)) from error

    def _exchange(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        connection = self._connection
        with self._deadline() as expired:
            try:
                connection.request("POST", self._target.path, body, dict(headers))
                response = connection.getresponse()
                content = response.read(_MAX_ANSWER_BYTES)
            except (OSError, http.client.HTTPException):
                if not expired.is_set():
                    raise
        if expired.is_set():  # the library accepts headers that are cut off
            connection.close()
            raise TimeoutError(f"no complete answer within {self._timeout_s:g} s")
        if len(content) == _MAX_ANSWER_BYTES or response.will_close:
            connection.close()
        reason = _UNPRINTABLE.sub(" ", response.reason)[:100]
        location = response.getheader("Location") if response.status in _REDIRECTS else None
        return Answer(
            response.status,
            reason,
            _retry_after_s(response.getheader("Retry-After")),
            None if location is None else shown_location(self._target, location),
        )

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[threading.Event]:
        """Limit the time of the whole exchange. The time-out of a socket starts again with every byte."""
        done, expired = threading.Event(), threading.Event()
        thread = threading.Thread(
            target=self._enforce_deadline, args=(done, expired), name="post-deadline", daemon=True
        )
        thread.start()
        try:
            yield expired
        finally:
            done.set()
            thread.join(_GRACE_S)

    def _enforce_deadline(self, done: threading.Event, expired: threading.Event) -> None:
        end_s = time.monotonic() + self._timeout_s
        while not done.wait(_POLL_S):
            now_s = time.monotonic()
            if self._stop.is_set:
                end_s = min(end_s, now_s + _GRACE_S)
            if now_s >= end_s:
                expired.set()
                if (connected := self._connection.sock) is not None:
                    with contextlib.suppress(OSError):
                        connected.shutdown(socket.SHUT_RDWR)


def shown_location(target: Target, location: str) -> str:
    """Return the URL that a redirect of `target` names, without the parts of it that may be secret."""
    try:
        parts = split_url(urljoin(f"{target}{target.path}", location[:_MAX_LOCATION_CHARS]))
    except ValueError:
        return "an invalid address"
    own = set(target.path.partition("?")[0].split("/"))
    segments = parts.path.split("/")
    path = "/".join(MASK if len(each) >= MIN_TOKEN_CHARS or (each and each in own) else each for each in segments)
    place = parts.netloc.rpartition("@")[2]
    return printable(redact(f"{parts.scheme}://{place}{path}" + ("?…" if parts.query else "")))[:_MAX_SHOWN_CHARS]


def _retry_after_s(text: str | None) -> float | None:
    """Parse a Retry-After header (RFC 9110, 10.2.3), seconds or a date; at most one hour."""
    if text is None:
        return None
    try:
        wait_s = float(text) if text.strip().isdigit() else _seconds_to(parsedate_to_datetime(text))
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, wait_s), MAX_RETRY_AFTER_S) if math.isfinite(wait_s) else None


def _seconds_to(date: datetime) -> float:
    return (date.replace(tzinfo=date.tzinfo or timezone.utc) - datetime.now(timezone.utc)).total_seconds()


def _fault(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _UNPRINTABLE.sub(" ", text)[:200]
