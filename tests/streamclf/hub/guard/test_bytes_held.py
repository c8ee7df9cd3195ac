"""Attack a hub with bytes that it would have to hold: it stays small, and a good subscriber misses nothing."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import zmq
from support.hostile_clients import connect_as_peer, frame
from support.hub_process import HubProcess, prediction, wait_until
from support.hub_witness import GROWTH_MB, Witness

from streamclf.client.subscription import subscribe
from streamclf.hub.guard.flood import MAX_CONNECTIONS_PER_ADDRESS
from streamclf.producer.link import EventProducer

pytestmark = [
    pytest.mark.flaky(reruns=0),  # a failure here, even one in a hundred runs, is a lost event
    pytest.mark.alone,  # floods take all the processor time that there is, and memory is measured
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much a connection has sent"),
]


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub
        assert hub.alive, "the attack ended the hub"


def send_until_closed(peer: socket.socket, data: bytes, max_bytes: int) -> bool:
    """Return whether the other side closes the connection before `max_bytes` are sent."""
    peer.settimeout(20)
    try:
        for _ in range(max_bytes // len(data)):
            peer.sendall(data)
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


@pytest.mark.parametrize("size", [0, 900, 60_000])
@pytest.mark.parametrize("kind", [b"SUB", b"DEALER", b"REQ"])
def test_message_that_never_ends_is_cut_short(hub: HubProcess, kind: bytes, size: int) -> None:
    size = min(size, 1000) if kind == b"SUB" else size
    part = frame(b"\1" * size, flags=1)
    endpoint = hub.events if kind == b"SUB" else hub.replay
    with Witness(hub) as witness:
        for _ in range(5):
            with connect_as_peer(endpoint, kind) as peer:
                assert send_until_closed(peer, part * max(1, 60_000 // len(part)), 300_000_000)
    assert witness.peak_mb < GROWTH_MB


def test_requests_of_very_many_frames_are_cut_short(hub: HubProcess) -> None:
    """Each message is complete, so its frames stay in memory until they are read, even if the peer is gone."""
    request = frame(b"", flags=1) * 30_000 + frame(b"x")
    with Witness(hub) as witness:
        for _ in range(40):
            with contextlib.suppress(OSError), connect_as_peer(hub.replay, b"DEALER") as peer:
                assert send_until_closed(peer, request, 100_000_000)
    assert witness.peak_mb < 256


def test_many_messages_that_never_end_are_cut_short(hub: HubProcess) -> None:
    """Each of the peers stays below the limit of one peer."""
    part = frame(b"\1", flags=1)
    with Witness(hub) as witness:
        peers = [connect_as_peer(hub.replay, b"DEALER") for _ in range(100)]
        closed: set[socket.socket] = set()
        try:
            end = time.monotonic() + 30
            for peer in itertools.cycle(peers):
                if send_until_closed(peer, part * 700, 2100):
                    closed.add(peer)
                if len(closed) >= 30 or time.monotonic() > end:
                    break
        finally:
            for peer in peers:
                peer.close()
    assert len(closed) >= 30
    assert witness.peak_mb < GROWTH_MB


def test_heartbeats_of_zeromq_are_no_flood(hub: HubProcess) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber, Witness(hub):
        subscriber.linger = 0
        subscriber.heartbeat_ivl = 5  # two hundred times as many as usual
        subscriber.heartbeat_timeout = 60_000  # the default, 5 ms, ends the connection on a busy machine
        monitor = subscriber.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        subscriber.connect(hub.events)
        subscriber.subscribe(b"nothing/")
        assert not monitor.poll(1500)
        monitor.close(0)


def ask_again(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, request: bytes) -> list[bytes]:
    """Ask as the protocol says: with a new socket if no answer arrives within two seconds."""
    for _ in range(10):
        with context.socket(zmq.REQ) as client:
            client.linger = 0
            client.connect(endpoint)
            client.send(request)
            if client.poll(2000):
                return client.recv_multipart()
    raise AssertionError("no answer")


def test_unread_answers_are_bounded_in_all(hub: HubProcess) -> None:
    with EventProducer(hub.link, "filler") as link:
        for number in range(1500):
            link.post(prediction("old", number=number, model="m" * 250))
        wait_until(lambda: link.unacknowledged == 0, "confirmation", 90)
    requests = (frame(b"", flags=1) + frame(b'{"request":"replay"}')) * 12
    peers: list[socket.socket] = []
    with zmq.Context() as context, Witness(hub) as witness:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    peer = connect_as_peer(hub.replay, b"REQ")
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                    peers.append(peer)
                    peer.sendall(requests)
            for _ in range(5):
                assert len(ask_again(context, hub.replay, b'{"request":"replay","limit":1000}')) > 100
        finally:
            for peer in peers:
                peer.close()
    assert witness.peak_mb < GROWTH_MB


def test_slow_reader_of_a_replay_gets_its_answers_while_others_never_read(hub: HubProcess) -> None:
    with EventProducer(hub.link, "filler") as link:
        for number in range(1500):
            link.post(prediction("old", number=number, model="m" * 250))
        wait_until(lambda: link.unacknowledged == 0, "confirmation", 90)
    request = frame(b"", flags=1) + frame(b'{"request":"replay"}')
    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(connect_as_peer(hub.replay, b"REQ"))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        slow.sendall(request)
        received = len(slow.recv(4096))
        time.sleep(0.2)
        for _ in range(120):
            with contextlib.suppress(OSError):
                peer = stack.enter_context(connect_as_peer(hub.replay, b"REQ"))
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                peer.sendall(request)
            received += len(slow.recv(4096))
        slow.settimeout(10)
        while received < 500_000:
            data = slow.recv(65_536)
            assert data, f"disconnected after {received} bytes"
            received += len(data)


def test_connections_of_one_address_are_bounded(hub: HubProcess) -> None:
    peers: list[socket.socket] = []
    with Witness(hub) as witness:
        try:
            for _ in range(MAX_CONNECTIONS_PER_ADDRESS + 150):
                with contextlib.suppress(OSError):
                    peers.append(connect_as_peer(hub.events, b"SUB"))

            def open_peers() -> int:
                count = 0
                for peer in peers:
                    peer.settimeout(0.0)
                    try:
                        count += bool(peer.recv(65_536))
                    except BlockingIOError:
                        count += 1
                    except OSError:
                        pass
                return count

            wait_until(lambda: open_peers() <= MAX_CONNECTIONS_PER_ADDRESS, "the rest to be disconnected", 90)
            with subscribe(hub.events) as newcomer:
                assert newcomer.receive(20.0) is not None
        finally:
            for peer in peers:
                peer.close()
    assert witness.peak_mb < GROWTH_MB


def test_subscriber_with_many_topics_stays_while_others_take_all_topics(hub: HubProcess) -> None:
    """The streams of the good subscriber have no events yet, except one."""
    own = [f"{kind}/{stream}/" for kind in ("prediction", "status") for stream in ["good", *map(str, range(140))]]
    stop = threading.Event()

    def subscribe_and_stay(number: int) -> None:
        topics = b"".join(frame(b"\1preview/%d_%d/" % (number, each)) for each in range(58))
        while not stop.is_set():
            with contextlib.suppress(OSError), connect_as_peer(hub.events, b"SUB") as peer:
                peer.sendall(topics)
                peer.settimeout(0.3)
                while not stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        if not peer.recv(4096):
                            break
            stop.wait(0.05)

    with zmq.Context() as context, context.socket(zmq.SUB) as good, Witness(hub):
        good.linger = 0
        monitor = good.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        good.connect(hub.events)
        for topic in own:
            good.subscribe(topic)
        time.sleep(3.5)  # it receives events for longer than a connection counts as new
        attackers = [threading.Thread(target=subscribe_and_stay, args=(number,)) for number in range(26)]
        for thread in attackers:
            thread.start()
        assert not monitor.poll(4000), "the good subscriber was disconnected"
        stop.set()
        for thread in attackers:
            thread.join(60)
        monitor.close(0)


class Viewer:
    """Read previews at a limited rate from a raw socket; count them, and note the age of the newest."""

    def __init__(self, hub: HubProcess, bytes_per_s: float) -> None:
        self._socket = connect_as_peer(hub.events, b"SUB")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        self._socket.sendall(frame(b"\1preview/"))
        self._socket.settimeout(0.2)
        self._pause_s = 16_384 / bytes_per_s
        self.numbers: list[tuple[float, int]] = []
        self.is_closed = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(60)
        self._socket.close()

    def _run(self) -> None:
        data = b""
        while not self._stop.is_set():
            try:
                new = self._socket.recv(16_384)
            except TimeoutError:
                continue
            except OSError:
                new = b""
            if not new:
                self.is_closed = True
                return
            data = data[-64:] + new
            while (at := data.find(b"NUMBER:")) >= 0 and len(data) >= at + 17:
                self.numbers.append((time.monotonic(), int(data[at + 7 : at + 17])))
                data = data[at + 17 :]
            self._stop.wait(self._pause_s)


def test_slow_viewer_gets_new_pictures_and_others_are_not_slowed(hub: HubProcess) -> None:
    sent: dict[int, float] = {}
    stop = threading.Event()

    def post() -> None:
        with EventProducer(hub.link, "camera") as link:
            for number in itertools.count():
                if stop.wait(0.025):
                    return
                sent[number] = time.monotonic()
                link.post_preview("door", b"NUMBER:%010d" % number + bytes(75_000))

    posting = threading.Thread(target=post)
    with Witness(hub) as witness:
        slow = [Viewer(hub, 200_000) for _ in range(4)]
        posting.start()
        try:
            time.sleep(6)
            ages = [[at - sent[number] for at, number in viewer.numbers] for viewer in slow]
            assert not any(viewer.is_closed for viewer in slow)
            assert min(map(len, ages)) >= 5
            assert max(age for each in ages for age in each) < 6
            fast = Viewer(hub, 1e9)
            wait_until(lambda: len(fast.numbers) >= 20, "20 pictures for the fast one", 60)
            wait_until(lambda: all(viewer.is_closed for viewer in slow), "the slow ones to be disconnected", 90)
            fast.close()
            assert not fast.is_closed
        finally:
            stop.set()
            posting.join(60)
            for viewer in slow:
                viewer.close()
    assert witness.peak_mb < GROWTH_MB
