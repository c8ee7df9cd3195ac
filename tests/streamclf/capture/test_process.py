"""Capture as a whole: frames into the ring and statuses to the link, in one process and as the real child."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.clips import film, read_number, write_clip
from support.rtsp_server import RtspServer, Traits

from engines.arrays import U8
from streamclf.capture.process import Capture
from streamclf.config.service import StreamConfig
from streamclf.errors import RingError, SourceError
from streamclf.events.drafts import Draft
from streamclf.runtime.child import EXIT_DONE, EXIT_ENDED, EXIT_FAILED
from streamclf.runtime.jobs import CaptureJob
from streamclf.windows.ring import RingReader, create_ring
from streamclf.windows.sampling import ChunkMeta

DEADLINE_S = 30.0
FILM = film(frames=100)
LARGE = film(frames=50, width=640, height=360, first=1000)


class FakeLink:
    """Holds what was posted; a test waits for what it expects."""

    def __init__(self, *, watched: bool = False) -> None:
        self.posted: list[Draft] = []
        self.previews: list[bytes] = []
        self._watched = watched
        self._changed = threading.Condition()

    def post(self, draft: Draft) -> None:
        with self._changed:
            self.posted.append(draft)
            self._changed.notify_all()

    def preview_wanted(self, stream: str) -> bool:
        return self._watched

    def post_preview(self, stream: str, jpeg: bytes) -> None:
        self.previews.append(jpeg)

    def wait_for(self, state: str, after: int = 0, reason: str = "") -> int:
        """The number of statuses up to the first one with this state and reason, not counting the first `after`."""

        def found() -> int | None:
            for i, body in enumerate(self.bodies[after:], after + 1):
                if body["state"] == state and reason in (body["reason"] or ""):
                    return i
            return None

        with self._changed:
            number = self._changed.wait_for(found, DEADLINE_S)
            assert number, f"no {state} {reason!r} in {self.bodies[after:]}"
            return number

    @property
    def bodies(self) -> list[Mapping[str, Any]]:
        return [draft.body for draft in self.posted]

    @property
    def states(self) -> list[str]:
        states = [body["state"] for body in self.bodies]
        return [state for i, state in enumerate(states) if i == 0 or states[i - 1] != state]


class Rig:
    """A ring, a pipe, and the job that fills them."""

    def __init__(self, source: StreamConfig, *, fps: float = 10, t: int = 2, slots: int = 64) -> None:
        self.ring_fd = create_ring(slots, (t, 90, 160, 3))
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)
        self.reader = RingReader(self.ring_fd)
        self.stop = threading.Event()
        self.job = CaptureJob(
            link="ipc:///nonexistent/hub",
            stream="door",
            source=source,
            fps=fps,
            frames_per_chunk=t,
            height=90,
            width=160,
            resize="stretch",
            ring_fd=self.ring_fd,
            wake_fd=self.wake_write,
        )

    def close(self) -> None:
        for fd in (self.ring_fd, self.wake_read, self.wake_write):
            os.close(fd)

    def chunk(self, number: int) -> tuple[ChunkMeta, U8]:
        out = np.empty(self.reader.chunk_shape, np.uint8)
        meta = self.reader.read(number, out)
        assert meta is not None
        return meta, out

    def chunks(self) -> list[tuple[ChunkMeta, list[int]]]:
        """Bookkeeping and bar codes of all chunks that are still there."""
        found = [self.chunk(number) for number in range(self.reader.oldest, self.reader.head)]
        return [(meta, [read_number(picture, 16, 9) for picture in pixels]) for meta, pixels in found]

    def wait_chunks(self, count: int) -> None:
        """Until `count` more chunks are there; woken through the pipe, as the classifier is."""
        goal, deadline = self.reader.head + count, time.monotonic() + DEADLINE_S
        while self.reader.head < goal:
            ready, _, _ = select.select([self.wake_read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{self.reader.head} chunks, waited for {goal}"
            os.read(self.wake_read, 4096)


@contextmanager
def rig_for(source: StreamConfig, **options: Any) -> Iterator[Rig]:
    rig = Rig(source, **options)
    try:
        yield rig
    finally:
        rig.close()


@contextmanager
def running(rig: Rig, link: FakeLink) -> Iterator[None]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            Capture(rig.job, link, rig.stop).run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        rig.stop.set()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert not failures, failures


def live(server: RtspServer, **keys: Any) -> StreamConfig:
    return StreamConfig.model_validate({"url": server.url("cam"), "open_timeout_s": 2, "read_timeout_s": 1.5, **keys})


def test_a_file_goes_into_the_ring_chunk_by_chunk(clip: Path) -> None:
    link = FakeLink()
    with rig_for(StreamConfig(url=str(clip), pace="fast"), t=4) as rig:
        assert Capture(rig.job, link, rig.stop).run() == EXIT_ENDED
        chunks = rig.chunks()
        assert [numbers for _, numbers in chunks] == [
            [0, 2, 5, 7], [10, 12, 15, 17], [20, 22, 25, 27], [30, 32, 35, 37], [40, 42, 45, 47]
        ]  # fmt: skip
        assert [meta.segment for meta, _ in chunks] == [1] * 5
        assert os.read(rig.wake_read, 100) == b"\1" * 5
    assert link.states == ["connecting", "live", "offline"]
    last = link.bodies[-1]
    assert last["reason"] == "end of the file"
    assert last["finished"]
    assert last["codec"] == "h264"
    counters = last["counters"]
    assert (counters["frames"], counters["sampled"], counters["chunks"]) == (50, 20, 5)
    assert (counters["width"], counters["height"], counters["corrupt"]) == (320, 180, 0)


@pytest.mark.parametrize("watched", [False, True])
def test_frames_that_no_chunk_needs_are_skipped_unless_somebody_watches(tmp_path: Path, watched: bool) -> None:
    """Unless somebody watches: a preview would have fewer pictures."""
    b_pictures = {"preset": "ultrafast", "bf": "2", "x264-params": "b-pyramid=none:b-adapt=0:threads=1"}
    path = write_clip(tmp_path / "film.mp4", frames=60, gop=30, options=b_pictures)
    link = FakeLink(watched=watched)
    with rig_for(StreamConfig(url=str(path), pace="fast"), fps=5, t=1) as rig:
        assert Capture(rig.job, link, rig.stop).run() == EXIT_ENDED
        assert [seen for _, seen in rig.chunks()] == [[i] for i in range(0, 60, 5)]
    counters = link.bodies[-1]["counters"]
    assert counters["frames"] == 60
    assert (counters["skipped"] == 0) if watched else (counters["skipped"] > 20)


def test_each_loop_of_a_file_is_a_segment(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "loop.mp4", frames=25)
    link = FakeLink()
    with rig_for(StreamConfig(url=str(path), pace="fast", loop=True)) as rig:
        with running(rig, link):
            rig.wait_chunks(20)
        segments = [(meta.segment, meta.index, numbers) for meta, numbers in rig.chunks()]
        assert segments[:5] == [(1, i, [5 * i, 5 * i + 2]) for i in range(5)]
        assert segments[5:10] == [(2, i, [5 * i, 5 * i + 2]) for i in range(5)]


def test_a_file_that_cannot_be_played_ends_capture_with_its_reason(tmp_path: Path) -> None:
    link = FakeLink()
    with rig_for(StreamConfig(url=str(tmp_path / "gone.mp4"))) as rig, pytest.raises(SourceError, match="no such file"):
        Capture(rig.job, link, rig.stop).run()
    assert link.states == ["connecting", "offline"]
    assert "no such file" in link.bodies[-1]["reason"]


def test_a_reader_that_does_not_read_does_not_block_capture(clip: Path) -> None:
    with rig_for(StreamConfig(url=str(clip), pace="fast"), fps=25, t=1, slots=4) as rig:
        with suppress(BlockingIOError):
            while True:
                os.write(rig.wake_write, bytes(4096))
        assert Capture(rig.job, FakeLink(), rig.stop).run() == EXIT_ENDED
        assert rig.reader.head == 50


def test_a_ring_of_another_model_is_refused(clip: Path) -> None:
    with rig_for(StreamConfig(url=str(clip))) as rig, pytest.raises(RingError, match="the ring holds"):
        Capture(rig.job.model_copy(update={"height": 91}), FakeLink(), rig.stop)


def test_previews_are_made_only_while_somebody_watches(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "large.mp4", frames=25, width=1280, height=720)
    for watched in (False, True):
        link = FakeLink(watched=watched)
        with rig_for(StreamConfig(url=str(path), pace="realtime")) as rig:
            Capture(rig.job, link, rig.stop).run()
        assert bool(link.previews) == watched
    assert 1 < len(link.previews) <= 14
    picture = cv2.imdecode(np.frombuffer(link.previews[0], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (360, 640, 3)
    assert read_number(np.asarray(picture, np.uint8)) == 0


def test_a_live_stream_survives_the_death_of_its_server() -> None:
    link = FakeLink()
    with RtspServer({"cam": FILM}) as server, rig_for(live(server)) as rig, running(rig, link):
        seen = link.wait_for("live")
        rig.wait_chunks(3)
        server.stop()
        seen = link.wait_for("connecting", seen)
        assert link.bodies[seen - 1]["reason"]
        seen = link.wait_for("offline", seen)
        with RtspServer({"cam": FILM}, port=server.port):
            seen = link.wait_for("live", seen)
            assert link.bodies[seen - 1]["reason"] is None
            assert link.bodies[seen - 1]["counters"]["reconnects"] >= 1
            rig.wait_chunks(3)
            segments = [meta.segment for meta, _ in rig.chunks()]
            assert segments == sorted(segments)
            assert len(set(segments)) == 2
            for meta, numbers in rig.chunks():
                assert numbers[1] - numbers[0] in (2, 3), (meta, "one chunk, two segments")
        rig.stop.set()
    assert link.states[:4] == ["connecting", "live", "connecting", "offline"]


@pytest.mark.parametrize(("demuxer", "held_back"), [("rtp", 0), ("ffmpeg", 1)])
def test_a_stall_is_reported_and_its_held_back_frame_is_dropped(demuxer: str, held_back: int) -> None:
    link = FakeLink()
    with RtspServer({"cam": FILM}) as server, rig_for(live(server, demuxer=demuxer)) as rig, running(rig, link):
        rig.wait_chunks(2)
        seen = link.wait_for("live")
        server.fault("cam", stalled=True)
        seen = link.wait_for("stalled", seen, "no frame for")
        seen = link.wait_for("connecting", seen, "no data for 1.5 s")
        server.heal("cam")
        before = rig.reader.head
        seen = link.wait_for("live", seen)
        rig.wait_chunks(2)
        counters = link.bodies[-1]["counters"]
        assert counters["dropped_stale"] == held_back, "FFmpeg's held-back picture, counted and left out"
        assert rig.chunk(before)[0].segment == 2


def test_a_status_has_losses_the_camera_clock_and_the_fallback_note() -> None:
    """Who reads it where that is not our own client, what was lost, and the camera's clock."""
    link = FakeLink()
    with RtspServer({"cam": FILM}) as server, rig_for(live(server)) as rig, running(rig, link):
        seen = link.wait_for("live")
        server.fault("cam", drop=0.2)
        rig.wait_chunks(10)
        server.disconnect("cam")
        seen = link.wait_for("connecting", seen)
        body = link.bodies[seen - 1]
        assert "note" not in body
        assert body["counters"]["lost"] > 0
        assert abs(body["counters"]["wall_offset_s"] - time.time()) < 60
    with RtspServer({"cam": FILM}, traits=Traits(unordered=True)) as server, rig_for(live(server)) as rig:
        link = FakeLink()
        with running(rig, link):
            seen = link.wait_for("live")
            rig.wait_chunks(1)
        assert "FFmpeg's demuxer, a frame interval later" in link.bodies[seen - 1]["note"]


