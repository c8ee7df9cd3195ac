"""`streamclf webhook`: send events as signed HTTP POSTs, in order, and repeat each until the receiver accepts it."""

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

from streamclf.client.receiver import Kind
from streamclf.client.subscription import subscribe
from streamclf.errors import JournalError, UsageError
from streamclf.events.positions import START, Position
from streamclf.events.types import Heartbeat, JournalledType, Lost, published_json
from streamclf.net.backoff import Backoff
from streamclf.net.trusted_files import check_secrecy, read_key_file
from streamclf.redact import register_secret
from streamclf.runtime.signals import stop_on_signals
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.checkpoint import PositionFile
from streamclf.subscribers.delivery import DeliveryLoop, Item, print_notice
from streamclf.subscribers.webhook.http_post import Answer, Poster, Target, UnreachableError, parse_target

MAX_BATCH: Final = 1000
MAX_DEAD_LETTER_BYTES: Final = 64 << 20
MIN_SECRET_BYTES: Final = 16
_MAX_SECRET_BYTES = 4096
_NAME = "webhook"
_LINGER_S = 0.25
_MAX_NOTICES = 10
"""After so many refusals, report only every hundredth; the last message of the command has the number."""
_RETRIED_STATUSES: Final = frozenset({408, 425, 429, *range(500, 600)})
_ACCEPTED_STATUSES: Final = range(200, 300)


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
    """POST a service's events to `url` until SIGINT or SIGTERM, or for `seconds`; return the exit code.

    A request holds one event, or with `batch` above 1 up to `batch` events as `{"v": 1, "events": [...]}`.
    `secret_file` holds the key of the signature. Events that the receiver refuses for good go to
    `<position>.dead.jsonl`. Without a position file, delivery starts with new events, or, with `from_start`, with the
    oldest event in the journal. Raises `UsageError`, and `JournalError` where position or refused events cannot be
    stored.
    """
    if not 1 <= batch <= MAX_BATCH:
        raise UsageError(f"batch={batch}: 1 to {MAX_BATCH}")
    kinds: set[Kind] = {"heartbeat", *(check_type(kind) for kind in types)}
    target = parse_target(url)
    secret = None if secret_file is None else read_secret(secret_file)
    stop = StopRequest(seconds)
    with PositionFile(position, _NAME) as file, stop_on_signals(stop.request):
        poster = Poster(target, stop)
        dead_letters = DeadLetters(position.with_name(position.name + ".dead.jsonl"))
        outlet = WebhookOutlet(target, poster, dead_letters, stop, secret=secret, is_batched=batch > 1)
        after = file.position or (START if from_start else None)
        linger_s = _LINGER_S if batch > 1 else 0.0
        try:
            with subscribe(endpoint, streams=streams, types=kinds, replay=True, after=after) as events:
                loop = DeliveryLoop(
                    events, outlet, file, max_batch=batch, linger_s=linger_s, count_refused=lambda: outlet.refused
                )
                loop.run(stop)
        finally:
            poster.close()
    return 0


def check_type(kind: str) -> JournalledType:
    """Return `kind` if it is a type of events in the journal. Raises `UsageError`."""
    for known in get_args(JournalledType):
        if kind == known:
            return cast(JournalledType, known)
    raise UsageError(f"type {kind!r}: one of {', '.join(get_args(JournalledType))}")


def read_secret(path: Path) -> bytes:
    """Read the key in `path`, without white space at its ends. Raises `UsageError`, also if others can read it."""
    data, mode = read_key_file(path, max_bytes=_MAX_SECRET_BYTES + 64, remedy="give a file with the secret")
    secret = data.strip()
    if not MIN_SECRET_BYTES <= len(secret) <= _MAX_SECRET_BYTES:
        raise UsageError(
            f"{path}: a secret of {len(secret)} bytes; {MIN_SECRET_BYTES} to {_MAX_SECRET_BYTES}, "
            "for example from: openssl rand -hex 32"
        )
    check_secrecy(path, mode)
    register_secret(secret.decode("utf-8", "replace"))
    return secret


def signature(secret: bytes, timestamp: int, body: bytes) -> str:
    """Sign a request: HMAC-SHA256 over `TIMESTAMP.BODY`. The timestamp prevents a replay (docs/outlets.md)."""
    return "sha256=" + hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class RequestContent:
    """The body of one request, and the key by which a receiver recognises a repetition."""

    key: str
    body: bytes


