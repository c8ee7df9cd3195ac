"""Windows are computed beside an event loop, and a cancelled wait loses none."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import streamclf
from engines.arrays import U8
from streamclf.errors import UsageError


def test_an_event_loop_gets_every_window_however_often_it_is_cancelled(model: streamclf.Model, clip: Path) -> None:
    async def run() -> list[streamclf.ClassifiedWindow]:
        got: list[streamclf.ClassifiedWindow] = []
        async with model.classify(clip) as windows:
            while True:
                waiting = asyncio.ensure_future(anext(windows))
                await asyncio.sleep(0)
                waiting.cancel()
                try:
                    got.append(await waiting)
                except StopAsyncIteration:
                    return got
                except asyncio.CancelledError:
                    await asyncio.sleep(0.001)

    assert asyncio.run(asyncio.wait_for(run(), 60)) == list(model.classify(clip))


def test_the_event_loop_runs_while_a_window_is_computed_and_the_model_is_closed(bundle: Path) -> None:
    computing, go_on = threading.Event(), threading.Event()

    def frames() -> Iterator[U8]:
        computing.set()
        go_on.wait(30)
        yield from np.zeros((40, 8, 8, 3), np.uint8)

    async def run() -> int:
        async with (
            streamclf.open_model(bundle, backend="onnxruntime", precision="fp32") as model,
            model.classify(frames(), fps=10) as windows,
        ):
            waiting = asyncio.create_task(anext(windows))
            while not computing.is_set():
                await asyncio.sleep(0.001)
            with pytest.raises(UsageError, match="another thread is computing the next window"):
                next(windows)
            with pytest.raises(UsageError, match="another task waits"):
                await anext(windows)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            go_on.set()
            return len([window async for window in windows])

    assert asyncio.run(asyncio.wait_for(run(), 60)) == 17


def test_leaving_the_block_waits_for_the_thread_and_frees_the_stream(model: streamclf.Model, clip: Path) -> None:
    async def run() -> None:
        for _ in range(5):  # the model has three streams
            async with model.classify(clip) as windows:
                waiting = asyncio.create_task(anext(windows))
                await asyncio.sleep(0)
                waiting.cancel()
            assert list(windows) == []

    asyncio.run(asyncio.wait_for(run(), 60))
