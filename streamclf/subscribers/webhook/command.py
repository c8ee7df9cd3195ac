"""`streamclf webhook`: events as HTTP POSTs, signed, in order, repeated until they are taken."""

from __future__ import annotations

import hashlib
import hmac
import os
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, cast, get_args

import orjson

from streamclf.client.subscription import Kind, subscribe
from streamclf.errors import JournalError, UsageError
from streamclf.events.positions import START, Position
from streamclf.events.types import Heartbeat, JournalledType, Lost, published_json
from streamclf.net.backoff import Backoff
from streamclf.redact import register_secret
from streamclf.runtime.signals import stop_on_signals
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.checkpoint import PositionFile
from streamclf.subscribers.delivery import DeliveryLoop, Item, print_notice
from streamclf.subscribers.webhook.http_post import Answer, Poster, Target, UnreachableError, parse_target

MAX_BATCH: Final = 1000
MAX_DEAD_BYTES: Final = 64 << 20
MIN_SECRET_BYTES: Final = 16
_MAX_SECRET_BYTES = 4096
_NAME = "webhook"
_LINGER_S = 0.25
_TRY_AGAIN: Final = frozenset({408, 425, 429, *range(500, 600)})
_DELIVERED: Final = range(200, 300)


def run_webhook(
    endpoint: str,
    url: str,
    *,
    position: Path,
    secret_file: Path | None = None,
    types: Collection[str] = ("action",),
    streams: Collection[str] | None = None,
    batch: int = 1,
    from_start: bool = False,
    seconds: float | None = None,
) -> int:
    """POST a service's events to `url` until SIGINT or SIGTERM; the exit code.

    One event a request, or with `batch` above 1 up to so many as `{"v": 1, "events": [...]}`. `secret_file` holds the
    key of the signature. What the receiver refuses for good goes to `<position>.dead.jsonl`. The first run begins with
    what happens from now on, or with all that the journal still holds (`from_start`). Raises `UsageError`.
    """
    if not 1 <= batch <= MAX_BATCH:
        raise UsageError(f"batch={batch}: 1 to {MAX_BATCH}")
    kinds: set[Kind] = {"heartbeat", *(checked_type(kind) for kind in types)}
    target = parse_target(url)
    secret = None if secret_file is None else read_secret(secret_file)
    stop = StopRequest(seconds)
    with PositionFile(position, _NAME) as file, stop_on_signals(stop.request):
        poster = Poster(target, stop)
        dead = DeadLetters(position.with_name(position.name + ".dead.jsonl"))
        outlet = Webhook(target, poster, dead, stop, secret=secret, batched=batch > 1)
        after = file.position or (START if from_start else None)
        try:
            with subscribe(endpoint, streams=streams, types=kinds, replay=True, after=after) as events:
                DeliveryLoop(events, outlet, file, max_batch=batch, linger_s=_LINGER_S if batch > 1 else 0.0).run(stop)
        finally:
            poster.close()
            if outlet.refused:
                print_notice(_NAME, f"{outlet.refused} refused for good, kept in {dead.path}")
    return 0


def checked_type(kind: str) -> JournalledType:
    """`kind`, which can be asked for. Raises `UsageError`."""
    for known in get_args(JournalledType):
        if kind == known:
            return cast(JournalledType, known)
    raise UsageError(f"type {kind!r}: one of {', '.join(get_args(JournalledType))}")


def read_secret(path: Path) -> bytes:
    """The key in `path`, without white space at its ends. Raises `UsageError`."""
    try:
        with path.open("rb") as file:
            secret = file.read(_MAX_SECRET_BYTES + 1).strip()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a file with the secret") from error
    if not MIN_SECRET_BYTES <= len(secret) <= _MAX_SECRET_BYTES:
        raise UsageError(
            f"{path}: a secret of {len(secret)} bytes; {MIN_SECRET_BYTES} to {_MAX_SECRET_BYTES}, "
            "like from: openssl rand -hex 32"
        )
    register_secret(secret.decode("utf-8", "replace"))
    return secret


def signature(secret: bytes, timestamp: int, body: bytes) -> str:
    """What the receiver computes, too: HMAC-SHA256 over `TIMESTAMP.BODY`; the time stops a replay (docs/outlets.md)."""
    return "sha256=" + hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class _Letter:
    """One request's content."""

    key: str
    body: bytes


