"""Run a thread that answers the messages on one socket, and sleeps while there are none."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

import zmq

_POLL_MS: Final = 60_000
"""Every wait in the project has a limit; this one only repeats the poll."""
_CLOSE_S: Final = 2.0


class SocketThread:
    """Call `answer` for each message on a socket, in a thread, until closed; the thread then closes the socket."""

    def __init__(
        self,
        name: str,
        socket: zmq.Socket[bytes],
        answer: Callable[[], object],
        clean_up: Callable[[], object] = lambda: None,
    ) -> None:
        """Start the thread, called `name`.

        `answer` reads one message and answers it; it returns True to be called again even if no message arrives.
        `clean_up` runs after the socket is closed. Both run in the thread.
        """
        self._socket, self._answer, self._clean_up = socket, answer, clean_up
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
            has_more = False
            while self._stopped not in (ready := dict(poller.poll(0 if has_more else _POLL_MS))):
                if has_more or self._socket in ready:
                    has_more = self._answer() is True
        finally:
            self._socket.close(0)
            self._clean_up()
            os.close(self._stopped)
