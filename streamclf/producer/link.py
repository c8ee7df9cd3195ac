"""A producer's acknowledged way to the hub: what was posted is held until the hub has journalled it.

Messages, each a few ZeroMQ frames, little endian:

    producer -> hub   hello    instance(16) name dropped-totals-JSON           every second
                      drafts   instance(16) name after(u64) JSON [[seq, type, stream, captured_ns, body], ...]
                      preview  stream JPEG                                     on a socket of its own
    hub -> producer   ack      seq(u64)                after the commit
                      again    seq(u64)                something before these drafts is missing: go back to seq
                      wanted   hub-run(16) JSON [stream, ...]                  answers hello, and on every change

`after` is the number before the first draft of a message in the producer's own order. The hub takes a message only if
it knows everything up to `after`; so nothing that an earlier connection swallowed can be stepped over.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import orjson
import zmq

from streamclf.errors import BusError, EventError
from streamclf.events.drafts import Draft
from streamclf.events.types import MAX_EVENT_BYTES, MAX_PREVIEW_BYTES
from streamclf.net.names import valid_stream_name
from streamclf.producer.connection import TICK_S, U64, ProducerConnection

log = logging.getLogger(__name__)

MAX_DRAFT_BYTES: Final = MAX_EVENT_BYTES - 1024  # the hub adds its envelope

_BATCH = 128
_BATCH_BYTES = 256 * 1024
_WINDOW = 1024
"""Drafts under way at once: enough for a slow disk's commit, little enough to resend."""
_WANTED_FRESH_S = 5.0


@dataclass(frozen=True, slots=True)
class _Held:
    stream: str
    encoded: bytes