class DeadLetters:
    """One JSON object a line: what the receiver refused, and why. On disk before the position moves on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self, target: Target, letter: _Letter, answer: Answer) -> None:
        """Append. Raises `JournalError` when the disk or the file is full; the event is then delivered again later."""
        line = orjson.dumps(
            {
                "time": datetime.now(timezone.utc),
                "receiver": str(target),
                "status": answer.status,
                "reason": answer.reason,
                "key": letter.key,
                "body": orjson.Fragment(letter.body),
            }
        )
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with open(fd, "ab", buffering=0) as file:  # noqa: PTH123 - a descriptor
                if file.tell() + len(line) > MAX_DEAD_BYTES:
                    raise JournalError(
                        f"{self.path}: holds {MAX_DEAD_BYTES >> 20} MiB of refused events; "
                        "mend the receiver, move this file away, and start this command again"
                    )
                file.write(line + b"\n")
                os.fsync(file.fileno())
        except OSError as error:
            raise JournalError(
                f"{self.path}: {error.strerror}; nothing is lost: free space, and start this command again"
            ) from error


class Webhook:
    """Requests as an outlet."""

    name = _NAME
    outcome = "delivered"

    def __init__(
        self,
        target: Target,
        poster: Poster,
        dead: DeadLetters,
        stop: StopRequest,
        *,
        secret: bytes | None,
        batched: bool,
        rng: random.Random | None = None,
    ) -> None:
        self._target, self._poster, self._dead, self._stop = target, poster, dead, stop
        self._secret, self._batched, self._rng = secret, batched, rng
        self.refused = 0
        """Requests that the receiver refused for good."""

    def deliver(self, batch: Sequence[Item], position: Position | None) -> bool:
        """True once the receiver has taken, or refused for good, every event of `batch`."""
        answer = self._post(self._letter(batch))
        if answer is None:
            return False
        if answer.status in _DELIVERED:
            return True
        if len(batch) > 1:  # one bad event, or too many of them, must not take the good ones along
            return all(self.deliver([item], None) for item in batch)
        self.refused += 1
        print_notice(
            _NAME, f"{self._target}: {answer.status} {answer.reason}: kept in {self._dead.path}, {self.refused} so far"
        )
        self._dead.keep(self._target, self._letter(batch), answer)
        return True

    def update(self, heartbeat: Heartbeat | None, is_silent: bool) -> None:
        """Nothing to keep up."""

    def memory(self) -> dict[str, Any]:
        """The position says it all."""
        return {}

    def _letter(self, batch: Sequence[Item]) -> _Letter:
        keys, bodies = [_key(item) for item in batch], [_body(item) for item in batch]
        if not self._batched:
            return _Letter(keys[0], bodies[0])
        body = orjson.dumps({"v": 1, "events": [orjson.Fragment(body) for body in bodies]})
        return _Letter(keys[0] if len(keys) == 1 else f"{keys[0]}+{keys[-1]}", body)

    def _post(self, letter: _Letter) -> Answer | None:
        """The answer that settles it; None if it is time to end before one came."""
        patience = _Patience(self._rng)
        attempts = 0
        while not self._stop.is_set:
            attempts += 1
            try:
                answer = self._poster.post(letter.body, self._headers(letter))
            except UnreachableError as error:
                fault, wait_s = str(error), None
            else:
                if answer.status not in _TRY_AGAIN:
                    if attempts > 1:
                        print_notice(_NAME, f"{self._target}: answers again, after {attempts} attempts")
                    return answer
                fault, wait_s = f"{answer.status} {answer.reason}", answer.retry_after_s
            wait_s = max(patience.next_s(), wait_s or 0.0)
            if attempts in (1, 10) or attempts % 100 == 0:
                print_notice(
                    _NAME, f"{self._target}: {fault}; attempt {attempts}, again in {wait_s:.1f} s; nothing is lost"
                )
            self._stop.wait(wait_s)
        return None

    def _headers(self, letter: _Letter) -> dict[str, str]:
        timestamp = int(time.time())
        headers = {"Idempotency-Key": letter.key, "X-Streamclf-Timestamp": str(timestamp)}
        if self._secret is not None:
            headers["X-Streamclf-Signature"] = signature(self._secret, timestamp, letter.body)
        return headers


class _Patience(Backoff):
    """Half a second to a minute, doubled each time, with jitter."""

    FIRST_S = 0.5
    FACTOR = 2.0
    LAST_S = 60.0


def _key(item: Item) -> str:
    if isinstance(item, Lost):
        return f"{item.epoch}-lost-{item.first}"
    if item.offset is None:  # published, but not journalled: it comes once, and has nothing else to be told by
        return f"{item.epoch}-{hashlib.sha256(published_json(item)).hexdigest()[:16]}"
    return f"{item.epoch}-{item.offset}"


def _body(item: Item) -> bytes:
    if isinstance(item, Lost):
        body = {"v": 1, "type": "lost", "epoch": item.epoch, "first": item.first, "last": item.last}
        return orjson.dumps(body)
    return published_json(item)
