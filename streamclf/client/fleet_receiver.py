"""Receive the events of all nodes of a fleet, each once, whichever node runs a stream.

The receiver has the methods of `EventReceiver`, so a subscription to `fleet://HOST:PORT` is one like any other.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from typing import Final, Literal

import zmq

from streamclf.client.fleet_beat import make_heartbeat, merge_snapshots
from streamclf.client.fleet_directory import DirectoryClient
from streamclf.client.fleet_node import CONNECT_S, FleetNode
from streamclf.client.fleet_order import FleetOrder, is_overtaken
from streamclf.client.receiver import KINDS, POLL_S, EventReceiver, Kind
from streamclf.client.replay import Snapshot
from streamclf.errors import BusError
from streamclf.events.directory import MAX_DIRECTORY_NODES, DirectoryNode
from streamclf.events.positions import Position
from streamclf.events.types import Lost, Received, StreamEvent
from streamclf.net.curve_client import ServiceAddress
from streamclf.runtime.descriptor_limit import raise_descriptor_limit
from streamclf.units import duration_text

log = logging.getLogger(__name__)

_TICK_S: Final = 0.25
"""Interval of the work that no message causes: conditions of nodes, retries, waits that have become pointless."""
_HEARTBEAT_S: Final = 1.0
_FORGET_S: Final = 60.0
"""A node that is no longer in the directory is followed for this long, for the events that were not read yet."""
_PAUSE_S: Final = 1.0
"""After a longer time between two calls, the silence of nodes means nothing: their messages still wait."""
_MAX_SOCKETS: Final = 16_384
_MANY_NODES: Final = 64
"""Each node needs about eight descriptors, and a process usually has 1,024."""
_SKIPPED: Final = Lost(epoch="", first=0, last=0)
"""In place of an event that is not returned."""


class FleetReceiver:
    """A receiver for each node, and the order of their events. One thread at a time may call it."""

    def __init__(
        self,
        address: ServiceAddress,
        streams: Collection[str] | None,
        types: Collection[Kind] | None,
        replay: bool,
        after: Position | None,
        patience_s: float | None,
        regions: Collection[str] | None = None,
    ) -> None:
        self.endpoint = address.endpoint
        self._address, self._streams, self._regions, self._replay = address, streams, regions, replay
        self._types: frozenset[Kind] = frozenset(types or KINDS)
        self._patience_s = patience_s
        self._from_now = after is None
        self._offsets = {} if after is None else after.offsets
        """Offsets of the journals whose nodes are not connected, by epoch."""
        self._order = FleetOrder(self._offsets)
        self._nodes: dict[str, FleetNode] = {}
        self._removed_s: dict[str, float] = {}
        self._unread: set[str] = set()
        """The nodes that may have something to read."""
        self._watched: frozenset[str] | None = frozenset()
        self._previews: dict[str, bytes] = {}
        self._tick_s = self._heartbeat_s = 0.0
        self._started_s = self._called_s = self._heard_s = time.monotonic()
        self._heartbeat_due = False
        self._connections = 0
        self._has_list = False
        self._counts: dict[Literal["missed", "refused"], int] = {"missed": 0, "refused": 0}
        self.overtaken = 0
        """Events that were refused because another node had their stream when they were received."""
        self._context = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        self._directory = DirectoryClient(self._context, address)

    @property
    def position(self) -> Position | None:
        """See `Subscription.position`."""
        if not self._replay:
            return None
        offsets = self._offsets | {
            each.epoch: each.offset for node in self._nodes.values() if (each := node.position) and each.epoch
        }
        return Position.of(offsets) if offsets else None

    @property
    def refused(self) -> int:
        """See `Subscription.refused`; events that were overtaken by another node are included."""
        return self._count("refused") + self.overtaken

    @property
    def missed(self) -> int:
        """See `Subscription.missed`."""
        return self._count("missed")

    @property
    def previews(self) -> dict[str, bytes]:
        """The latest JPEG of each stream; the caller takes them away."""
        for node in self._nodes.values():
            if node.receiver is not None and node.receiver.previews:
                self._previews |= node.receiver.previews
                node.receiver.previews = {}
        return self._previews

    @previews.setter
    def previews(self, previews: dict[str, bytes]) -> None:
        self._previews = previews

    def watch_previews(self, streams: Collection[str] | None) -> None:
        """See `Subscription.watch_previews`."""
        if streams is None:
            self._watched = None
        elif self._watched is not None:
            self._watched |= frozenset(streams)
        self._watch()

    def watch_only(self, streams: frozenset[str]) -> None:
        """See `Subscription.watch_only`."""
        if streams != self._watched:
            self._watched = streams
            self._watch()

    def receive(self, timeout_s: float) -> Received | None:
        """Return the next event, or None if there is none within `timeout_s`. Raises `BusError`."""
        end_s = time.monotonic() + timeout_s
        is_polled = False
        while True:
            now_s = time.monotonic()
            self._note_pause(now_s)
            if now_s >= self._tick_s:
                self._tick(now_s)
            event = self._next(now_s)
            if event is not None or is_polled:
                return event
            is_polled = now_s >= end_s
            self._wait(min(end_s, self._tick_s) - now_s)

    def next_messages(self) -> tuple[Sequence[zmq.Socket[bytes]], float]:
        """Return the sockets whose message `receive` needs next, and for how many seconds to wait for one."""
        sockets = list(self._directory.sockets)
        for node in self._nodes.values():
            if node.next is None and node.receiver is not None:
                sockets += node.receiver.next_messages()[0]
        return sockets, max(0.0, min(POLL_S, self._tick_s - time.monotonic()))

    def snapshot(self, timeout_s: float) -> Snapshot:
        """See `Subscription.snapshot`. The nodes that cannot be reached now are left out."""
        end_s = time.monotonic() + timeout_s
        while not self._is_complete(now_s := time.monotonic()) and now_s < end_s - timeout_s / 2:
            self._tick(now_s)
            for node in self._nodes.values():
                if node.receiver is not None and node.heartbeat is None:
                    node.read()
            self._wait(0.05)
        parts = []
        for node in self._nodes.values():
            left_s = end_s - time.monotonic()
            if node.receiver is not None and node.is_alive(time.monotonic()) and left_s > 0:
                try:
                    parts.append(node.receiver.snapshot(left_s))
                except BusError as error:
                    log.warning("node %s: %s", node.entry.name, error)
            self._unread.add(node.entry.name)
        if not parts:
            raise self._silence_error(f"{timeout_s:g}")
        return merge_snapshots(parts)

    def close(self) -> None:
        """Disconnect. May be called twice."""
        if self._context.closed:
            return
        for node in self._nodes.values():
            node.close()
        self._directory.close()
        self._context.term()

    def _next(self, now_s: float) -> Received | None:
        """Return the next event that waits for no other; None after all nodes have been read."""
        while True:
            ready = [name for name, node in self._nodes.items() if name in self._unread or node.next is not None]
            if not ready:
                return self._heartbeat(now_s)
            is_idle = True
            for name in ready:
                node = self._nodes[name]
                if node.next is None:
                    if node.read() is None:
                        if node.receiver is None or not node.receiver.has_ready:
                            self._unread.discard(name)
                        continue
                    is_idle = False
                    self._heard_s = now_s
                    if node.next is None:  # a heartbeat
                        self._heartbeat_due = True
                        continue
                event = self._release(node)
                if event is not None and event is not _SKIPPED:
                    self._nodes[name] = self._nodes.pop(name)  # the others are next
                    return event
                is_idle = is_idle and event is None
            if is_idle:
                return self._heartbeat(now_s)

    def _release(self, node: FleetNode) -> Received | None:
        """Return the node's next event, `_SKIPPED` in place of one that is not returned, or None while it waits."""
        event = node.next
        if isinstance(event, Lost):
            return node.take()
        assert event is not None
        if self._order.is_repeated(event) or (self._from_now and self._is_earlier(node, event)):
            node.take()
            return _SKIPPED
        if self._is_overtaken(node, event):
            self._order.note(event)
            node.take()
            return _SKIPPED
        if self._replay and self._order.begins_lease(event):
            waits = [each for each in self._nodes.values() if each is not node
                     and self._order.must_wait(event, each, node.next_s)]  # fmt: skip
            if waits:
                self._unread |= {each.entry.name for each in waits}
                return None
        self._order.note(event)
        return node.take()

    def _is_overtaken(self, node: FleetNode, event: StreamEvent) -> bool:
        known = self._directory.list
        stream = known.streams.get(event.stream) if known and event.lease is not None else None
        if stream is None or stream.since is None or event.lease == stream.lease or not node.is_present(event):
            return False
        received_s = node.received_at_s(event)
        granted_s = known.monotonic_of(stream.since) if known else None
        if received_s is None or not is_overtaken(event, stream.lease, granted_s, received_s):
            return False
        self.overtaken += 1
        if self.overtaken == 1 or self.overtaken % 1000 == 0:
            log.warning("%s: event of node %s refused (%d so far): node %s had the stream already", event.stream,
                        node.entry.name, self.overtaken, stream.node)  # fmt: skip
        return True

    def _is_earlier(self, node: FleetNode, event: StreamEvent) -> bool:
        """Return whether an event in the journal of a node that joined later is from before this subscription."""
        received_s = node.received_at_s(event)
        return received_s is not None and received_s < self._started_s - 1.0

    def _heartbeat(self, now_s: float) -> Received | None:
        """Return the heartbeat of the fleet if it is due."""
        is_due = self._heartbeat_due and now_s - self._heartbeat_s >= _HEARTBEAT_S
        if not is_due or "heartbeat" not in self._types or not self._is_complete(now_s):
            return None
        self._heartbeat_s, self._heartbeat_due = now_s, False
        return make_heartbeat(self._nodes, self._directory, self.overtaken)

    def _is_complete(self, now_s: float) -> bool:
        """Return whether each node that should be live has sent a message, or had time enough."""
        if self._directory.list is None:
            return False
        return now_s - self._started_s >= CONNECT_S or all(
            node.heartbeat is not None or node.entry.state != "live" for node in self._nodes.values()
        )

    def _tick(self, now_s: float) -> None:
        self._tick_s = now_s + _TICK_S
        if self._directory.poll():
            self._heard_s = now_s
            self._apply_list(now_s)
        self._unread |= self._nodes.keys()
        for name, node in list(self._nodes.items()):
            before, since = node.condition, node.since
            if node.update_condition(now_s):
                self._report(node, before, since)
            if name in self._removed_s and now_s - self._removed_s[name] > _FORGET_S and not node.is_alive(now_s):
                self._forget(name)
            elif (
                self._from_now and self._replay and node.heartbeat is None
                and node.receiver is not None and node.receiver.position is None
                and now_s - self._started_s >= CONNECT_S
            ):  # fmt: skip
                node.reopen(Position("", 0, tuple(self._offsets.items())))  # whatever it has when it returns is new
        if self._connections != sum(node.connections for node in self._nodes.values()):
            self._watch()
        silent_s = now_s - self._heard_s
        if self._patience_s is not None and silent_s > self._patience_s:
            raise self._silence_error(f"{silent_s:.0f}")

    def _apply_list(self, now_s: float) -> None:
        """Connect to new nodes, and follow those that have moved."""
        assert self._directory.list is not None
        listed = self._directory.list.nodes
        if len(listed) > _MANY_NODES:
            raise_descriptor_limit()
        is_first, self._has_list = not self._has_list, True
        for name in self._nodes.keys() - listed.keys():
            self._removed_s.setdefault(name, now_s)
        oldest = [name for name in self._removed_s if name not in listed]
        for name in oldest[: max(0, len(oldest) + len(listed) - MAX_DIRECTORY_NODES)]:
            self._forget(name)  # a directory with new names every second must not use up all sockets
        for name, entry in listed.items():
            self._removed_s.pop(name, None)
            node = self._nodes.get(name)
            if node is None:
                offsets = self._offsets if (position := self.position) is None else position.offsets
                begin = None if self._from_now and (is_first or not self._replay) else Position(
                    "", 0, tuple(offsets.items())
                )  # fmt: skip
                self._nodes[name] = FleetNode(entry, begin, self._open, replay=self._replay)
            else:
                node.update(entry)
        self._watch()

    def _open(self, entry: DirectoryNode, after: Position | None) -> EventReceiver:
        assert entry.events is not None
        address = ServiceAddress(endpoint=entry.events, keys=self._address.keys, server_key=self._address.server_key)
        types: set[Kind] = {"heartbeat", *self._types}
        return EventReceiver(
            address, self._streams, types, self._replay, after, None, self._regions,
            context=self._context, replay_endpoint=entry.replay,
        )  # fmt: skip

    def _forget(self, name: str) -> None:
        node = self._nodes.pop(name)
        if (position := node.position) is not None and position.epoch:
            self._offsets[position.epoch] = position.offset
        node.close()
        for key in self._counts:
            self._counts[key] += node.count(key)
        del self._removed_s[name]
        self._unread.discard(name)

    def _watch(self) -> None:
        """Subscribe to the chosen previews at the nodes that run their streams."""
        owners = {} if self._directory.list is None else self._directory.list.streams
        mine: dict[str | None, set[str]] = {}
        for stream in self._watched or ():
            mine.setdefault(owners[stream].node if stream in owners else None, set()).add(stream)
        self._connections = sum(node.connections for node in self._nodes.values())
        for name, node in self._nodes.items():
            if node.receiver is None:
                continue
            if self._watched is None:
                if not node.watches_all:
                    node.watches_all = True
                    node.receiver.watch_previews(None)
            else:
                node.receiver.watch_only(frozenset(mine.get(name, ())))

    def _report(self, node: FleetNode, before: str, since: datetime) -> None:
        name = node.entry.name
        if node.condition == "lost":
            when = max(node.since, node.entry.since) if before == "live" else node.entry.since
            log.warning("node %s is lost since %s (%s); the events that it has not sent are missing until it returns",
                        name, f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC", node.reason)  # fmt: skip
        elif node.condition == "live" and before == "lost":
            away_s = (node.since - since).total_seconds()
            log.info("node %s is back after %s; the events in its journal follow", name, duration_text(away_s))
        elif node.condition == "left":
            log.info("node %s has left the fleet", name)

    def _wait(self, timeout_s: float) -> None:
        sockets: list[tuple[zmq.Socket[bytes], str | None]] = [(each, None) for each in self._directory.sockets]
        for name, node in self._nodes.items():
            if node.next is None and node.receiver is not None:
                sockets += [(each, name) for each in node.receiver.next_messages()[0]]
        if not sockets:
            time.sleep(max(0.0, min(timeout_s, self._directory.wait_s())))
            return
        owners: dict[object, str | None] = dict(sockets)
        timeout_ms = max(0, math.ceil(1000 * timeout_s))
        for socket, _ in zmq.zmq_poll([(each, zmq.POLLIN) for each, _ in sockets], timeout_ms):
            owner = owners[socket]
            if owner is None:
                self._tick_s = 0.0  # the directory has replied
            else:
                self._unread.add(owner)

    def _note_pause(self, now_s: float) -> None:
        pause_s, self._called_s = now_s - self._called_s, now_s
        if pause_s > _PAUSE_S:
            self._heard_s += pause_s
            for node in self._nodes.values():
                node.note_pause(pause_s)

    def _count(self, key: Literal["missed", "refused"]) -> int:
        return self._counts[key] + sum(node.count(key) for node in self._nodes.values())

    def _silence_error(self, seconds: str) -> BusError:
        if self._directory.list is None:
            reason = self._directory.explain_silence()
        elif not self._nodes:
            reason = "the directory answers, but no node of the fleet has been ready yet"
        else:
            names = ", ".join(sorted(self._nodes)[:5])
            reason = f"the directory answers, but none of its nodes does ({names}); can they be reached?"
        return BusError(f"{self.endpoint}: no message for {seconds} s; {reason}")
