"""Run several hubs with leases on this machine, and the directory that lists them: a fleet without Ray."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq
from support.hub_process import HubProcess, prediction, read_journal

from streamclf.client.subscription import Subscription
from streamclf.events.directory import Directory, DirectoryNode, DirectoryStream
from streamclf.events.types import Lost, Prediction, StreamEvent
from streamclf.fleet.directory import DirectoryServer
from streamclf.producer.link import EventProducer
from streamclf.runtime.lease_file import Lease, lease_clock_ns, write_leases
from streamclf.units import NS

FLEET = "f" * 32


class FleetRig:
    """Hubs by node name. The test decides which node has each stream, and posts its events there."""

    def __init__(self, *names: str, **hub: Any) -> None:
        self.hubs = {name: HubProcess(**hub) for name in names}
        self.hidden: set[str] = set()
        """Nodes that the directory does not list."""
        self.states: dict[str, str] = {}
        """The state of nodes that are not live."""
        self.streams: dict[str, DirectoryStream] = {}
        self.context = zmq.Context()
        self._producers: dict[str, EventProducer] = {}
        self._stack = ExitStack()
        self._token = 0
        self._revision = 0
        self._numbers: dict[str, int] = {}
        self.server: DirectoryServer | None = None
        self.endpoint = "tcp://127.0.0.1:*"

    def __enter__(self) -> FleetRig:
        for name, hub in self.hubs.items():
            hub.job = hub.job.model_copy(update={"leases": hub.directory / "leases.json"})
            self._write_leases(name)
            self._stack.enter_context(hub)
        self.start_directory()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        for producer in self._producers.values():
            producer.close(0.0)
        self.stop_directory()
        self._stack.close()
        self.context.destroy(linger=0)

    @property
    def address(self) -> str:
        return self.endpoint.replace("tcp://", "fleet://")

    def start_directory(self) -> None:
        self.server = DirectoryServer(self.context, self.endpoint, self.directory)
        self.endpoint = self.server.endpoint

    def stop_directory(self) -> None:
        if self.server is not None:
            self.server.close()
        self.server = None

    def directory(self) -> Directory:
        now = datetime.now(timezone.utc)
        nodes = tuple(
            DirectoryNode(
                name=name, state=self.states.get(name, "live"), since=now, events=hub.events, replay=hub.replay  # type: ignore[arg-type]
            )
            for name, hub in self.hubs.items()
            if name not in self.hidden
        )  # fmt: skip
        return Directory(fleet=FLEET, revision=str(self._revision), time=now, nodes=nodes, streams=dict(self.streams))

    def changed(self) -> None:
        """Give the directory another revision."""
        self._revision += 1

    def give(self, stream: str, node: str, *, ago_s: float = 0.0) -> None:
        """Move the lease of a stream to another node, whose capture begins at once."""
        self.wait_published()  # the old owner still has the lease for them
        self._token += 1
        since = datetime.now(timezone.utc) - timedelta(seconds=ago_s)
        self.streams[stream] = DirectoryStream(node=node, lease=self._token, since=since)
        for name in self.hubs:
            self._write_leases(name)
        self._revision += 1

    def _write_leases(self, node: str) -> None:
        now_ns = lease_clock_ns()
        mine = {
            stream: Lease(entry.lease or 0, now_ns + 300 * NS, now_ns)
            for stream, entry in self.streams.items()
            if entry.node == node
        }
        write_leases(self.hubs[node].directory / "leases.json", mine)

    def post(self, stream: str, count: int = 1) -> None:
        """Post predictions of a stream at its node, numbered in media time."""
        node = self.streams[stream].node
        assert node is not None
        producer = self._producers.get(node)
        if producer is None:
            producer = self._producers[node] = EventProducer(self.hubs[node].link, "classifier")
        for _ in range(count):
            number = self._numbers[stream] = self._numbers.get(stream, -1) + 1
            producer.post(prediction(stream, number))

    def posted(self, stream: str) -> list[int]:
        """Return the numbers of the events that were posted of a stream."""
        return list(range(self._numbers.get(stream, -1) + 1))

    def wait_published(self, deadline_s: float = 60.0) -> None:
        """Wait until the journals have all events that were posted at hubs that run."""
        end_s = time.monotonic() + deadline_s
        total = sum(number + 1 for number in self._numbers.values())
        while sum(len(read_journal(hub.journal)) for hub in self.hubs.values()) < total:
            assert time.monotonic() < end_s, "the events were not published"
            time.sleep(0.01)

    def journals(self) -> list[tuple[str, int]]:
        """Return (epoch, offset) of the events in all journals, sorted."""
        found = [event for hub in self.hubs.values() for event in read_journal(hub.journal)]
        return sorted((event["epoch"], event["offset"]) for event in found)

    def kill(self, node: str) -> None:
        """Kill a node as `kill -9` does, its producer included; the directory reports it as lost."""
        self._producers.pop(node).close(0.0)
        self.hubs[node].kill()
        self.states[node] = "lost"
        self._revision += 1

    def restart(self, node: str, *, other_ports: bool = False) -> None:
        hub = self.hubs[node]
        if other_ports:
            ports = {"events": "tcp://127.0.0.1:*", "replay": "tcp://127.0.0.1:*"}
            hub.job = hub.job.model_copy(update=ports)
        hub.start()
        self.states.pop(node, None)
        self._revision += 1


def receive(events: Subscription, count: int, deadline_s: float = 60.0) -> list[StreamEvent]:
    """Return the next `count` events of streams."""
    found: list[StreamEvent] = []
    end_s = time.monotonic() + deadline_s
    while len(found) < count:
        assert time.monotonic() < end_s, f"{len(found)} of {count} events: {numbers(found)}"
        event = events.receive(0.2)
        if isinstance(event, Lost):
            raise AssertionError(event)
        if event is not None and event.type != "heartbeat":
            found.append(event)
    return found


def quiet(events: Subscription, seconds: float = 0.7) -> None:
    """Check that no event of a stream arrives for a while."""
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        event = events.receive(left_s)
        assert event is None or event.type == "heartbeat", event  # type: ignore[union-attr]


def numbers(events: list[StreamEvent], stream: str | None = None) -> list[int]:
    return [
        int(event.window.start_s)
        for event in events
        if isinstance(event, Prediction) and (stream is None or event.stream == stream)
    ]


def identities(events: list[StreamEvent]) -> list[tuple[str, int]]:
    return sorted((event.epoch, event.offset or 0) for event in events)


def lease_path(hub: HubProcess) -> Path:
    return hub.directory / "leases.json"
