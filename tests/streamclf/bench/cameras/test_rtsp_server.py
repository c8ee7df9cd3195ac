"""The bench's RTSP cameras, read by the service's own client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from streamclf.bench.cameras.film import EncodedFilm
from streamclf.bench.cameras.rtsp_server import HOST, CameraServer
from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import open_source

MS = 1_000_000


@contextmanager
def serving(film: EncodedFilm, count: int) -> Iterator[tuple[CameraServer, str]]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = CameraServer(film, count)
    try:
        port = asyncio.run_coroutine_threadsafe(server.listen(), loop).result(10)
        loop.call_soon_threadsafe(server.answering.set)
        yield server, f"rtsp://{HOST}:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


def test_cameras_send_at_the_frame_rate_and_record_the_times(film: EncodedFilm) -> None:
    """Each frame is recorded before the client can have it, and frames are due one interval apart."""
    with serving(film, 2) as (server, url), open_source(StreamConfig(url=f"{url}/cam1")) as source:
        frames = [next(source) for _ in range(12)]
        sent = server.sent["cam1"][0]
        assert server.sent["cam0"] == []
    assert [round((frame.pts_ns - frames[0].pts_ns) / MS) for frame in frames] == [40 * i for i in range(12)]
    assert all(at_ns < frame.captured_ns for at_ns, frame in zip(sent.sent_ns, frames, strict=False))
    due_ns = [at_ns - late_ns for at_ns, late_ns in zip(sent.sent_ns, sent.late_ns, strict=True)]
    assert np.diff(due_ns) == pytest.approx(40 * MS, abs=1000)
    assert min(sent.late_ns) > -MS


def test_an_unknown_camera_and_udp_are_refused(film: EncodedFilm) -> None:
    with serving(film, 1) as (_, url):
        with pytest.raises(SourceError, match="404"):
            open_source(StreamConfig(url=f"{url}/cam1"))
        with pytest.raises(SourceError):
            open_source(StreamConfig(url=f"{url}/cam0", transport="udp"))