def test_a_changed_resolution_keeps_the_connection_and_the_segment() -> None:
    link = FakeLink()
    with RtspServer({"cam": FILM}) as server, rig_for(live(server)) as rig, running(rig, link):
        rig.wait_chunks(2)
        server.fault("cam", film=LARGE)
        deadline = time.monotonic() + DEADLINE_S
        while not any(numbers[-1] >= 1000 for _, numbers in rig.chunks()):
            assert time.monotonic() < deadline
            rig.wait_chunks(1)
        assert server.mounts["cam"].plays == 1
        assert {meta.segment for meta, _ in rig.chunks()} == {1}


def test_a_wrong_password_appears_in_no_status_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    link = FakeLink()
    caplog.set_level(logging.DEBUG)
    with RtspServer({"cam": FILM}, auth=("admin", "right")) as server:
        url = server.url("cam", "geheim/8")
        with rig_for(StreamConfig(url=url)) as rig, running(rig, link):
            link.wait_for("connecting", reason="authentication refused (401)")
            link.wait_for("offline", reason="authentication refused (401)")
    said = caplog.text + repr(link.posted)
    assert "geheim" not in said
    assert caplog.text.count("authentication refused") >= 2, "it goes on trying"


def start_child(rig: Rig) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "streamclf.capture"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(rig.ring_fd, rig.wake_write),
    )
    assert process.stdin is not None
    process.stdin.write(rig.job.model_dump_json().encode() + b"\n")
    process.stdin.flush()
    return process


