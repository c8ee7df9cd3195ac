"""The hub process: producers' drafts in, journalled, published, acknowledged, in that order."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
import zmq

from streamclf.errors import EventError
from streamclf.events.drafts import Draft
from streamclf.events.types import HEARTBEAT_TOPIC, check_event, format_wall_time, topic_of
from streamclf.hub.draft_rules import AdaptiveHopStatus, OpenActions
from streamclf.hub.guard.curve_gate import AllowList, CurveGate
from streamclf.hub.guard.flood import FloodGuard
from streamclf.hub.journal import RETENTION_STEP, Journal, Record
from streamclf.hub.link_server import LinkServer
from streamclf.hub.publisher import Publisher
from streamclf.hub.replay_server import ReplayServer
from streamclf.net.curve_keys import load_certificate
from streamclf.runtime.child import EXIT_DONE, ChildControl
from streamclf.runtime.jobs import HubChange, HubJob

log = logging.getLogger(__name__)

_OPEN_ACTIONS = "open actions"
_HEARTBEAT_S = 1.0
_NEWCOMER_S = 0.05
_RETAIN_S = 5.0
_DESCRIPTORS = 65_536
_DRAIN_S = 0.4
_TRIM_AFTER = 256
"""Subscriptions that came or went since memory was given back: less is not worth the call."""
_TURN_S = 30.0
"""One turn is a commit at most, which a disk can hold up for long; a hub is not the better for a restart then."""
_QUIET_S = 0.15
"""Producers are closed before the hub; when none has sent for this long, all have been heard."""


class Hub:
    """Journal, publisher, replay and links, driven by one loop."""

    def __init__(self, job: HubJob) -> None:
        with contextlib.ExitStack() as stack:
            self._context = zmq.Context(io_threads=2)
            stack.callback(self._context.term)
            self.journal = stack.enter_context(Journal(job.journal, keep_s=job.keep_s, keep_bytes=job.keep_bytes))
            gate = _open_gate(self._context, job)
            if gate:
                stack.callback(gate.close)
            self._publisher = Publisher(self._context, job.events, high_water=job.high_water, gate=gate)
            stack.callback(self._publisher.close)
            self._replay = ReplayServer(self._context, job.replay, job.journal, gate=gate)
            stack.callback(self._replay.close)
            if bouncer := FloodGuard.at(*self.endpoints.values()):
                stack.callback(bouncer.close)
            self._links = LinkServer(self._context, job.link, self.journal.sequence_of)
            stack.callback(self._links.close)
            self._resources = stack.pop_all()
        self._open_actions = OpenActions(self.journal.note(_OPEN_ACTIONS))
        self._hops = AdaptiveHopStatus()
        self._heartbeat_at = self._retain_at = self._orphans_at = 0.0
        self._heard = 0
        self._refused = 0

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._resources.close()

    @property
    def endpoints(self) -> dict[str, str]:
        """Where subscribers really find it."""
        return {"events": self._publisher.endpoint, "replay": self._replay.endpoint}

    def run(self, control: ChildControl) -> None:
        """Serve until asked to stop, then until the producers have nothing more to send."""
        poller = zmq.Poller()
        poller.register(self._links.socket, zmq.POLLIN)
        poller.register(self._publisher.socket, zmq.POLLIN)
        poller.register(control.stop_fd, zmq.POLLIN)
        poller.register(control.change_fd, zmq.POLLIN)
        control.liveness.enter_phase("serving", _TURN_S)
        while not control.stop_event.is_set():
            ready = self._wait(poller, self._heartbeat_at - time.monotonic())
            if control.change_fd in ready:
                for change in control.pop_changes():
                    self._change(HubChange.model_validate_json(change.body))
            self._turn(ready)
        poller.unregister(control.stop_fd)
        poller.unregister(control.change_fd)
        end = time.monotonic() + _DRAIN_S
        quiet_at = time.monotonic() + _QUIET_S
        while time.monotonic() < min(end, quiet_at):
            if self._turn(self._wait(poller, _QUIET_S / 3)):
                quiet_at = time.monotonic() + _QUIET_S
        self._heartbeat()  # the last word says where the journal ends

    def _change(self, change: HubChange) -> None:
        self.journal.keep_s, self.journal.keep_bytes = change.keep_s, change.keep_bytes

    @staticmethod
    def _wait(poller: zmq.Poller, timeout_s: float) -> dict[object, int]:
        """What there is to do; nothing when only time is up."""
        # To the next millisecond: what wakes earlier finds nothing due, and goes round until it is.
        return dict(poller.poll(max(0, math.ceil(1000 * timeout_s))))

    def _turn(self, ready: Mapping[object, int]) -> int:
        """Do everything that is due once; return how many drafts came."""
        drafts = self._take_drafts() if self._links.socket in ready else 0
        if self._publisher.socket in ready and self._publisher.hear():
            self._links.want_previews(self._publisher.watched)
        now = time.monotonic()
        if self._publisher.newcomers:
            self._publisher.newcomers = False
            self._heartbeat_at = min(self._heartbeat_at, now + _NEWCOMER_S)
        if now >= self._heartbeat_at:
            self._heartbeat()
        if now >= self._orphans_at:  # not with each heartbeat: newcomers make these come sooner than hellos do
            self._orphans_at = now + _HEARTBEAT_S
            self._end_orphans()
            self._publisher.peers.cut_revoked()
        if now >= self._retain_at:
            removed = self.journal.retain()
            self._retain_at = now + (0.02 if removed >= RETENTION_STEP else _RETAIN_S)
        return drafts

    def _take_drafts(self) -> int:
        turn = self._links.receive()
        if turn.drafts or turn.sequences:
            tells = any(draft.type == "status" for draft in turn.drafts)
            dropped = self._links.dropped() if tells else {}
            records = [
                record
                for draft, sender in zip(turn.drafts, turn.senders, strict=True)
                for record in self._records(draft, sender, dropped)
            ]
            self._commit(records, turn.sequences)
            self._links.acknowledge()
        for stream, jpeg in turn.previews:
            self._publisher.send(topic_of("preview", stream), jpeg)
        return len(turn.drafts)

    def _commit(self, records: list[Record], sequences: dict[bytes, int]) -> None:
        notes = {_OPEN_ACTIONS: self._open_actions.stored} if self._open_actions.changed else {}
        self._publisher.publish(self.journal.append(records, sequences, notes))
        if self.journal.durable:
            self._open_actions.changed = False

    def _records(self, draft: Draft, sender: bytes, dropped: dict[str, int]) -> list[Record]:
        if draft.type != "action":
            return [record for each in self._hops.admit(draft) if (record := self._record(each, dropped))]
        record = self._record(draft, dropped)
        if record is None:
            return []
        admitted = self._open_actions.admit(draft, sender)
        ends = [end for each in admitted if each is not draft if (end := self._record(each, dropped))]
        return [*ends, record] if draft in admitted else ends

    def _record(self, draft: Draft, dropped: dict[str, int]) -> Record | None:
        event = self._event(draft, dropped)
        try:
            check_event(event)
        except EventError as error:
            self._refused += 1
            if self._refused <= 10 or self._refused % 1000 == 0:
                log.error("%s of %s refused (%d so far): %s", draft.type, draft.stream, self._refused, error)
            return None

        def body(offset: int | None, previous: int) -> bytes:
            event["offset"], event["previous"] = offset, previous
            event["epoch"] = self.journal.epoch
            if offset is None:
                event["durable"] = False
            return orjson.dumps(event)

        return Record(draft.stream, draft.type, body)

    def _event(self, draft: Draft, dropped: dict[str, int]) -> dict[str, Any]:
        now_ns = time.monotonic_ns()
        event: dict[str, Any] = {
            "v": 1, "type": draft.type, "stream": draft.stream, "epoch": self.journal.epoch,
            "offset": 0, "previous": 0, "time": format_wall_time(time.time_ns()), **draft.body,
        }  # fmt: skip
        if draft.type == "prediction" and isinstance(latency := event.get("latency_ms", {}), dict):
            elapsed = None if draft.captured_ns is None else round((now_ns - draft.captured_ns) / 1e6, 3)
            event["latency_ms"] = {"capture_to_publish": elapsed, **latency}
        lost = dropped.get(draft.stream)
        if draft.type == "status" and lost and isinstance(counters := event.get("counters", {}), dict):
            event["counters"] = {**counters, "link_dropped": lost}
        return event

    def _end_orphans(self) -> None:
        ends = self._open_actions.beat(self._links.heard())
        if ends:
            log.warning("%d actions ended whose producer is gone", len(ends))
            self._commit([record for end in ends if (record := self._record(end, {}))], {})
        self._links.forget_silent()

    def _heartbeat(self) -> None:
        journal = self.journal
        message = {
            "v": 1, "type": "heartbeat", "epoch": journal.epoch, "time": format_wall_time(time.time_ns()),
            "head": journal.head, "oldest": journal.oldest, "last": journal.last(),
            "replay": self._replay.endpoint, "not_durable": journal.not_durable,
            "dropped": dict(list(self._links.dropped().items())[:1024]),
        }  # fmt: skip
        self._publisher.send(HEARTBEAT_TOPIC, orjson.dumps(message))
        self._heartbeat_at = time.monotonic() + _HEARTBEAT_S
        if self._publisher.heard - self._heard >= _TRIM_AFTER:
            self._heard = self._publisher.heard
            _give_memory_back()


def _give_memory_back() -> None:
    """What subscriptions had filled that are given up is free for us but not yet for others: glibc keeps it until it is
    asked. They are given up some time after their peer is gone, so it is they that are counted, not the peers."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _open_gate(context: zmq.Context[zmq.Socket[bytes]], job: HubJob) -> CurveGate | None:
    if job.keys is None or job.allow is None:
        return None
    return CurveGate(context, load_certificate(job.keys, secret=True), AllowList(job.allow))


def _raise_descriptor_limit() -> None:
    """Each connection takes a descriptor: 1,024, the usual limit, are few for a service that strangers can reach."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(job: HubJob, control: ChildControl) -> int:
    """Run the hub; one line on stdout tells the supervisor the endpoints, and nothing else is ever written there."""
    _raise_descriptor_limit()
    with Hub(job) as hub:
        sys.stdout.write(orjson.dumps(hub.endpoints).decode() + "\n")
        sys.stdout.flush()
        hub.run(control)
    # The supervisor does this too, but may have been killed; the hub is the last process to leave.
    if job.link.startswith("ipc://"):
        socket = Path(job.link.removeprefix("ipc://"))
        with contextlib.suppress(OSError):
            socket.unlink(missing_ok=True)
            socket.parent.rmdir()
    return EXIT_DONE