class EventProducer:
    """Holds drafts until the hub acknowledges them; a thread of its own sends, and sends again after a hub's restart.

    `post` and the preview methods are thread-safe and never block. At most `max_drafts` (and `max_bytes`) are held:
    beyond that the oldest prediction goes, counted in `dropped` and told to the hub, which puts it into statuses and
    heartbeats.
    """

    def __init__(self, endpoint: str, producer: str, *, max_drafts: int = 8192, max_bytes: int = 16 << 20) -> None:
        if not 1 <= len(producer.encode()) <= 128:
            raise BusError(f"producer name of {len(producer.encode())} bytes: 1 to 128")
        self._endpoint, self._name = endpoint, producer.encode()
        self._max_drafts, self._max_bytes = max_drafts, max_bytes
        self._instance = uuid.uuid4().bytes
        self._lock = threading.Lock()
        # Everything from here to the next blank line belongs to the lock.
        self._seq = 0
        self._held: OrderedDict[int, _Held] = OrderedDict()
        self._held_bytes = 0
        self._predictions: deque[int] = deque()
        self._unsent: deque[int] = deque()
        self._dropped: dict[str, int] = {}
        self._previews: dict[str, bytes] = {}
        self._previews_dropped = 0
        self._close_by: float | None = None
        self._woken = False
        """Whether a byte is on its way to the thread, which takes this back without the lock."""

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
        """Take charge of `draft`. Raises `EventError` if it is too large or not JSON; never blocks."""
        with self._lock:
            seq = self._seq + 1
            encoded = _encode(seq, draft)
            self._seq = seq
            self._held[seq] = _Held(draft.stream, encoded)
            self._held_bytes += len(encoded)
            self._unsent.append(seq)
            if draft.type == "prediction":
                self._predictions.append(seq)
            while len(self._held) > self._max_drafts or self._held_bytes > self._max_bytes:
                self._drop_oldest()
            self._wake()

    def preview_wanted(self, stream: str) -> bool:
        """Whether somebody watches `preview/STREAM/` now."""
        return bool(self._wanted & {stream, "*"}) and time.monotonic() < self._wanted_until

    def post_preview(self, stream: str, jpeg: bytes) -> None:
        """Show `jpeg` (at most 512 KiB) to those who watch; one that is overtaken by the next is dropped, counted."""
        with self._lock:
            if len(jpeg) > MAX_PREVIEW_BYTES or not valid_stream_name(stream) or stream in self._previews:
                self._previews_dropped += 1
            if len(jpeg) <= MAX_PREVIEW_BYTES and valid_stream_name(stream):
                self._previews[stream] = jpeg
                self._wake()

    @property
    def dropped(self) -> dict[str, int]:
        """Drafts given up because the hub was away too long, by stream."""
        with self._lock:
            return dict(self._dropped)

    @property
    def previews_dropped(self) -> int:
        """Previews that were too large or overtaken."""
        return self._previews_dropped

    @property
    def unacknowledged(self) -> int:
        """Drafts that the hub has not confirmed yet."""
        return len(self._held)

    def close(self, deadline_s: float) -> int:
        """Wait up to `deadline_s` for the hub to confirm everything; return how many drafts it did not confirm."""
        with self._lock:
            if self._close_by is None:
                self._close_by = time.monotonic() + deadline_s
            self._wake()
        self._thread.join(deadline_s + 1.0)
        return len(self._held)

    def _wake(self) -> None:
        """With the lock. One byte is enough until it is read; and a post that makes no system call keeps the
        interpreter, so what is posted together goes out together, and is committed so."""
        if self._wake_write >= 0 and not self._woken:
            self._woken = True
            os.write(self._wake_write, b"x")

    def _drop_oldest(self) -> None:
        while self._predictions and self._predictions[0] not in self._held:
            self._predictions.popleft()
        # Actions and statuses are few and matter more; they go only when nothing else is left to go.
        seq = self._predictions.popleft() if self._predictions else next(iter(self._held))
        gone = self._held.pop(seq)
        self._held_bytes -= len(gone.encoded)
        self._dropped[gone.stream] = self._dropped.get(gone.stream, 0) + 1

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
                self._drain_wake()
            for frames in connection.receive():
                self._take(frames, connection)
            if connection.overdue():
                connection.reopen()
                self._rewind(connection, connection.acked)
            if connection.hello_due():
                connection.hello(self.dropped)
            self._send_drafts(connection)
            self._send_previews(connection)

    def _pause_s(self, connection: ProducerConnection) -> float:
        if self._unsent:
            return TICK_S
        closing_s = math.inf if self._close_by is None else self._close_by - time.monotonic()
        return min(connection.due_s, closing_s)

    def _finished(self) -> bool:
        with self._lock:
            return self._close_by is not None and (not self._held or time.monotonic() >= self._close_by)

    def _drain_wake(self) -> None:
        self._woken = False  # before what was posted is looked at: the next post wakes again
        os.read(self._wake_read, 1)

    def _take(self, frames: list[bytes], connection: ProducerConnection) -> None:
        kind = frames[0]
        if kind in (b"ack", b"again") and len(frames) == 2 and len(frames[1]) == U64.size:
            (seq,) = U64.unpack(frames[1])
            self._acknowledged(seq)
            if kind == b"ack":
                connection.progress(seq)
            else:
                self._rewind(connection, seq)
        elif kind == b"wanted" and len(frames) == 3:
            self._wanted = frozenset(orjson.loads(frames[2]))
            self._wanted_until = time.monotonic() + _WANTED_FRESH_S
            if connection.is_new_hub(frames[1]):
                self._rewind(connection, connection.acked)

    def _acknowledged(self, seq: int) -> None:
        with self._lock:
            while self._held and next(iter(self._held)) <= seq:
                _, held = self._held.popitem(last=False)
                self._held_bytes -= len(held.encoded)
            while self._predictions and self._predictions[0] <= seq:
                self._predictions.popleft()
            while self._unsent and self._unsent[0] <= seq:
                self._unsent.popleft()

    def _rewind(self, connection: ProducerConnection, seq: int) -> None:
        with self._lock:
            self._unsent = deque(self._held)
        connection.rewind(seq)

    def _send_drafts(self, connection: ProducerConnection) -> None:
        while connection.in_flight < _WINDOW:
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
        while self._unsent and len(batch) < _BATCH and size < _BATCH_BYTES:
            seq = self._unsent.popleft()
            if seq in self._held:
                batch.append((seq, self._held[seq].encoded))
                size += len(batch[-1][1])
        return batch

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
