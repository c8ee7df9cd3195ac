"""Iterate over the windows of a film while it is classified, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from types import TracebackType

from streamclf.api.window import ClassifiedWindow
from streamclf.errors import UsageError


class Classification:
    """The windows of a film or of frames, by `for` or `async for`; each is computed when it is asked for.

    Only a few windows are in memory at a time. A loop that ends early leaves the film open until `close`, or the end of
    a `with` or `async with` block. With `async for` another thread computes, so the event loop goes on; a wait may be
    cancelled, and the next one continues. One thread or task at a time may iterate. Made by `streamclf.classify`.
    """

    def __init__(self, windows: Generator[ClassifiedWindow, None, None]) -> None:
        self._windows = windows
        self._busy = threading.Lock()
        self._next: asyncio.Future[ClassifiedWindow | None] | None = None
        self._awaited = False

    def __iter__(self) -> Classification:
        return self

    def __next__(self) -> ClassifiedWindow:
        self._begin_use()
        try:
            return next(self._windows)
        finally:
            self._busy.release()

    def __aiter__(self) -> Classification:
        return self

    async def __anext__(self) -> ClassifiedWindow:
        if self._awaited:
            raise UsageError("another task waits for the next window; let one task iterate")
        if self._next is None:
            self._next = asyncio.get_running_loop().run_in_executor(None, next, self, None)
        self._awaited = True
        try:
            if not self._next.done():
                await asyncio.wait([self._next])  # which does not cancel it
        finally:
            self._awaited = False
        found, self._next = self._next, None
        window = found.result()
        if window is None:
            raise StopAsyncIteration
        return window

    def __enter__(self) -> Classification:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Classification:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._next is not None:
            await asyncio.wait([self._next])
            if not self._next.cancelled():
                self._next.exception()  # the caller no longer asks for it
            self._next = None
        self.close()

    def close(self) -> None:
        """Close the film; the iteration ends. Raises `UsageError` while another thread computes a window."""
        self._begin_use()
        try:
            self._windows.close()
        finally:
            self._busy.release()

    def _begin_use(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise UsageError("another thread is computing the next window; let one thread iterate")
