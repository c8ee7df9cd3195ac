"""Run the hub process: receive producers' drafts, journal, publish and acknowledge them, in that order."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
import zmq

from streamclf.errors import EventError
from streamclf.events.configuration_status import ConfigurationStatus
from streamclf.events.device_status import DeviceStatus
from streamclf.events.drafts import Draft
from streamclf.events.example_request import ExampleResult
from streamclf.events.outlet_status import OutletStatus
from streamclf.events.types import HEARTBEAT_TOPIC, MAX_LISTED_STREAMS, check_event, format_wall_time
from streamclf.events.views import UNNAMED, ViewKey
from streamclf.hub.draft_rules import ActionStarts, CompleteStatus, OpenActions
from streamclf.hub.example_requests import ExampleRequests
from streamclf.hub.guard.curve_gate import AllowList, CurveGate
from streamclf.hub.guard.flood import FloodGuard
from streamclf.hub.guard.memory import FreeMemory
from streamclf.hub.journal import Journal, Record
from streamclf.hub.lease_guard import LeaseGuard
from streamclf.hub.link_server import LinkServer
from streamclf.hub.publisher import Publisher
from streamclf.hub.replay_server import ReplayServer
from streamclf.hub.retention import RETENTION_STEP
from streamclf.hub.stream_log import StreamLog
from streamclf.net.curve_keys import load_certificate
from streamclf.net.names import MAX_STREAMS
from streamclf.runtime.child import EXIT_DONE, ChildControl
from streamclf.runtime.descriptor_limit import raise_descriptor_limit
from streamclf.runtime.jobs import HubChange, HubJob, HubReady
from streamclf.runtime.log_tail import remove_log_tail

log = logging.getLogger(__name__)

_OPEN_ACTIONS_NOTE = "open actions"
_HEARTBEAT_S = 1.0
_EARLY_HEARTBEAT_S = 0.05
"""A new subscriber gets a heartbeat after this long, together with others that subscribe at the same time."""
_RETAIN_S = 5.0
_RETAIN_AGAIN_S = 0.02
"""The pause between two steps of retention while there is more to remove."""
_MAX_DRAIN_S = 0.4
"""After the request to stop, longest time to receive the producers' last drafts."""
_LOOP_DEADLINE_S = 30.0
"""The longest step of the loop is a commit. A disk can delay one for long, and a restart of the hub would not help."""
_QUIET_S = 0.15
"""Producers are closed before the hub; after this long without a draft, the hub has received all of them."""


