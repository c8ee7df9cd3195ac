"""Wait in an event loop until a ZeroMQ socket has a message, without a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import zmq

from streamclf.errors import UsageError
from streamclf.net.zeromq import is_readable


class SocketWait:
    """The wait of one task at a time; it ends early when `cancel` is called, or the task is cancelled.

    ZeroMQ makes a socket's descriptor readable only once for several messages. So `wait` asks each socket first.
    """

    def __init__(self) -> None:
        self._done: asyncio.Future[None] | None = None
        self._descriptors: list[int] = []

    async def wait(self, sockets: Sequence[zmq.Socket[bytes]], timeout_s: float) -> None:
        """Return when one of `sockets` may have a message, or after `timeout_s`. Lets other tasks run at least once.

        Raises `UsageError` if another task waits.
        """
        if self._done is not None:
            raise UsageError("another task waits for events of this subscription; give each task its own")
        if any(is_readable(socket) for socket in sockets):
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        for socket in sockets:
            descriptor = int(socket.getsockopt(zmq.FD))
            loop.add_reader(descriptor, self._finish)
            self._descriptors.append(descriptor)
        timer = loop.call_later(timeout_s, self._finish)
        try:
            await self._done
        finally:
            timer.cancel()
            self.cancel()

    def cancel(self) -> None:
        """End the wait, if there is one, before its sockets are closed.

        Raises `UsageError` in another thread than that of the event loop.
        """
        if self._done is None:
            return
        loop = self._done.get_loop()
        if loop.is_running() and asyncio._get_running_loop() is not loop:
            raise UsageError("a task waits for events: close the subscription in that task's event loop")
        if not loop.is_closed():
            for descriptor in self._descriptors:
                loop.remove_reader(descriptor)
            self._finish()
        self._descriptors.clear()
        self._done = None

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)
