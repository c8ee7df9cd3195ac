"""`streamclf webhook`: send events as signed HTTP POSTs, in order, and repeat each until the receiver accepts it.

The event of a clip also carries the clip's picture, in Base64, or links to the page.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from logging import WARNING
from typing import Any, Final

import orjson

from streamclf.config.outlet_options import WebhookConfig
from streamclf.events.positions import Position
from streamclf.events.types import Action, Clip, Heartbeat, Lost, published_json
from streamclf.net.backoff import Backoff
from streamclf.net.http_target import Target, parse_target
from streamclf.net.secret_files import read_secret
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.clip_pictures import ClipPictures, picture_json
from streamclf.subscribers.delivery import DeliveryLoop, Item
from streamclf.subscribers.first_pictures import FirstPictures
from streamclf.subscribers.outlet_report import OutletReport
from streamclf.subscribers.outlet_run import EventFilter, OutletRun
from streamclf.subscribers.service_clock import ServiceClock
from streamclf.subscribers.webhook.dead_letters import DeadLetters, RequestContent
from streamclf.subscribers.webhook.http_post import Answer, Poster, UnreachableError

MAX_PICTURE_BYTES: Final = 4_000_000
"""The pictures of one request together. Many receivers refuse a larger body."""
_NAME = "webhook"
_LINGER_S = 0.25
_MAX_NOTICES = 10
"""After so many refusals, report only every hundredth; the last message of the command has the number."""
_RETRIED_STATUSES: Final = frozenset({408, 425, 429, *range(500, 600)})
_ACCEPTED_STATUSES: Final = range(200, 300)


def deliver_to_webhook(config: WebhookConfig, run: OutletRun) -> None:
    """Post events until the run ends.

    A request holds one event, or with `batch` above 1 up to `batch` events as `{"v": 1, "events": [...]}`. Events that
    the receiver refuses for good go to `<position>.dead.jsonl`. Raises `UsageError`, and `JournalError` where position
    or refused events cannot be stored.
    """
    target = parse_target(config.url)
    secret = None if config.secret is None else config.secret.encode()
    if config.secret_file is not None:
        secret = read_secret(config.secret_file)
    pictures = ClipPictures(config, run.report)
    with run.open_position(_NAME) as file, closing(Poster(target, run.stop)) as poster, ExitStack() as stack:
        first = stack.enter_context(closing(FirstPictures(run.address))) if pictures.has_first else None
        dead_letters = DeadLetters(file.path.with_name(file.path.name + ".dead.jsonl"))
        outlet = WebhookOutlet(
            target,
            poster,
            dead_letters,
            run.stop,
            secret=secret,
            is_batched=config.batch > 1,
            report=run.report,
            pictures=pictures,
            first_pictures=first,
        )
        after = file.position or run.begin
        with run.subscribe(streams=config.streams, types=config.types, after=after) as events:
            DeliveryLoop(
                events,
                outlet,
                file,
                max_batch=config.batch,
                linger_s=_LINGER_S if config.batch > 1 else 0.0,
                count_refused=lambda: outlet.refused,
                chosen=EventFilter(config.updates, config.min_probability),
                report=run.report,
            ).run(run.stop)


def signature(secret: bytes, timestamp: int, body: bytes) -> str:
    """Sign a request: HMAC-SHA256 over `TIMESTAMP.BODY`. The timestamp prevents a replay (docs/outlets.md)."""
    return "sha256=" + hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


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
        report: OutletReport | None = None,
        pictures: ClipPictures | None = None,
        first_pictures: FirstPictures | None = None,
    ) -> None:
        self._target, self._poster, self._dead_letters, self._stop = target, poster, dead_letters, stop
        self._secret, self._is_batched, self._rng = secret, is_batched, rng
        self._report = report or OutletReport(_NAME)
        self._pictures, self._first_pictures = pictures, first_pictures
        self._clock = ServiceClock()
        self.refused = 0
        """Events that the receiver refused for good. They are kept as dead letters, and do not count as delivered."""
        self._dead = 0

    def deliver(self, batch: Sequence[Item], position: Position | None) -> bool:
        """Return True once the receiver has accepted, or refused for good, every event of `batch`.

        The events of a refused batch are sent again one by one.
        """
        return all(self._deliver_part(part) for part in self._parts(batch))

    def _parts(self, batch: Sequence[Item]) -> Iterator[list[Item]]:
        """Divide a batch so that the pictures of one request do not exceed `MAX_PICTURE_BYTES` together."""
        picture_bytes = self._pictures.bytes_each if self._pictures else 0
        part: list[Item] = []
        part_bytes = 0
        for item in batch:
            own_bytes = picture_bytes if isinstance(item, Clip) or self._gets_first(item) else 0
            if part and part_bytes + own_bytes > MAX_PICTURE_BYTES:
                yield part
                part, part_bytes = [], 0
            part.append(item)
            part_bytes += own_bytes
        if part:
            yield part

    def _deliver_part(self, batch: Sequence[Item]) -> bool:
        content = self._content(batch)
        answer = self._post(content)
        if answer is None:
            return False
        if answer.status in _ACCEPTED_STATUSES:
            return True
        if len(batch) > 1:  # one invalid event, or a batch that is too large, must not discard the valid events
            return all(self._deliver_part([item]) for item in batch)
        self._dead_letters.append(self._target, content, answer)
        self._dead += 1
        self.refused += not isinstance(batch[0], Lost)
        if self._dead <= _MAX_NOTICES or self._dead % 100 == 0:
            self._report.notice(
                f"{self._target}: {answer}: refused, kept in {self._dead_letters.path}, {self._dead} so far",
                WARNING,
            )
        return True

    def update(self, heartbeat: Heartbeat | None, is_silent: bool) -> None:
        """Follow the service's clock: the receiver gets events only."""
        if heartbeat:
            self._clock.update(heartbeat.time)

    def memory(self) -> dict[str, Any]:
        """Return nothing: the next start needs only the position."""
        return {}

    def _content(self, batch: Sequence[Item]) -> RequestContent:
        keys, plain = [_key(item) for item in batch], [_body(item) for item in batch]
        first = self._fetch_first(batch)
        bodies = [self._with_picture(item, body, first) for item, body in zip(batch, plain, strict=True)]
        if not self._is_batched:
            return RequestContent(keys[0], bodies[0], plain[0])
        key = keys[0] if len(keys) == 1 else f"{keys[0]}+{keys[-1]}"
        return RequestContent(key, _batch_body(bodies), _batch_body(plain))

    def _gets_first(self, item: Item) -> bool:
        return self._first_pictures is not None and isinstance(item, Action) and item.phase == "start"

    def _fetch_first(self, batch: Sequence[Item]) -> dict[tuple[str, int], bytes]:
        """Get the pictures of the actions that have just started, by epoch and offset. This may take a second."""
        if self._first_pictures is None:
            return {}
        starts = [(item, self._clock.age_s(item.time)) for item in batch if isinstance(item, Action)]
        return self._first_pictures.fetch(starts, self._stop)

    def _with_picture(self, item: Item, body: bytes, first: Mapping[tuple[str, int], bytes]) -> bytes:
        if self._pictures is None or isinstance(item, Lost):
            return body
        more: dict[str, Any] = {}
        if isinstance(item, Clip):
            more = self._pictures.body(item)
        elif isinstance(item, Action) and (preview := first.get((item.epoch, item.offset or 0))) is not None:
            jpeg = self._pictures.draw_first(item, preview)
            more = {} if jpeg is None else {"picture": picture_json(jpeg)}
        return orjson.dumps({**orjson.loads(body), **more}) if more else body

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
                        self._report.running()
                        self._report.notice(f"{self._target}: answers again, after {attempts} attempts")
                    return answer
                fault, wait_s = str(answer), answer.retry_after_s
            if self._stop.is_requested:
                break
            self._report.waiting(f"{self._target}: {fault}")
            wait_s = max(backoff.next_s(), wait_s or 0.0)
            if attempts in (1, 10) or attempts % 100 == 0:
                notice = f"{fault}; attempt {attempts}, again in {wait_s:.1f} s; nothing is lost"
                self._report.notice(f"{self._target}: {notice}", WARNING)
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


def _batch_body(bodies: Sequence[bytes]) -> bytes:
    return orjson.dumps({"v": 1, "events": [orjson.Fragment(body) for body in bodies]})


def _body(item: Item) -> bytes:
    if isinstance(item, Lost):
        body = {"v": 1, "type": "lost", "epoch": item.epoch, "first": item.first, "last": item.last}
        return orjson.dumps(body)
    return published_json(item)