class Hub:
    """The journal, the publisher, the replay server and the producers' link, driven by one loop."""

    def __init__(self, job: HubJob) -> None:
        with contextlib.ExitStack() as stack:
            self._context = zmq.Context(io_threads=2)
            stack.callback(self._context.term)
            self.journal = stack.enter_context(Journal(job.journal, keep_s=job.keep_s, keep_bytes=job.keep_bytes))
            gate = _open_gate(self._context, job)
            if gate:
                stack.callback(gate.close)
            self._publisher = Publisher(
                self._context, job.events, high_water=job.high_water, gate=gate, streams=self.journal
            )
            stack.callback(self._publisher.close)
            self._examples = ExampleRequests(enabled=job.examples)
            stack.callback(self._examples.close)
            # With keys, only the outlets of the service may write: a key on the allow-list is meant for reading.
            savers = None if gate is None else frozenset({job.own_key})
            self._replay = ReplayServer(
                self._context, job.replay, job.journal, gate=gate, examples=self._examples, savers=savers
            )
            stack.callback(self._replay.close)
            if flood_guard := FloodGuard.for_endpoints(*self.endpoints.values(), bytes_read=self._bytes_read):
                stack.callback(flood_guard.close)
            self._links = LinkServer(self._context, job.link, self.journal.sequence_of)
            stack.callback(self._links.close)
            self._resources = stack.pop_all()
        self._open_actions = OpenActions(self.journal.note(_OPEN_ACTIONS_NOTE))
        self._starts = ActionStarts()
        self._noted_epoch = self.journal.epoch
        self._leases = None if job.leases is None else LeaseGuard(job.leases)
        """None outside a fleet."""
        self._statuses = CompleteStatus(job.streams)
        self._configured = job.streams
        self._stream_log = StreamLog()
        self._heartbeat_at = self._retain_at = self._check_producers_at = 0.0
        self._free_memory = FreeMemory()
        self._refused = self._published = 0
        self._outlets: dict[str, OutletStatus] = {}
        self._devices: dict[str, DeviceStatus] = {}
        self._configuration: ConfigurationStatus | None = None

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._resources.close()

    @property
    def endpoints(self) -> dict[str, str]:
        """The public endpoints as bound, with real ports."""
        return {"events": self._publisher.endpoint, "replay": self._replay.endpoint}

    def _bytes_read(self, inode: int) -> int:
        return self._publisher.peers.bytes_read_of(inode) + self._replay.peers.bytes_read_of(inode)

    def run(self, control: ChildControl) -> None:
        """Serve until asked to stop, then until the producers send nothing more."""
        poller = zmq.Poller()
        poller.register(self._links.socket, zmq.POLLIN)
        poller.register(self._publisher.socket, zmq.POLLIN)
        poller.register(control.stop_fd, zmq.POLLIN)
        poller.register(control.change_fd, zmq.POLLIN)
        poller.register(self._examples.wake_fd, zmq.POLLIN)
        control.liveness.enter_phase("serving", _LOOP_DEADLINE_S)
        while not control.stop_event.is_set():
            ready = self._wait(poller, self._heartbeat_at - time.monotonic())
            if control.change_fd in ready:
                for change in control.pop_changes():
                    self._apply_change(HubChange.model_validate_json(change.body))
            self._run_once(ready)
        poller.unregister(control.stop_fd)
        poller.unregister(control.change_fd)
        end = time.monotonic() + _MAX_DRAIN_S
        quiet_at = time.monotonic() + _QUIET_S
        while time.monotonic() < min(end, quiet_at):
            if self._run_once(self._wait(poller, _QUIET_S / 3)):
                quiet_at = time.monotonic() + _QUIET_S
        self._send_heartbeat()  # the last message reports where the journal ends
        lost = f", {self.journal.not_durable} without being kept" if self.journal.not_durable else ""
        log.info("published %d events%s; the journal ends at event %d", self._published, lost, self.journal.head)

    def _apply_change(self, change: HubChange) -> None:
        if change.outlets is not None:
            self._outlets = change.outlets
        if change.devices is not None:
            self._devices = change.devices
        if change.configuration is not None:
            self._configuration = change.configuration
            self._send_heartbeat()  # a program that has changed the file waits for the result
        settings = change.settings
        if settings is None:
            return
        self.journal.keep_s, self.journal.keep_bytes = settings.keep_s, settings.keep_bytes
        self._examples.enabled = settings.examples
        if settings.streams == self._configured:
            return
        self._configured = settings.streams
        self._send_heartbeat()  # a subscriber that knows of the removal of a stream expects no more of its events
        drafts = self._statuses.change_descriptions(settings.streams)
        self._refresh_leases()
        self._commit([record for draft in drafts if (record := self._make_record(draft, {}))], {})

    @staticmethod
    def _wait(poller: zmq.Poller, timeout_s: float) -> dict[object, int]:
        """Return the sockets that are ready, or nothing after `timeout_s`."""
        # Round up to a millisecond: after a shorter wait nothing would be due yet, and the loop would spin until then.
        return dict(poller.poll(max(0, math.ceil(1000 * timeout_s))))

    def _run_once(self, ready: Mapping[object, int]) -> int:
        """Do all work that is due, once; return how many drafts arrived."""
        drafts = self._handle_drafts() if self._links.socket in ready else 0
        if self._examples.wake_fd in ready:
            self._forward_examples()
        if self._publisher.socket in ready and self._publisher.receive_subscriptions():
            self._links.want_previews(self._publisher.watched)
        now = time.monotonic()
        if self._publisher.has_new_subscriber:
            self._publisher.has_new_subscriber = False
            self._heartbeat_at = min(self._heartbeat_at, now + _EARLY_HEARTBEAT_S)
        if now >= self._heartbeat_at:
            self._send_heartbeat()
        # Not with each heartbeat: new subscribers cause extra heartbeats, and producers say hello once a second.
        if now >= self._check_producers_at:
            self._check_producers_at = now + _HEARTBEAT_S
            self._refresh_leases()
            if self._leases:
                self._leases.report()
            self._end_abandoned_actions()
            self._stream_log.tick(now)
            self._publisher.peers.disconnect_revoked()
            self.journal.check()
            self._free_memory.give_back()
        if now >= self._retain_at:
            removed = self.journal.retain()
            self._retain_at = now + (_RETAIN_AGAIN_S if removed >= RETENTION_STEP else _RETAIN_S)
        return drafts

    def _handle_drafts(self) -> int:
        batch = self._links.receive()
        if batch.drafts or batch.sequences:
            has_status = any(draft.type == "status" for draft in batch.drafts)
            dropped = self._links.dropped() if has_status else {}
            self._refresh_leases()
            records = [
                record
                for draft, sender in zip(batch.drafts, batch.senders, strict=True)
                for record in self._make_records(draft, sender, dropped)
            ]
            self._commit(records, batch.sequences)
            self._links.acknowledge()
            self._log_states(batch.drafts)
        for stream, jpeg in batch.previews:
            if self._may_publish(stream):
                self._publisher.send_preview(stream, jpeg)
        for request_id, result in batch.saved:
            with contextlib.suppress(EventError):  # the client gets the error of a process that does not answer
                self._examples.complete_with(request_id, result)
        return len(batch.drafts)

    def _forward_examples(self) -> None:
        for request_id, stream, request in self._examples.pop_unsent():
            if not self._links.send_save(stream, request_id, request):
                reason = (
                    f"{stream}: no process reads this stream now: it is paused, not configured, or starting; try again"
                )
                self._examples.complete(request_id, ExampleResult(error=reason))

    def _log_states(self, drafts: Sequence[Draft]) -> None:
        now_s = time.monotonic()
        for draft in drafts:
            if draft.type == "status":
                self._stream_log.apply(draft.stream, draft.body, now_s)

    def _commit(self, records: list[Record], sequences: dict[bytes, int]) -> None:
        epoch = self.journal.epoch
        is_due = self._open_actions.changed or self._noted_epoch != epoch  # a new journal has no notes
        notes = {_OPEN_ACTIONS_NOTE: self._open_actions.stored} if is_due else {}
        self._published += len(records)
        entries = self.journal.append(records, sequences, notes)
        # A commit may take longer than a lease. Subscribers with replay then read these events from the journal.
        self._publisher.publish(entry for entry in entries if self._may_publish(entry.stream))
        for entry in entries:
            if entry.type == "action":
                start = self._starts.start_of(entry.offset, entry.stream, entry.body)
                self._links.send_action(entry.stream, start, entry.body)
        if self.journal.durable and self.journal.epoch == epoch:
            self._open_actions.changed, self._noted_epoch = False, epoch

    def _make_records(self, draft: Draft, sender: bytes, dropped: dict[str, int]) -> list[Record]:
        if draft.type != "action":
            return [record for each in self._statuses.apply(draft) if (record := self._make_record(each, dropped))]
        record = self._make_record(draft, dropped)
        if record is not None and self._leases and (adopted := self._open_actions.adopt(draft)) is not draft:
            draft, record = adopted, self._make_record(adopted, dropped)
        if record is None:
            return []
        drafts = self._open_actions.apply(draft, sender)
        ends = [end for each in drafts if each is not draft if (end := self._make_record(each, dropped))]
        return [*ends, record] if draft in drafts else ends

    def _refresh_leases(self) -> None:
        if self._leases:
            self._leases.refresh()

    def _may_publish(self, stream: str) -> bool:
        return self._leases is None or self._leases.token_of(stream) is not None

    def _make_record(self, draft: Draft, dropped: dict[str, int]) -> Record | None:
        event = self._make_event(draft, dropped)
        if self._leases:
            token = self._leases.admit(draft.stream, draft.captured_ns)
            if token is None:
                return None
            event["lease"] = token
        try:
            check_event(event)
        except EventError as error:
            self._refused += 1
            if self._refused <= 10 or self._refused % 1000 == 0:
                log.error("%s of %s refused (%d so far): %s", draft.type, draft.stream, self._refused, error)
            return None

        action_epoch = event.pop("action_epoch", None)

        def body(offset: int | None, previous: int) -> bytes:
            event["offset"], event["previous"] = offset, previous
            event["epoch"] = self.journal.epoch
            if draft.type == "clip" and action_epoch != self.journal.epoch:  # offsets of another journal mean nothing
                event["action"], event["actions"] = None, ()
            if offset is None:
                event["durable"] = False
            return orjson.dumps(event)

        return Record(draft.stream, draft.type, body, _view_of(event))

    def _make_event(self, draft: Draft, dropped: dict[str, int]) -> dict[str, Any]:
        now_ns = time.monotonic_ns()
        event: dict[str, Any] = {
            "v": 1, "type": draft.type, "stream": draft.stream, "epoch": self.journal.epoch,
            "offset": 0, "previous": 0, "time": format_wall_time(time.time_ns()), **draft.body,
        }  # fmt: skip
        for key in ("region", "model_name", "labels"):
            if key in event and event[key] is None:
                del event[key]  # absent, as in the events of earlier versions
        if draft.type == "prediction" and isinstance(latency := event.get("latency_ms", {}), dict):
            elapsed = None if draft.captured_ns is None else round((now_ns - draft.captured_ns) / 1e6, 3)
            event["latency_ms"] = {"capture_to_publish": elapsed, **latency}
        lost = dropped.get(draft.stream)
        if draft.type == "status" and lost and isinstance(counters := event.get("counters", {}), dict):
            event["counters"] = {**counters, "link_dropped": lost}
        return event

    def _end_abandoned_actions(self) -> None:
        ends = self._open_actions.end_abandoned(self._links.active_producers(), self._may_publish)
        if ends:
            log.warning("ended %d actions, because the process that reported them has ended", len(ends))
            self._commit([record for end in ends if (record := self._make_record(end, {}))], {})
        self._links.forget_silent()

    def _send_heartbeat(self) -> None:
        journal = self.journal
        message = {
            "v": 1, "type": "heartbeat", "epoch": journal.epoch, "time": format_wall_time(time.time_ns()),
            "head": journal.head, "oldest": journal.oldest, "last": journal.last(),
            "replay": self._replay.endpoint, "not_durable": journal.not_durable,
            "dropped": dict(list(self._links.dropped().items())[:MAX_LISTED_STREAMS]),
            **({"outlets": self._outlets} if self._outlets else {}),
            **({"devices": self._devices} if self._devices else {}),
        }  # fmt: skip
        if self._configured is not None:
            message["streams"] = list(self._configured)
        if self._leases is not None:
            message["leases"] = dict(list(self._leases.held().items())[:MAX_STREAMS])
            message["refused"] = self._leases.refused
        if self._configuration is not None:
            message["configuration"] = self._configuration
        self._publisher.send(HEARTBEAT_TOPIC, orjson.dumps(message, option=orjson.OPT_UTC_Z))
        self._heartbeat_at = time.monotonic() + _HEARTBEAT_S


