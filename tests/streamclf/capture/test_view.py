"""Several views of one stream: the same chunks as alone, and changes while the stream is read."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.clips import write_clip
from support.hub_process import wait_until

from engines.arrays import U8
from streamclf.capture.process import Capture
from streamclf.config.picture_area import PictureArea
from streamclf.config.stream import StreamConfig
from streamclf.events.drafts import Draft
from streamclf.runtime.capture_job import CaptureChange, CaptureJob, ViewJob
from streamclf.runtime.child import EXIT_ENDED
from streamclf.runtime.control_channel import ControlMessage
from streamclf.runtime.plain_messages import encode_message
from streamclf.windows.ring import RingReader, create_ring
from streamclf.windows.ring_progress import ProgressReporter
from streamclf.windows.sampling import ChunkMeta

DEADLINE_S = 60.0


class Producer:
    """Keep the last status."""

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}

    def post(self, draft: Draft) -> None:
        self.last = dict(draft.body)

    def preview_wanted(self, stream: str) -> bool:
        return False

    def post_preview(self, stream: str, jpeg: bytes) -> None:
        raise AssertionError


class Changes:
    """Changes as they arrive from the supervisor, with copies of their descriptors."""

    def __init__(self) -> None:
        self._waiting: deque[ControlMessage] = deque()

    def send(self, change: CaptureChange, fds: tuple[int, ...] = ()) -> None:
        body = encode_message(replace(change, descriptors=len(fds)))
        self._waiting.append(ControlMessage(body, tuple(os.dup(fd) for fd in fds)))

    @property
    def has_changes(self) -> bool:
        return bool(self._waiting)

    def pop_changes(self) -> list[ControlMessage]:
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


@dataclass
class RingOfView:
    """The reader's side of one view, with its job."""

    job: ViewJob
    reader: RingReader
    wake_read: int
    progress_write: int | None

    @property
    def chunks(self) -> list[tuple[ChunkMeta, U8]]:
        found = []
        for number in range(self.reader.oldest, self.reader.head):
            out = np.empty(self.reader.chunk_shape, np.uint8)
            meta = self.reader.read(number, out)
            assert meta is not None
            found.append((meta, out))
        return found

    @property
    def fds(self) -> tuple[int, ...]:
        return tuple(fd for fd in (self.job.ring_fd, self.job.wake_fd, self.job.progress_fd) if fd is not None)


@contextmanager
def make_view(
    view: str, *, fps: float, t: int, size: int, slots: int = 64, waits: bool = False, area: PictureArea | None = None
) -> Iterator[RingOfView]:
    ring, wake = create_ring(slots, (t, size, size, 3)), os.pipe()
    progress = os.pipe() if waits else None
    for fd in (*wake, *(progress or ())):
        os.set_blocking(fd, False)
    job = ViewJob(
        view=view,
        area=area or PictureArea(),
        fps=fps,
        frames_per_chunk=t,
        height=size,
        width=size,
        resize="stretch",
        ring_fd=ring,
        wake_fd=wake[1],
        progress_fd=progress[0] if progress else None,
    )
    made = RingOfView(job, RingReader(ring), wake[0], progress[1] if progress else None)
    try:
        yield made
    finally:
        made.reader.close()
        for fd in (ring, *wake, *(progress or ())):
            os.close(fd)


def job_of(source: StreamConfig, *views: RingOfView) -> CaptureJob:
    # Capture closes the descriptors of a view that it removes, so it gets copies.
    jobs = []
    for view in views:
        names = ("ring_fd", "wake_fd", "progress_fd")
        fds = {name: None if (fd := getattr(view.job, name)) is None else os.dup(fd) for name in names}
        jobs.append(replace(view.job, **fds))
    return CaptureJob(link="ipc:///nonexistent/hub", stream="door", source=source.settings, views=tuple(jobs))