class DeadLetters:
    """A dead letter queue: the requests that the receiver refused, with the reason, as one JSON object a line.

    A refused request is on disk before the position after it is stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, target: Target, content: RequestContent, answer: Answer) -> None:
        """Append a refused request. Raises `JournalError` if the disk is full or the file holds 64 MiB.

        The next start of the command then sends the request again.
        """
        line = orjson.dumps(
            {
                "time": datetime.now(timezone.utc),
                "receiver": str(target),
                "status": answer.status,
                "reason": answer.reason,
                **({} if answer.location is None else {"location": answer.location}),
                "key": content.key,
                "body": orjson.Fragment(content.body),
            }
        )
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with open(fd, "ab", buffering=0) as file:  # noqa: PTH123 - a descriptor
                if file.tell() + len(line) > MAX_DEAD_LETTER_BYTES:
                    raise JournalError(
                        f"{self.path}: holds {MAX_DEAD_LETTER_BYTES >> 20} MiB of refused events; "
                        "repair the receiver, move this file away, and start this command again"
                    )
                file.write(line + b"\n")
                os.fsync(file.fileno())
        except OSError as error:
            raise JournalError(
                f"{self.path}: {error.strerror}; nothing is lost: free space, and start this command again"
            ) from error


class WebhookOutlet:
    """Send batches of events to a receiver, each as one request."""

    name = _NAME
    outcome = "delivered"

    def __init__(
        self,
        target: Target,
        poster: Poster,
        dead_letters: DeadLetters,
        stop: StopRequest,
        *,
        secret: bytes | None,
        is_batched: bool,
        rng: random.Random | None = None,
    ) -> None:
        self._target, self._poster, self._dead_letters, self._stop = target, poster, dead_letters, stop
        self._secret, self._is_batched, self._rng = secret, is_batched, rng
        self.refused = 0
        """Events that the receiver refused for good. They are kept as dead letters, and do not count as delivered."""
        self._dead = 0

    def deliver(self, batch: Sequence[Item], position: Position | None) -> bool:
        """Return True once the receiver has accepted, or refused for good, every event of `batch`.

        The events of a refused batch are sent again one by one.
        """
        content = self._content(batch)
        answer = self._post(content)
        if answer is None:
            return False
        if answer.status in _ACCEPTED_STATUSES:
            return True
        if len(batch) > 1:  # one invalid event, or a batch that is too large, must not discard the valid events
            return all(self.deliver([item], None) for item in batch)
        self._dead_letters.append(self._target, content, answer)
        self._dead += 1
        self.refused += not isinstance(batch[0], Lost)
        if self._dead <= _MAX_NOTICES or self._dead % 100 == 0:
            print_notice(
                _NAME, f"{self._target}: {answer}: refused, kept in {self._dead_letters.path}, {self._dead} so far"
            )
        return True

    def update(self, heartbeat: Heartbeat | None, is_silent: bool) -> None:
        """Do nothing: the receiver gets events only."""

    def memory(self) -> dict[str, Any]:
        """Return nothing: the next start needs only the position."""
        return {}

    def _content(self, batch: Sequence[Item]) -> RequestContent:
        keys, bodies = [_key(item) for item in batch], [_body(item) for item in batch]
        if not self._is_batched:
            return RequestContent(keys[0], bodies[0])
        body = orjson.dumps({"v": 1, "events": [orjson.Fragment(body) for body in bodies]})
        return RequestContent(keys[0] if len(keys) == 1 else f"{keys[0]}+{keys[-1]}", body)

    def _post(self, content: RequestContent) -> Answer | None:
        """Repeat the request until the receiver accepts or refuses it. Return None if `stop` is set before that."""
        backoff = WebhookBackoff(self._rng)
        attempts = 0
        while not self._stop.is_set:
            attempts += 1
            try:
                answer = self._poster.post(content.body, self._headers(content))
            except UnreachableError as error:
                fault, wait_s = str(error), None
            else:
                if answer.status not in _RETRIED_STATUSES:
                    if attempts > 1:
                        print_notice(_NAME, f"{self._target}: answers again, after {attempts} attempts")
                    return answer
                fault, wait_s = str(answer), answer.retry_after_s
            wait_s = max(backoff.next_s(), wait_s or 0.0)
            if attempts in (1, 10) or attempts % 100 == 0:
                notice = f"{fault}; attempt {attempts}, again in {wait_s:.1f} s; nothing is lost"
                print_notice(_NAME, f"{self._target}: {notice}")
            self._stop.wait(wait_s)
        return None

    def _headers(self, content: RequestContent) -> dict[str, str]:
        timestamp = int(time.time())
        headers = {"Idempotency-Key": content.key, "X-Streamclf-Timestamp": str(timestamp)}
        if self._secret is not None:
            headers["X-Streamclf-Signature"] = signature(self._secret, timestamp, content.body)
        return headers


class WebhookBackoff(Backoff):
    """Wait half a second before the first repetition, then twice as long each time up to a minute, with jitter."""

    FIRST_S = 0.5
    FACTOR = 2.0
    LAST_S = 60.0


def _key(item: Item) -> str:
    if isinstance(item, Lost):
        return f"{item.epoch}-lost-{item.first}"
    if item.offset is None:  # published but not in the journal: it arrives once and has no offset, so hash its content
        return f"{item.epoch}-{hashlib.sha256(published_json(item)).hexdigest()[:16]}"
    return f"{item.epoch}-{item.offset}"


def _body(item: Item) -> bytes:
    if isinstance(item, Lost):
        body = {"v": 1, "type": "lost", "epoch": item.epoch, "first": item.first, "last": item.last}
        return orjson.dumps(body)
    return published_json(item)
