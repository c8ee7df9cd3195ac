"""Notifications to systemd."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from streamclf.supervisor.systemd import Notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_receives_each_notification(tmp_path: Path, abstract: bool) -> None:
    if abstract and sys.platform != "linux":
        pytest.skip("only Linux has abstract sockets")
    address = f"@streamclf-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + address[1:] if abstract else address)
        systemd.settimeout(10)
        environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
        notifier = Notifier(environ)
        assert environ == {"A": "b"}
        assert notifier.watchdog_s == 5.0
        notifier.ready("serving")
        assert systemd.recv(4096) == b"READY=1\nSTATUS=serving"
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        first, second = systemd.recv(4096).decode().splitlines()
        assert first == "RELOADING=1"
        assert int(second.removeprefix("MONOTONIC_USEC=")) >= before
        notifier.alive()
        notifier.still_starting(30)
        notifier.stopping()
        received = [systemd.recv(4096) for _ in range(3)]
        assert received == [b"WATCHDOG=1", b"EXTEND_TIMEOUT_USEC=30000000", b"STOPPING=1"]


def test_without_systemd_a_notification_does_nothing(tmp_path: Path) -> None:
    Notifier({}).ready("serving")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("serving")
    other = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"})
    assert other.watchdog_s is None
