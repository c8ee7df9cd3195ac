"""Who watches the door: woken by processor time where the system counts it, at intervals where it does not."""

from __future__ import annotations

import select
import socket as sockets
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import zmq
from support.strangers import join

from streamclf.hub.guard import flood as bouncer_module
from streamclf.hub.guard.cpu_timer import CpuAlarm
from streamclf.hub.guard.flood import FloodGuard
from streamclf.hub.guard.peers import hang_up

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what a connection has brought")


@pytest.fixture
def socket() -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.linger = 0
        socket.bind("tcp://127.0.0.1:*")
        yield socket


def in_a_thread(work: threading.Thread) -> None:
    work.start()
    work.join(60)
    assert not work.is_alive()


def test_rings_when_so_much_was_used_and_again_after_as_much() -> None:
    rung: list[bool] = []

    def wait() -> None:
        alarm = CpuAlarm(0.005)
        poll = select.poll()
        poll.register(alarm, select.POLLIN)
        used_s = time.process_time()
        for _ in range(3):
            end = time.monotonic() + 30
            while not poll.poll(0) and time.monotonic() < end:
                pass
            rung.append(alarm.take())
        assert time.process_time() - used_s >= 0.015
        alarm.close()

    in_a_thread(threading.Thread(target=wait))
    assert rung == [True, True, True]


def test_does_not_ring_before() -> None:
    rung: list[bool] = []

    def wait() -> None:
        alarm = CpuAlarm(1000.0)
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        rung.append(alarm.take())
        alarm.close()

    in_a_thread(threading.Thread(target=wait))
    assert rung == [False]


def _no_alarm(every_s: float) -> CpuAlarm:
    raise OSError("no such timer")


@pytest.mark.parametrize("has_alarm", [True, False])
def test_shows_out_who_came_last_when_too_few_descriptors_are_left(
    socket: zmq.Socket[bytes], has_alarm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [100, 16]

    def hang_up_and_have_room(fd: int) -> None:
        hang_up(fd)
        left[0] = 100

    monkeypatch.setattr(bouncer_module, "_descriptors", lambda: tuple(left))
    monkeypatch.setattr(bouncer_module, "hang_up", hang_up_and_have_room)
    if not has_alarm:
        monkeypatch.setattr(bouncer_module, "CpuAlarm", _no_alarm)
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    with join(endpoint, b"SUB") as stays:
        stays.settimeout(0.0)
        bouncer = FloodGuard.at(endpoint)
        assert bouncer is not None
        try:
            with join(endpoint, b"SUB") as last:
                left[0] = 15
                last.settimeout(0.0)
                assert _ends(last)
            assert not _has_ended(stays)
            with join(endpoint, b"SUB"):  # let in again
                assert not _has_ended(stays)
        finally:
            bouncer.close()


def _ends(peer: sockets.socket) -> bool:
    """Within 30 s, in which this waits with work: of that the alarm knows that it is time for a look."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if _has_ended(peer):
            return True
    return False


def _has_ended(peer: sockets.socket) -> bool:
    try:
        while data := peer.recv(4096):
            del data
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_ends_when_told_though_nothing_happens(socket: zmq.Socket[bytes]) -> None:
    bouncer = FloodGuard.at(socket.getsockopt_string(zmq.LAST_ENDPOINT))
    assert bouncer is not None
    bouncer.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "bouncer"]