def _view_of(event: Mapping[str, Any]) -> ViewKey:
    """Return the view of a checked event. A status has none, whatever its draft holds."""
    return UNNAMED if event["type"] == "status" else ViewKey(event.get("region"), event.get("model_name"))


def _open_gate(context: zmq.Context[zmq.Socket[bytes]], job: HubJob) -> CurveGate | None:
    if job.keys is None or job.allow is None:
        return None
    return CurveGate(context, load_certificate(job.keys, secret=True), AllowList(job.allow, job.own_key))


def main(job: HubJob, control: ChildControl) -> int:
    """Run the hub until it is asked to stop; return its exit code.

    The hub writes one line to stdout, a `HubReady` for the supervisor, and nothing else.
    """
    supervisor = os.getppid()
    raise_descriptor_limit()
    with Hub(job) as hub:
        ready = HubReady(**hub.endpoints, epoch=hub.journal.epoch, head=hub.journal.head)
        sys.stdout.write(ready.model_dump_json() + "\n")
        sys.stdout.flush()
        hub.run(control)
    # A supervisor that was killed cannot remove the link's directory; the hub is the last process to end. A supervisor
    # that runs needs it for the next hub: somebody may have sent SIGTERM to this one.
    if job.link.startswith("ipc://") and os.getppid() != supervisor:
        socket = Path(job.link.removeprefix("ipc://"))
        with contextlib.suppress(OSError):
            socket.unlink(missing_ok=True)
            remove_log_tail()
            socket.parent.rmdir()
    return EXIT_DONE