def end_of(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    assert process.stderr is not None
    code = process.wait(DEADLINE_S)  # not communicate(): it closes standard input, which asks the child to stop
    return code, process.stderr.read().decode()


def by_eof(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize("ask", [subprocess.Popen.terminate, by_eof], ids=["SIGTERM", "end of standard input"])
def test_the_child_stops_on_request_even_in_a_blocked_read(ask: Callable[[subprocess.Popen[bytes]], None]) -> None:
    server = RtspServer({"cam": FILM})
    with server, rig_for(live(server, read_timeout_s=60)) as rig, start_child(rig) as process:
        rig.wait_chunks(2)
        server.fault("cam", stalled=True)
        ask(process)
        assert end_of(process) == (EXIT_DONE, "")


def test_the_child_has_different_exit_codes_for_an_end_and_a_failure(clip: Path, tmp_path: Path) -> None:
    with rig_for(StreamConfig(url=str(clip), pace="fast")) as rig, start_child(rig) as process:
        assert end_of(process) == (EXIT_ENDED, "")
        assert rig.reader.head == 10
    with rig_for(StreamConfig(url=str(tmp_path))) as rig, start_child(rig) as process:
        code, errors = end_of(process)
        assert code == EXIT_FAILED
        assert len(errors.splitlines()) == 1
        assert "a directory; give the path of one video file" in errors


def test_the_successor_of_a_killed_child_begins_a_new_segment() -> None:
    with RtspServer({"cam": FILM}) as server, rig_for(live(server)) as rig:
        for _ in range(2):
            with start_child(rig) as process:
                rig.wait_chunks(3)
                process.kill()
                process.wait(DEADLINE_S)
        chunks = rig.chunks()
        assert {meta.segment for meta, _ in chunks} == {1, 2}
        assert next(meta.index for meta, _ in chunks if meta.segment == 2) == 0
