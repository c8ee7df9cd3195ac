"""Send pictures and states to browsers, over one WebSocket for each of them.

A browser confirms each picture after it has drawn it. At most two pictures of a stream are under way to it, so a slow
browser gets few and new pictures. A browser that never reads costs a bounded amount of memory, and is disconnected.

The messages are private to the page's own script (docs/adr/0023-the-page.md). Text frames hold JSON, binary frames one
picture: a byte with the length of the stream's name, the name, and a JPEG.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection
from typing import Annotated, Final

import orjson
from fastapi import WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamclf.events.types import MAX_LISTED_STREAMS, StreamName
from streamclf.subscribers.web.service_view import LiveService
from streamclf.subscribers.web.summaries import service_summary, summarize

MAX_BROWSERS: Final = 64
"""WebSockets at the same time."""
MAX_IN_FLIGHT: Final = 2
"""Pictures of one stream that a browser has not confirmed."""
MAX_BYTES_IN_FLIGHT: Final = 1 << 20
"""Pictures of all streams that a browser has not confirmed."""
STATE_EVERY_S: Final = 0.25
"""Changes of states are collected for this time."""
MAX_STATES_IN_FLIGHT: Final = 2
UNREAD_S: Final = 30.0
"""A browser that confirms nothing for this long, with messages under way, is disconnected."""
_REFRESH_S: Final = 1.0
"""Rates fall without any event, so all states are sent again after this time."""
_CLOSE_FULL: Final = 4503
_CLOSE_UNREAD: Final = 4408

_Names = Annotated[tuple[StreamName, ...], Field(max_length=MAX_LISTED_STREAMS)]


class _FromBrowser(BaseModel):
    """A message of the browser: the streams in sight, those out of sight, and what it has handled."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    seen: _Names | None = None
    stills: _Names = ()
    drawn: Annotated[tuple[StreamName, ...], Field(max_length=MAX_IN_FLIGHT * MAX_LISTED_STREAMS)] = ()
    states: Annotated[int, Field(ge=0, le=MAX_STATES_IN_FLIGHT)] = 0
    """Number of messages with states that it has handled."""


class _StateCache:
    """The states of the streams in JSON, which all browsers share for a moment: 64 of them may see 400 streams."""

    def __init__(self, service: LiveService) -> None:
        self._service = service
        self._parts: dict[str, tuple[float, int, bytes]] = {}

    def join(self, names: Collection[str], now_s: float) -> bytes:
        """Return the message with the service's state and those of the streams in `names`."""
        if len(self._parts) > 2 * MAX_LISTED_STREAMS:
            self._parts.clear()
        parts = [part for name in names if (part := self._part(name, now_s))]
        return b'{"service":' + self._part("", now_s) + b',"states":[' + b",".join(parts) + b"]}"

    def _part(self, name: str, now_s: float) -> bytes:
        """Return the JSON of one stream, empty for one that is gone; that of the service for the name ""."""
        cached, change = self._parts.get(name), self._service.change_of(name)
        if cached is not None and now_s - cached[0] < STATE_EVERY_S / 2 and cached[1] == change:
            return cached[2]
        found = summarize(self._service, name) if name else service_summary(self._service)
        part = b"" if found is None else orjson.dumps(found, option=orjson.OPT_UTC_Z)
        self._parts[name] = now_s, change, part
        return part


class PictureWall:
    """The WebSockets of all browsers."""

    def __init__(self, service: LiveService) -> None:
        self._service = service
        self._browsers: set[_Browser] = set()
        self._states = _StateCache(service)
        self._left = 0

    @property
    def browsers(self) -> int:
        """The number of connected browsers."""
        return len(self._browsers)

    @property
    def left_out(self) -> int:
        """Pictures that a browser in sight of them did not get, because it was slow or a newer one came first."""
        return self._left + sum(each.left_out for each in self._browsers)

    async def serve(self, socket: WebSocket) -> None:
        """Serve one browser until it leaves."""
        await socket.accept()
        if len(self._browsers) >= MAX_BROWSERS:
            await socket.close(_CLOSE_FULL, f"{MAX_BROWSERS} browsers are connected, the limit; close one of them")
            return
        browser = _Browser(socket, self._service, self._states)
        self._browsers.add(browser)
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(browser.changed.set)

        remove_waker = self._service.add_waker(wake)
        try:
            await browser.run()
        finally:
            remove_waker()
            self._service.interest.remove(browser)
            self._browsers.discard(browser)
            self._left += browser.left_out


