"""The choice between exact and fast decoding while a stream is read."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.clips import write_clip

from streamclf.capture.decode_choice import INTERVAL_NS, DecodeChoice
from streamclf.capture.process import Capture
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.stream import StreamConfig
from streamclf.runtime.capture_job import CaptureChange, CaptureJob, ViewJob
from streamclf.runtime.control_channel import ControlMessage
from streamclf.runtime.plain_messages import encode_message
from streamclf.sources import Frame, SourceInfo
from streamclf.sources.decoding import EXACT, WantedDecoding
from streamclf.windows.ring import RingReader, create_ring

DEADLINE_S = 60.0


@dataclass
class FakeSource:
    """A source of one codec that records how it is to decode."""

    codec: str = "h264"
    wanted: list[WantedDecoding] = field(default_factory=list)

    @property
    def info(self) -> SourceInfo:
        return SourceInfo(codec=self.codec, width=1280, height=720, fps=25)

    def set_decoding(self, wanted: WantedDecoding) -> None:
        self.wanted.append(wanted)


def view(height: int = 144, width: int = 192, area: PictureArea = WHOLE) -> Any:
    return SimpleNamespace(job=SimpleNamespace(height=height, width=width, resize="stretch", area=area))


def frame(number: int, width: int = 1280, height: int = 720) -> Frame:
    return Frame(
        index=number,
        pts_ns=0,
        captured_ns=number * INTERVAL_NS,
        width=width,
        height=height,
        image=object(),
        render=lambda *_: None,
    )


def chosen(
    *views: Any, mode: Any = "auto", codec: str = "h264", watched: bool = False, size: tuple[int, int] = (1280, 720)
) -> WantedDecoding:
    """Return how a source is to decode after its first frame."""
    source: Any = FakeSource(codec)
    choice = DecodeChoice(mode, "door", WHOLE, views, lambda: watched)
    choice.connect(source)
    choice.update(frame(1, *size), source)
    return source.wanted[-1]


def test_auto_follows_the_view_that_shrinks_the_picture_least() -> None:
    assert chosen(view()) == WantedDecoding("fast", 5.0)
    assert chosen(view(), view(360, 640)) == WantedDecoding("fast", 2.0)
    assert chosen(view(), view(400, 400)) == EXACT
    assert chosen(view(), size=(320, 240)) == EXACT
    assert chosen(view(), view(area=PictureArea(region=(0.4, 0.4, 0.6, 0.6)))) == EXACT, "a region is shrunk less"
    assert chosen() == EXACT, "without a view, nothing is known"


def test_a_region_that_shows_nothing_does_not_count() -> None:
    tiny = view(area=PictureArea(region=(0.5, 0.5, 0.505, 0.505)))
    assert chosen(view(), tiny) == WantedDecoding("fast", 1.0), "with a region, the decoder itself shrinks nothing"


def test_a_preview_larger_than_the_models_pictures_needs_exact_pictures() -> None:
    assert chosen(view(), watched=True) == EXACT
    assert chosen(view(360, 640), watched=True) == WantedDecoding("fast", 2.0), "the preview has 640x360, too"
    assert chosen(view(), watched=True, mode="fast") == WantedDecoding("fast", 1.0), "not shrunk by the decoder"


def test_a_choice_is_made_anew_when_somebody_watches_and_when_the_mode_changes() -> None:
    watched = False
    source: Any = FakeSource()
    choice = DecodeChoice("auto", "door", WHOLE, [view()], lambda: watched)
    choice.connect(source)
    for number in range(1, 7):
        watched = number in (3, 4)
        if number == 6:
            choice.mode = "exact"
        choice.update(frame(number), source)
    assert [wanted.decoding for wanted in source.wanted] == ["exact", "fast", "exact", "fast", "exact"]


def test_a_new_connection_begins_with_the_last_choice() -> None:
    source: Any = FakeSource()
    choice = DecodeChoice("auto", "door", WHOLE, [view()], lambda: False)
    choice.connect(source)
    choice.update(frame(1), source)
    again: Any = FakeSource()
    choice.connect(again)
    assert again.wanted == [WantedDecoding("fast", 5.0)]
    choice.mode = "exact"
    choice.connect(again)
    assert again.wanted[-1] == EXACT


def test_a_codec_that_is_always_decoded_exactly_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source: Any = FakeSource("vp9")
    for mode, lines in (("auto", 0), ("fast", 1)):
        choice = DecodeChoice(mode, "door", WHOLE, [view()], lambda: False)  # type: ignore[arg-type]
        choice.connect(source)
        for number in range(1, 4):
            choice.update(frame(number), source)
        assert sum("vp9 is always decoded exactly" in line for line in caplog.messages) == lines


class Producer:
    """A producer that records statuses, and says whether somebody watches."""

    def __init__(self) -> None:
        self.watched = False
        self.statuses: list[dict[str, Any]] = []
        self.previews = 0

    def post(self, draft: Any) -> None:
        self.statuses.append(draft.body)

    def preview_wanted(self, stream: str) -> bool:
        return self.watched

    def post_preview(self, stream: str, jpeg: bytes) -> None:
        self.previews += 1

    def wait_for(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline, [each.get("decode") for each in self.statuses]
            time.sleep(0.01)

    def wait_decoding(self, how: str) -> None:
        self.wait_for(lambda: bool(self.statuses) and self.statuses[-1].get("decode") == how)


class Changes:
    """Changes for a capture in this process."""

    def __init__(self) -> None:
        self._waiting: deque[ControlMessage] = deque()

    def send(self, change: CaptureChange) -> None:
        self._waiting.append(ControlMessage(encode_message(change), ()))

    @property
    def has_changes(self) -> bool:
        return bool(self._waiting)

    def pop_changes(self) -> list[ControlMessage]:
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


def test_a_stream_switches_without_a_gap_and_says_so(tmp_path: Path) -> None:
    """A viewer comes and leaves, and the configuration changes, while chunk follows chunk."""
    path = write_clip(tmp_path / "film.mp4", frames=150, fps=50, gop=10)
    ring_fd = create_ring(2000, (2, 90, 160, 3))
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    job = CaptureJob(
        link="ipc:///nonexistent/hub",
        stream="door",
        source=StreamConfig(url=str(path), loop=True).settings,
        views=(
            ViewJob(
                view="door",
                fps=50,
                frames_per_chunk=2,
                height=90,
                width=160,
                resize="stretch",
                ring_fd=ring_fd,
                wake_fd=wake_write,
            ),
        ),
    )
    producer, changes, stop, reader = Producer(), Changes(), threading.Event(), RingReader(ring_fd)
    thread = threading.Thread(target=lambda: Capture(job, producer, stop, changes=changes).run(), daemon=True)
    thread.start()
    try:
        producer.wait_decoding("fast")
        producer.watched = True
        producer.wait_decoding("exact")
        producer.wait_for(lambda: producer.previews > 0)
        producer.watched = False
        producer.wait_decoding("fast")
        changes.send(CaptureChange(decode="exact"))
        producer.wait_decoding("exact")
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    out = np.empty(reader.chunk_shape, np.uint8)
    metas = [reader.read(number, out) for number in range(reader.head)]
    assert all(meta and not meta.corrupt for meta in metas)
    expected = [(number // 75 + 1, number % 75) for number in range(reader.head)]  # the film begins again
    assert [(meta.segment, meta.index) for meta in metas if meta] == expected, "no chunk is missing"
    ways = ["fast" if meta and meta.fast else "exact" for meta in metas]
    assert [way for way, _ in groupby(ways)] == ["exact", "fast", "exact", "fast", "exact"]
    for fd in (ring_fd, wake_read, wake_write):
        os.close(fd)
