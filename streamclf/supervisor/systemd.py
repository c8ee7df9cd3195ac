"""Report the service's state to systemd, one datagram to the socket that it names (sd_notify(3)); silent elsewhere."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

MAX_STATUS_CHARS = 200


class Notifier:
    """Send notifications to systemd. It removes systemd's variables from `environ`, so that no child sends any."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = environ.pop("WATCHDOG_USEC", "")
        watchdog_pid = environ.pop("WATCHDOG_PID", str(os.getpid()))
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s: float | None = None
        """Systemd kills a service that sends nothing for longer than this, in seconds; None if it does not watch."""
        if self._address and watchdog_us.isdigit() and watchdog_pid == str(os.getpid()):
            self.watchdog_s = int(watchdog_us) / 1e6

    def ready(self, status: str) -> None:
        """Report that the service is ready, at the start or after a reload."""
        self._send("READY=1", f"STATUS={status[:MAX_STATUS_CHARS]}")

    def reloading(self) -> None:
        """Report that a new configuration is being applied; `ready` ends that."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the service is about to end."""
        self._send("STOPPING=1")

    def still_starting(self, seconds: float) -> None:
        """Ask for `seconds` more until the service is ready, counted from now: an engine is being built."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def alive(self) -> None:
        """Report that the shared processes are alive, if systemd's watchdog is on."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # If systemd does not receive it, the service continues.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto("\n".join(lines).encode(), self._address)