class _Browser:
    """One browser: what it sees, and what is under way to it."""

    def __init__(self, socket: WebSocket, service: LiveService, states: _StateCache) -> None:
        self._socket, self._service, self._states = socket, service, states
        self.changed = asyncio.Event()
        self.left_out = 0
        self._seen: tuple[str, ...] = ()
        self._stills: tuple[str, ...] = ()
        self._in_flight: dict[str, list[int]] = {}
        """By stream, the sizes of the pictures that are not confirmed."""
        self._sent: dict[str, int] = {}
        """By stream, the number of the last picture that was sent."""
        self._states_in_flight = 0
        self._states_s = self._refresh_s = -1e9
        self._confirmed_s = time.monotonic()
        self._change = -1
        self._names: list[str] = []
        self._has_ended = False

    async def run(self) -> None:
        """Read and write until the browser leaves, or does not read any more."""
        tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._write())]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self._has_ended = True  # before Python 3.12, `wait_for` may ignore that its task is cancelled
        self.changed.set()
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            if (error := task.exception()) and not isinstance(error, WebSocketDisconnect | RuntimeError | OSError):
                raise error

    async def _read(self) -> None:
        while True:
            try:
                message = _FromBrowser.model_validate_json(await self._socket.receive_text())
            except (ValidationError, KeyError):  # KeyError: a binary message
                await self._close(1008, "not a message of this page")
                return
            self._confirmed_s = time.monotonic()
            self._states_in_flight -= min(message.states, self._states_in_flight)
            for name in message.drawn:
                if sizes := self._in_flight.get(name):
                    sizes.pop(0)
            if message.seen is not None:
                self._seen, self._stills = message.seen, message.stills
                self._service.interest.set(self, seen=self._seen, stills=self._stills)
            self.changed.set()

    async def _write(self) -> None:
        while not self._has_ended:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.changed.wait(), STATE_EVERY_S)
            self.changed.clear()
            now_s = time.monotonic()
            is_owed = self._states_in_flight or any(self._in_flight.values())
            if not is_owed:
                self._confirmed_s = now_s
            elif now_s - self._confirmed_s > UNREAD_S:
                await self._close(_CLOSE_UNREAD, "nothing was confirmed")
                return
            if now_s - self._states_s >= STATE_EVERY_S and self._states_in_flight < MAX_STATES_IN_FLIGHT:
                await self._send_states(now_s)
            await self._send_pictures()

    async def _send_states(self, now_s: float) -> None:
        names = self._service.names()
        change, changed = self._service.changes_since(self._change)
        is_refresh = now_s - self._refresh_s >= _REFRESH_S
        if not changed and names == self._names and not is_refresh:
            return
        wanted = names if is_refresh or names != self._names else [name for name in names if name in set(changed)]
        self._change, self._names, self._states_s = change, names, now_s
        if is_refresh:
            self._refresh_s = now_s
        self._states_in_flight += 1
        await self._socket.send_text(self._states.join(wanted, now_s).decode())

    async def _send_pictures(self) -> None:
        """Send the newest picture of each stream that has one to spare; those that waited longest first."""
        for name in sorted({*self._seen, *self._stills}, key=lambda name: self._sent.get(name, 0)):
            picture = self._service.picture(name)
            if picture is None or picture.number == (last := self._sent.get(name, 0)):
                continue
            sizes = self._in_flight.setdefault(name, [])
            under_way = sum(map(sum, self._in_flight.values()))
            if len(sizes) >= MAX_IN_FLIGHT or (under_way and under_way + len(picture.jpeg) > MAX_BYTES_IN_FLIGHT):
                continue
            if last and name in self._seen:
                self.left_out += max(0, picture.number - last - 1)
            self._sent[name] = picture.number
            sizes.append(len(picture.jpeg))
            key = name.encode()
            await self._socket.send_bytes(bytes([len(key)]) + key + picture.jpeg)

    async def _close(self, code: int, reason: str) -> None:
        with contextlib.suppress(RuntimeError):
            await self._socket.close(code, reason)
