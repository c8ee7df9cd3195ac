"""Serve the page beside the demo, and open it in a browser where there is a screen."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import threading
import time
import webbrowser
from typing import Final

from streamclf.config.outlet_options import WebConfig
from streamclf.config.outlets import OutletsConfig

_START_S: Final = 30.0
_POLL_S: Final = 0.2
_LOOPBACK: Final = "127.0.0.1"


class DemoPage:
    """The page of the demo, on a free port of this machine only."""

    def __init__(self) -> None:
        self._port = _free_port()
        self.address = f"http://{_LOOPBACK}:{self._port}"

    @property
    def outlets(self) -> OutletsConfig:
        """The outlet that serves the page."""
        return OutletsConfig(web=WebConfig(host=_LOOPBACK, port=self._port))

    def open_when_ready(self, stop: threading.Event) -> None:
        """Open a browser once the page answers, in a thread of its own."""
        threading.Thread(target=self._open, args=(stop,), name="demo-browser", daemon=True).start()

    def _open(self, stop: threading.Event) -> None:
        end_s = time.monotonic() + _START_S
        while time.monotonic() < end_s and not stop.wait(_POLL_S):
            try:
                socket.create_connection((_LOOPBACK, self._port), timeout=_POLL_S).close()
            except OSError:
                continue
            webbrowser.open(self.address)
            return


def page_is_installed() -> bool:
    """Return whether the libraries of the page are installed."""
    return importlib.util.find_spec("nicegui") is not None


def has_screen() -> bool:
    """Return whether a browser can open a window here. Without a screen, it would take over the terminal."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])
