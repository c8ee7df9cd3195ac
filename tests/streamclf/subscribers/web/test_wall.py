"""A browser is replaced by a socket whose messages the test reads and writes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.websockets import WebSocketDisconnect

from streamclf.events.types import Prediction, Status, Window
from streamclf.subscribers.web import wall as wall_module
from streamclf.subscribers.web.service_view import LiveService
from streamclf.subscribers.web.wall import MAX_BROWSERS, MAX_BYTES_IN_FLIGHT, PictureWall

JPEG = b"\xff\xd8\xff"
COMMON: dict[str, Any] = {"epoch": "0" * 32, "offset": 1, "previous": 0, "time": datetime.now(timezone.utc)}


class FakeSocket:
    """Both ends of a WebSocket, without a network."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self.texts: list[dict[str, Any]] = []
        self.pictures: list[tuple[str, bytes]] = []
        self.closed: int | None = None

    async def accept(self) -> None:
        pass

    async def receive_text(self) -> str:
        text = await self.incoming.get()
        if text is None or self.closed:
            raise WebSocketDisconnect(1000)
        if isinstance(text, bytes):
            raise KeyError("text")  # as Starlette does
        return text

    async def send_text(self, text: str) -> None:
        self.texts.append(json.loads(text))

    async def send_bytes(self, data: bytes) -> None:
        end = 1 + data[0]
        self.pictures.append((data[1:end].decode(), data[end:]))

    async def close(self, code: int, reason: str) -> None:
        self.closed = code

    def say(self, **message: Any) -> None:
        self.incoming.put_nowait(json.dumps(message))


def make_service() -> LiveService:
    run: Any = SimpleNamespace(address=SimpleNamespace(endpoint="tcp://x"), report=SimpleNamespace())
    service = LiveService(run, None)
    for name in ("door", "gate"):
        service._apply(Status(stream=name, state="live", **COMMON))
    return service


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), 60)


def add_picture(service: LiveService, name: str, body: bytes) -> None:
    service._add_picture(name, JPEG + body)
    for wake in list(service._wakers.values()):
        wake()


@contextlib.asynccontextmanager
async def browser(wall: PictureWall) -> AsyncIterator[FakeSocket]:
    socket = FakeSocket()
    task = asyncio.ensure_future(wall.serve(socket))  # type: ignore[arg-type]
    yield socket
    socket.incoming.put_nowait(None)
    await asyncio.wait_for(task, 60)


def test_a_browser_that_confirms_gets_the_newest_pictures() -> None:
    async def run() -> None:
        service = make_service()
        async with browser(PictureWall(service)) as socket:
            socket.say(seen=["door"])
            await until(lambda: service.interest.choose(["door", "gate"], 1.0) == {"door"})
            for number in range(5):
                add_picture(service, "door", b"%d" % number)
                add_picture(service, "gate", b"unseen")
                await until(lambda number=number: len(socket.pictures) == number + 1)  # type: ignore[misc]
                socket.say(drawn=["door"])
            assert socket.pictures == [("door", JPEG + b"%d" % number) for number in range(5)]
        assert service.interest.choose(["door", "gate"], 2.0) == frozenset()

    asyncio.run(run())


def test_a_slow_browser_gets_few_and_new_pictures_and_the_others_are_counted() -> None:
    async def run() -> None:
        service = make_service()
        wall = PictureWall(service)
        async with browser(wall) as socket:
            socket.say(seen=["door"])
            await until(lambda: service.interest.is_watched)
            for number in range(20):
                add_picture(service, "door", b"%d" % number)
                await until(lambda number=number: len(socket.pictures) == min(2, number + 1))  # type: ignore[misc]
            assert [body for _, body in socket.pictures] == [JPEG + b"0", JPEG + b"1"]
            socket.say(drawn=["door"])
            await until(lambda: len(socket.pictures) == 3)
            assert socket.pictures[-1] == ("door", JPEG + b"19")
        assert wall.left_out == 17
        assert wall.browsers == 0

    asyncio.run(run())


def test_the_bytes_under_way_are_limited_over_all_streams() -> None:
    async def run() -> None:
        service = make_service()
        async with browser(PictureWall(service)) as socket:
            socket.say(seen=["door", "gate"])
            await until(lambda: service.interest.is_watched)
            add_picture(service, "door", bytes(MAX_BYTES_IN_FLIGHT - 10))
            await until(lambda: len(socket.pictures) == 1)
            add_picture(service, "gate", bytes(100))
            await until(lambda: len(socket.texts) == 1)
            assert len(socket.pictures) == 1
            socket.say(drawn=["door"])
            await until(lambda: len(socket.pictures) == 2)

    asyncio.run(run())


def test_a_browser_that_never_reads_gets_two_messages_and_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wall_module, "UNREAD_S", 0.5)
    monkeypatch.setattr(wall_module, "STATE_EVERY_S", 0.02)
    monkeypatch.setattr(wall_module, "_REFRESH_S", 0.02)

    async def run() -> None:
        service = make_service()
        async with browser(PictureWall(service)) as socket:
            await until(lambda: socket.closed is not None)
            assert socket.closed == 4408
            assert len(socket.texts) == 2

    asyncio.run(run())


def test_states_hold_the_texts_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wall_module, "STATE_EVERY_S", 0.02)
    label = "<script>alert('ü')</script>\n"

    async def run() -> None:
        service = make_service()
        async with browser(PictureWall(service)) as socket:
            await until(lambda: len(socket.texts) == 1)
            assert [each["stream"] for each in socket.texts[0]["states"]] == ["door", "gate"]
            socket.say(states=1)
            window = Window(start_s=0, end_s=1, frames=1)
            service._apply(Prediction(stream="gate", window=window, top=((label, 0.9),), model="m@1", **COMMON))
            await until(lambda: len(socket.texts) == 2)
            (state,) = socket.texts[1]["states"]
            assert state["stream"] == "gate"
            assert state["top"] == [[label, 0.9]]

    asyncio.run(run())


def test_there_is_a_limit_for_browsers() -> None:
    async def run() -> None:
        wall = PictureWall(make_service())
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(MAX_BROWSERS):
                await stack.enter_async_context(browser(wall))
            await until(lambda: wall.browsers == MAX_BROWSERS)
            async with browser(wall) as one_more:
                await until(lambda: one_more.closed is not None)
                assert one_more.closed == 4503
        assert wall.browsers == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        b"{}",
        '{"seen": ["<b>"]}',
        '{"seen": "door"}',
        json.dumps({"seen": ["a"] * 2000}),
        '{"states": -1}',
    ],
)
def test_a_message_that_the_page_does_not_send_ends_the_connection(text: str | bytes) -> None:
    async def run() -> None:
        async with browser(PictureWall(make_service())) as socket:
            socket.incoming.put_nowait(text)
            await until(lambda: socket.closed is not None)
            assert socket.closed == 1008

    asyncio.run(run())
