"""Send a process's events to the hub, and hold each one until the hub has journalled it."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import orjson
import zmq

from streamclf.errors import BusError, EventError
from streamclf.events.drafts import Draft
from streamclf.events.kinds import MAX_PREVIEW_BYTES
from streamclf.net.names import valid_stream_name
from streamclf.producer.connection import RETRY_SEND_S, ProducerConnection
from streamclf.producer.link_protocol import MAX_DRAFT_BYTES, MAX_NAME_BYTES, U64

log = logging.getLogger(__name__)

_MAX_BATCH_DRAFTS: Final = 128
_MAX_BATCH_BYTES: Final = 256 * 1024
_MAX_IN_FLIGHT: Final = 1024
"""Drafts sent and not confirmed: enough for a slow disk's commit, few enough to resend."""
_MAX_SAVED: Final = 64
"""Results of requests to save an example that wait to be sent."""
_WANTED_VALID_S: Final = 5.0
"""The hub's list of wanted previews expires after this long without a hello's answer."""


@dataclass(frozen=True, slots=True)
class _PendingDraft:
    stream: str
    encoded: bytes


class EventProducer:
    """Hold drafts until the hub acknowledges them; a thread sends them, and sends them again after a hub's restart.

    `post` and the preview methods are thread-safe and never block. At most `max_drafts` (and `max_bytes`) are held.
    Beyond that the producer drops the oldest prediction, counts it in `dropped` and reports it to the hub, which puts
    the count into statuses and heartbeats.
    """

    def __init__(
        self,
        endpoint: str,
        producer: str,
        *,
        max_drafts: int = 8192,
        max_bytes: int = 16 << 20,
        on_action: Callable[[int, bytes], None] | None = None,
        on_save: Callable[[str, bytes], None] | None = None,
    ) -> None:
        """Connect to the hub at `endpoint`.

        The thread calls `on_action`, which must not block, with each committed event of an action of the stream that
        this process captures: the offset of the action's start (0: unknown), and the event's JSON. It calls `on_save`
        with the id and the JSON of each request to save an example of this stream; `post_saved` answers it.
        """
        if not 1 <= len(producer.encode()) <= MAX_NAME_BYTES:
            raise BusError(f"producer name of {len(producer.encode())} bytes: must be 1 to {MAX_NAME_BYTES}")
        self._endpoint, self._name = endpoint, producer.encode()
        self._on_action, self._on_save = on_action, on_save
        self._max_drafts, self._max_bytes = max_drafts, max_bytes
        self._instance = uuid.uuid4().bytes
        self._lock = threading.Lock()
        # The lock guards everything from here to the next blank line.
        self._seq = 0
        self._pending: OrderedDict[int, _PendingDraft] = OrderedDict()
        self._pending_bytes = 0
        self._predictions: deque[int] = deque()
        self._unsent: deque[int] = deque()
        self._dropped: dict[str, int] = {}
        self._previews: dict[str, bytes] = {}
        self._previews_dropped = 0
        self._saved: deque[tuple[str, bytes]] = deque(maxlen=_MAX_SAVED)
        self._close_by: float | None = None
        self._wake_sent = False
        """Whether a wake byte is on its way to the thread; the thread clears this without the lock."""

        self._wanted: frozenset[str] = frozenset()
        self._wanted_until = 0.0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        try:
            connection = ProducerConnection(endpoint, self._instance, self._name)
        except BusError:
            os.close(self._wake_read)
            os.close(self._wake_write)
            raise
        self._thread = threading.Thread(target=self._run, args=(connection,), name=f"link-{producer}", daemon=True)
        self._thread.start()

    def __enter__(self) -> EventProducer:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close(1.0)

    def post(self, draft: Draft) -> None:
        """Queue `draft` for the hub. Raises `EventError` if it is too large or not JSON; never blocks."""
        self.post_all((draft,))

    def post_all(self, drafts: Iterable[Draft]) -> None:
        """Queue `drafts`, and wake the thread once, so that it sends them together.

        Raises `EventError` for the first one that is too large or not JSON; those before it are queued.
        """
        with self._lock:
            try:
                for draft in drafts:
                    self._queue(draft)
            finally:
                self._wake()

    def _queue(self, draft: Draft) -> None:
        seq = self._seq + 1
        encoded = _encode(seq, draft)
        self._seq = seq
        self._pending[seq] = _PendingDraft(draft.stream, encoded)
        self._pending_bytes += len(encoded)
        self._unsent.append(seq)
        if draft.type == "prediction":
            self._predictions.append(seq)
        while len(self._pending) > self._max_drafts or self._pending_bytes > self._max_bytes:
            self._drop_oldest()

    def preview_wanted(self, stream: str) -> bool:
        """Return whether somebody subscribes to `preview/STREAM/` now."""
        return bool(self._wanted & {stream, "*"}) and time.monotonic() < self._wanted_until

    def post_preview(self, stream: str, jpeg: bytes) -> None:
        """Publish `jpeg` (at most 512 KiB); a preview that the next one overtakes is dropped and counted."""
        with self._lock:
            if len(jpeg) > MAX_PREVIEW_BYTES or not valid_stream_name(stream) or stream in self._previews:
                self._previews_dropped += 1
            if len(jpeg) <= MAX_PREVIEW_BYTES and valid_stream_name(stream):
                self._previews[stream] = jpeg
                self._wake()

    def post_saved(self, request_id: str, result: bytes) -> None:
        """Send the result of a request to save an example. It is sent once: a client asks again by itself."""
        with self._lock:
            self._saved.append((request_id, result))
            self._wake()

    @property
    def dropped(self) -> dict[str, int]:
        """The number of drafts dropped because the hub could not be reached for too long, by stream."""
        with self._lock:
            return dict(self._dropped)

    @property
    def previews_dropped(self) -> int:
        """The number of previews that were too large or overtaken."""
        return self._previews_dropped

    @property
    def unacknowledged(self) -> int:
        """The number of drafts that the hub has not confirmed yet."""
        return len(self._pending)

    def close(self, deadline_s: float) -> int:
        """Wait up to `deadline_s` for the hub to confirm everything; return how many drafts it did not confirm."""
        with self._lock:
            if self._close_by is None:
                self._close_by = time.monotonic() + deadline_s
            self._wake()
        self._thread.join(deadline_s + 1.0)
        return len(self._pending)

    def _wake(self) -> None:
        """Wake the thread; call this with the lock.

        One byte is enough until the thread reads it. A post without a system call keeps the interpreter lock, so drafts
        that are posted together are sent together and committed together.
        """
        if self._wake_write >= 0 and not self._wake_sent:
            self._wake_sent = True
            os.write(self._wake_write, b"x")

    def _drop_oldest(self) -> None:
        while self._predictions and self._predictions[0] not in self._pending:
            self._predictions.popleft()
        # Actions and statuses are few and matter more: drop one only if no prediction is left.
        seq = self._predictions.popleft() if self._predictions else next(iter(self._pending))
        dropped = self._pending.pop(seq)
        self._pending_bytes -= len(dropped.encoded)
        self._dropped[dropped.stream] = self._dropped.get(dropped.stream, 0) + 1

    def _run(self, connection: ProducerConnection) -> None:
        try:
            with connection:
                self._serve(connection)
        except zmq.ZMQError as error:
            log.error("link to the hub at %s ended: %s", self._endpoint, error)
        finally:
            with self._lock:
                os.close(self._wake_read)
                os.close(self._wake_write)
                self._wake_write = -1

    def _serve(self, connection: ProducerConnection) -> None:
        while not self._finished():
            if connection.wait(self._wake_read, self._pause_s(connection)):
                self._clear_wake()
            for frames in connection.receive():
                self._handle_reply(frames, connection)
            if connection.ack_overdue():
                connection.reopen()
                self._rewind(connection, connection.confirmed)
            if connection.hello_due():
                connection.send_hello(self.dropped)
            self._send_drafts(connection)
            self._send_previews(connection)
            self._send_saved(connection)

    def _pause_s(self, connection: ProducerConnection) -> float:
        if self._unsent:
            return RETRY_SEND_S
        closing_s = math.inf if self._close_by is None else self._close_by - time.monotonic()
        return min(connection.due_s, closing_s)

    def _finished(self) -> bool:
        with self._lock:
            return self._close_by is not None and (not self._pending or time.monotonic() >= self._close_by)

    def _clear_wake(self) -> None:
        self._wake_sent = False  # before the thread reads the queue: the next post wakes it again
        os.read(self._wake_read, 1)

    def _handle_reply(self, frames: list[bytes], connection: ProducerConnection) -> None:
        kind = frames[0]
        if kind in (b"ack", b"again") and len(frames) == 2 and len(frames[1]) == U64.size:
            (seq,) = U64.unpack(frames[1])
            self._release_confirmed(seq)
            if kind == b"ack":
                connection.confirm(seq)
            else:
                self._rewind(connection, seq)
        elif kind == b"action" and len(frames) == 3 and len(frames[1]) == U64.size:
            if self._on_action is not None:
                self._on_action(U64.unpack(frames[1])[0], frames[2])
        elif kind == b"save" and len(frames) == 3:
            if self._on_save is not None:
                self._on_save(frames[1].decode("ascii", "replace"), frames[2])
        elif kind == b"wanted" and len(frames) == 3:
            self._wanted = frozenset(orjson.loads(frames[2]))
            self._wanted_until = time.monotonic() + _WANTED_VALID_S
            if connection.is_new_hub(frames[1]):
                self._rewind(connection, connection.confirmed)

    def _release_confirmed(self, seq: int) -> None:
        with self._lock:
            while self._pending and next(iter(self._pending)) <= seq:
                _, pending = self._pending.popitem(last=False)
                self._pending_bytes -= len(pending.encoded)
            while self._predictions and self._predictions[0] <= seq:
                self._predictions.popleft()
            while self._unsent and self._unsent[0] <= seq:
                self._unsent.popleft()

    def _rewind(self, connection: ProducerConnection, seq: int) -> None:
        with self._lock:
            self._unsent = deque(self._pending)
        connection.rewind(seq)

    def _send_drafts(self, connection: ProducerConnection) -> None:
        while connection.in_flight < _MAX_IN_FLIGHT:
            with self._lock:
                batch = self._next_batch()
            if not batch:
                return
            if not connection.send(batch):
                with self._lock:
                    self._unsent.extendleft(seq for seq, _ in reversed(batch))
                return

    def _next_batch(self) -> list[tuple[int, bytes]]:
        batch: list[tuple[int, bytes]] = []
        size = 0
        while self._unsent and len(batch) < _MAX_BATCH_DRAFTS and size < _MAX_BATCH_BYTES:
            seq = self._unsent.popleft()
            if seq in self._pending:
                batch.append((seq, self._pending[seq].encoded))
                size += len(batch[-1][1])
        return batch

    def _send_saved(self, connection: ProducerConnection) -> None:
        while self._saved:
            request_id, result = self._saved.popleft()
            connection.send_saved(request_id, result)

    def _send_previews(self, connection: ProducerConnection) -> None:
        with self._lock:
            previews, self._previews = self._previews, {}
        for stream, jpeg in previews.items():
            if not connection.send_preview(stream, jpeg):
                with self._lock:
                    self._previews_dropped += 1


def _encode(seq: int, draft: Draft) -> bytes:
    try:
        encoded = orjson.dumps(
            [seq, draft.type, draft.stream, draft.captured_ns, draft.body], option=orjson.OPT_SERIALIZE_NUMPY
        )
    except TypeError as error:
        raise EventError(f"{draft.type} of {draft.stream}: not JSON ({error}); use numbers, strings, lists") from error
    if len(encoded) > MAX_DRAFT_BYTES:
        raise EventError(f"{draft.type} of {draft.stream}: {len(encoded)} bytes; at most {MAX_DRAFT_BYTES}")
    return encoded
