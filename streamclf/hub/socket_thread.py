"""A thread that answers on one socket until it is closed, and sleeps while nobody asks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

import zmq

_POLL_MS: Final = 60_000
"""A wait has an end; it is no one's who asks."""
_CLOSE_S: Final = 2.0


class SocketThread:
    """Owns the socket: closes it at the end, after `leave`."""

    def __init__(
        self,
        name: str,
        socket: zmq.Socket[bytes],
        answer: Callable[[], object],
        leave: Callable[[], object] = lambda: None,
    ) -> None:
        """`answer` takes one message and answers it; like `leave` it runs in the thread, called `name`."""
        self._socket, self._answer, self._leave = socket, answer, leave
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        os.close(self._stop)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._stopped, zmq.POLLIN)
        try:
            while self._stopped not in (ready := dict(poller.poll(_POLL_MS))):
                if self._socket in ready:
                    self._answer()
        finally:
            self._socket.close(0)
            self._leave()
            os.close(self._stopped)