@contextmanager
def running(job: CaptureJob, producer: Producer, changes: Changes) -> Iterator[threading.Thread]:
    stop, failures = threading.Event(), []

    def run() -> None:
        try:
            Capture(job, producer, stop, changes=changes).run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert not failures, failures


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 frames at 25 per second, with frames that a slow model does not need and a decoder may skip."""
    options = {"preset": "ultrafast", "bf": "2", "x264-params": "b-pyramid=none:b-adapt=0:threads=1"}
    return write_clip(tmp_path_factory.mktemp("film") / "film.mp4", frames=100, gop=30, options=options)


GEOMETRIES = ({"fps": 3.0, "t": 2, "size": 32}, {"fps": 10.0, "t": 1, "size": 48}, {"fps": 7.5, "t": 3, "size": 16})


def test_several_views_get_the_chunks_that_each_gets_alone(film: Path) -> None:
    """The views share the decoded frames: those that one view needs must not change the chunks of another."""
    source = StreamConfig(url=str(film), pace="fast")
    alone, skipped = [], []
    for geometry in GEOMETRIES:
        with make_view("a", **geometry) as view:  # type: ignore[arg-type]
            producer = Producer()
            assert Capture(job_of(source, view), producer, threading.Event()).run() == EXIT_ENDED
            alone.append(view.chunks)
            skipped.append(producer.last["counters"]["skipped"])
    assert skipped[0] > 20
    with (
        make_view("a", **GEOMETRIES[0]) as first,  # type: ignore[arg-type]
        make_view("b", **GEOMETRIES[1]) as second,  # type: ignore[arg-type]
        make_view("c", **GEOMETRIES[2]) as third,  # type: ignore[arg-type]
    ):
        producer = Producer()
        assert Capture(job_of(source, first, second, third), producer, threading.Event()).run() == EXIT_ENDED
        for view, expected in zip((first, second, third), alone, strict=True):
            assert len(view.chunks) == len(expected) >= 5
            for (meta, pixels), (expected_meta, expected_pixels) in zip(view.chunks, expected, strict=True):
                assert (meta.segment, meta.index, meta.start_pts_ns) == (
                    expected_meta.segment,
                    expected_meta.index,
                    expected_meta.start_pts_ns,
                )
                np.testing.assert_array_equal(pixels, expected_pixels)
    counters = producer.last["counters"]
    assert counters["frames"] == 100
    assert counters["chunks"] == sum(len(chunks) for chunks in alone)


def test_views_come_and_go_while_the_others_continue(film: Path) -> None:
    source = StreamConfig(url=str(film), pace="realtime", loop=True)
    producer, changes = Producer(), Changes()
    left, right = PictureArea(region=(0, 0, 0.5, 1)), PictureArea(region=(0.5, 0, 1, 1))
    with (
        make_view("stays", fps=10, t=1, size=16) as stays,
        make_view("comes", fps=5, t=1, size=24, area=left) as comes,
        running(job_of(source, stays), producer, changes) as thread,
    ):
        wait_until(lambda: stays.reader.head > 2, "the first chunks")
        changes.send(CaptureChange(add=comes.job), comes.fds)
        wait_until(lambda: comes.reader.head > 1, "chunks of the new view")
        changes.send(CaptureChange(update={"comes": right, "unknown": right}))
        wait_until(lambda: comes.chunks[-1][0].segment == 2, "the segment of the new area")
        with_both = producer.last["counters"].get("chunks", 0)
        changes.send(CaptureChange(remove="comes"))
        wait_until(lambda: not changes.has_changes, "the removal")
        after, kept = comes.reader.head, stays.reader.head
        wait_until(lambda: stays.reader.head > kept + 3, "further chunks")
        assert comes.reader.head <= after + 1
        assert thread.is_alive()
        metas = [meta for meta, _ in stays.chunks]
        assert [(meta.segment, meta.index) for meta in metas] == [(1, i) for i in range(len(metas))]
    assert producer.last["counters"]["chunks"] >= with_both  # counters never decrease


def test_a_fast_file_waits_for_every_view_until_a_view_is_removed(film: Path) -> None:
    source = StreamConfig(url=str(film), pace="fast")
    producer, changes = Producer(), Changes()
    with (
        make_view("reads", fps=25, t=1, size=16, waits=True, slots=8) as reads,
        make_view("stops", fps=25, t=1, size=16, waits=True, slots=8) as stops,
        running(job_of(source, reads, stops), producer, changes) as thread,
    ):
        assert reads.progress_write is not None
        progress = ProgressReporter(reads.progress_write)
        wait_until(lambda: stops.reader.head == 7, "a full ring")
        progress.read_up_to(100)
        assert stops.reader.head == 7
        assert reads.reader.head <= 9
        changes.send(CaptureChange(remove="stops"))
        assert stops.progress_write is not None
        os.dup2(os.open(os.devnull, os.O_RDWR), stops.progress_write)  # the last write end is closed
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
        assert reads.reader.head == 100
    assert producer.last["finished"] is True
