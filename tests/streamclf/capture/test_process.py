"""Capture as a whole: chunks in the ring and events to the producer, in this process and as a child process."""

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
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.clips import film, read_number, write_clip
from support.rtsp_server import RtspServer, Traits

from engines.arrays import U8
from streamclf.capture.process import Capture
from streamclf.config.stream import StreamConfig
from streamclf.errors import RingError, SourceError
from streamclf.events.drafts import Draft
from streamclf.runtime.capture_job import CaptureJob, ViewJob
from streamclf.runtime.child import EXIT_DONE, EXIT_ENDED, EXIT_FAILED
from streamclf.runtime.plain_messages import encode_message
from streamclf.windows.ring import RingReader, create_ring
from streamclf.windows.sampling import ChunkMeta

DEADLINE_S = 60.0
FILM = film(frames=100)
LARGE = film(frames=50, width=640, height=360, first=1000)


class FakeProducer:
    """Record the posted events; tests wait for the ones that they expect."""

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
        """Wait for a status with this state and reason after the first `after` ones. Returns the number up to it."""

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


class CaptureSetup:
    """A ring, a wake-up pipe, and the job that fills the ring."""

    def __init__(self, source: StreamConfig, *, fps: float = 10, t: int = 2, slots: int = 64) -> None:
        self.ring_fd = create_ring(slots, (t, 90, 160, 3))
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)
        self.reader = RingReader(self.ring_fd)
        self.stop = threading.Event()
        self.job = CaptureJob(
            link="ipc:///nonexistent/hub",
            stream="door",
            source=source.settings,
            views=(
                ViewJob(
                    view="door",
                    fps=fps,
                    frames_per_chunk=t,
                    height=90,
                    width=160,
                    resize="stretch",
                    ring_fd=self.ring_fd,
                    wake_fd=self.wake_write,
                ),
            ),
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
        """Return the metadata and bar codes of all chunks that are still in the ring."""
        found = [self.chunk(number) for number in range(self.reader.oldest, self.reader.head)]
        return [(meta, [read_number(image, 16, 9) for image in pixels]) for meta, pixels in found]

    def wait_chunks(self, count: int) -> None:
        """Wait until `count` more chunks are in the ring; the pipe wakes us, like the classifier."""
        goal, deadline = self.reader.head + count, time.monotonic() + DEADLINE_S
        while self.reader.head < goal:
            ready, _, _ = select.select([self.wake_read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{self.reader.head} chunks, waited for {goal}"
            os.read(self.wake_read, 4096)


@contextmanager
def make_setup(source: StreamConfig, **options: Any) -> Iterator[CaptureSetup]:
    setup = CaptureSetup(source, **options)
    try:
        yield setup
    finally:
        setup.close()


@contextmanager
def running(setup: CaptureSetup, producer: FakeProducer) -> Iterator[None]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            Capture(setup.job, producer, setup.stop).run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        setup.stop.set()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert not failures, failures


def live(server: RtspServer, **keys: Any) -> StreamConfig:
    return StreamConfig.model_validate({"url": server.url("cam"), "open_timeout_s": 2, "read_timeout_s": 1.5, **keys})


def test_a_file_goes_into_the_ring_chunk_by_chunk(clip: Path) -> None:
    producer = FakeProducer()
    with make_setup(StreamConfig(url=str(clip), pace="fast"), t=4) as setup:
        assert Capture(setup.job, producer, setup.stop).run() == EXIT_ENDED
        chunks = setup.chunks()
        assert [numbers for _, numbers in chunks] == [
            [0, 2, 5, 7], [10, 12, 15, 17], [20, 22, 25, 27], [30, 32, 35, 37], [40, 42, 45, 47]
        ]  # fmt: skip
        assert [meta.segment for meta, _ in chunks] == [1] * 5
        assert os.read(setup.wake_read, 100) == b"\1" * 5
    assert producer.states == ["connecting", "live", "offline"]
    last = producer.bodies[-1]
    assert last["reason"] == "end of the file"
    assert last["finished"]
    assert last["codec"] == "h264"
    counters = last["counters"]
    assert (counters["frames"], counters["sampled"], counters["chunks"]) == (50, 20, 5)
    assert (counters["width"], counters["height"], counters["corrupt"]) == (320, 180, 0)


@pytest.mark.parametrize("loop", [False, True])
def test_a_film_cut_short_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, loop: bool) -> None:
    whole = write_clip(tmp_path / "whole.mkv", frames=100).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) // 2])
    with make_setup(StreamConfig(url=str(cut), pace="fast", loop=loop)) as setup:
        if loop:
            with running(setup, FakeProducer()):
                setup.wait_chunks(30)  # at least three times the film
        else:
            assert Capture(setup.job, FakeProducer(), setup.stop).run() == EXIT_ENDED
    logged = [record.message for record in caplog.records if "cut short" in record.message]
    assert len(logged) == 1
    assert "cut.mkv: cut short: it declares 4.0 s, " in logged[0]


@pytest.mark.parametrize("watched", [False, True])
def test_frames_that_no_chunk_needs_are_skipped_unless_previews_are_wanted(tmp_path: Path, watched: bool) -> None:
    """A preview needs every frame."""
    b_frames = {"preset": "ultrafast", "bf": "2", "x264-params": "b-pyramid=none:b-adapt=0:threads=1"}
    path = write_clip(tmp_path / "film.mp4", frames=60, gop=30, options=b_frames)
    producer = FakeProducer(watched=watched)
    with make_setup(StreamConfig(url=str(path), pace="fast"), fps=5, t=1) as setup:
        assert Capture(setup.job, producer, setup.stop).run() == EXIT_ENDED
        assert [seen for _, seen in setup.chunks()] == [[i] for i in range(0, 60, 5)]
    counters = producer.bodies[-1]["counters"]
    assert counters["frames"] == 60
    assert (counters["skipped"] == 0) if watched else (counters["skipped"] > 20)


def test_each_loop_of_a_file_is_a_segment(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "loop.mp4", frames=25)
    producer = FakeProducer()
    with make_setup(StreamConfig(url=str(path), pace="fast", loop=True)) as setup:
        with running(setup, producer):
            setup.wait_chunks(20)
        segments = [(meta.segment, meta.index, numbers) for meta, numbers in setup.chunks()]
        assert segments[:5] == [(1, i, [5 * i, 5 * i + 2]) for i in range(5)]
        assert segments[5:10] == [(2, i, [5 * i, 5 * i + 2]) for i in range(5)]


def test_a_file_that_cannot_be_played_ends_capture_with_its_reason(tmp_path: Path) -> None:
    producer = FakeProducer()
    with (
        make_setup(StreamConfig(url=str(tmp_path / "gone.mp4"))) as setup,
        pytest.raises(SourceError, match="no such file"),
    ):
        Capture(setup.job, producer, setup.stop).run()
    assert producer.states == ["connecting", "offline"]
    assert "no such file" in producer.bodies[-1]["reason"]


def test_a_classifier_that_does_not_read_does_not_block_capture(clip: Path) -> None:
    with make_setup(StreamConfig(url=str(clip), pace="fast"), fps=25, t=1, slots=4) as setup:
        with suppress(BlockingIOError):
            while True:
                os.write(setup.wake_write, bytes(4096))
        assert Capture(setup.job, FakeProducer(), setup.stop).run() == EXIT_ENDED
        assert setup.reader.head == 50


def test_a_ring_of_another_model_is_refused(clip: Path) -> None:
    with make_setup(StreamConfig(url=str(clip))) as setup:
        view = replace(setup.job.views[0], height=91)
        job = replace(setup.job, views=(view,))
        with pytest.raises(RingError, match="the ring holds"):
            Capture(job, FakeProducer(), setup.stop)


def test_previews_are_made_only_while_they_are_wanted(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "large.mp4", frames=25, width=1280, height=720)
    for watched in (False, True):
        producer = FakeProducer(watched=watched)
        with make_setup(StreamConfig(url=str(path), pace="realtime" if watched else "fast")) as setup:
            Capture(setup.job, producer, setup.stop).run()
        assert bool(producer.previews) == watched
    assert 1 < len(producer.previews) <= 14
    image = cv2.imdecode(np.frombuffer(producer.previews[0], np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (360, 640, 3)
    assert read_number(np.asarray(image, np.uint8)) == 0


def test_a_live_stream_survives_the_death_of_its_server() -> None:
    producer = FakeProducer()
    with RtspServer({"cam": FILM}) as server, make_setup(live(server)) as setup, running(setup, producer):
        seen = producer.wait_for("live")
        setup.wait_chunks(3)
        server.stop()
        seen = producer.wait_for("connecting", seen)
        assert producer.bodies[seen - 1]["reason"]
        seen = producer.wait_for("offline", seen)
        with RtspServer({"cam": FILM}, port=server.port):
            seen = producer.wait_for("live", seen)
            assert producer.bodies[seen - 1]["reason"] is None
            assert producer.bodies[seen - 1]["counters"]["reconnects"] >= 1
            setup.wait_chunks(3)
            segments = [meta.segment for meta, _ in setup.chunks()]
            assert segments == sorted(segments)
            assert len(set(segments)) == 2
            for meta, numbers in setup.chunks():
                assert numbers[1] - numbers[0] in (2, 3), (meta, "a chunk with frames of two segments")
        setup.stop.set()
    assert producer.states[:4] == ["connecting", "live", "connecting", "offline"]


@pytest.mark.parametrize(("demuxer", "held_back"), [("rtp", 0), ("ffmpeg", 1)])
def test_a_stall_is_reported_and_its_held_back_frame_is_dropped(demuxer: str, held_back: int) -> None:
    producer = FakeProducer()
    with (
        RtspServer({"cam": FILM}) as server,
        make_setup(live(server, demuxer=demuxer)) as setup,
        running(setup, producer),
    ):
        setup.wait_chunks(2)
        seen = producer.wait_for("live")
        server.fault("cam", stalled=True)
        seen = producer.wait_for("stalled", seen, "no frame for")
        seen = producer.wait_for("connecting", seen, "no data for 1.5 s")
        server.heal("cam")
        before = setup.reader.head
        seen = producer.wait_for("live", seen)
        setup.wait_chunks(2)
        counters = producer.bodies[-1]["counters"]
        assert counters["dropped_stale"] == held_back, "FFmpeg's held-back frame is counted and dropped"
        assert setup.chunk(before)[0].segment == 2


def test_a_status_has_losses_the_camera_clock_and_the_fallback_note() -> None:
    """The note names FFmpeg if it reads the stream; counters have lost packets and the camera's clock."""
    producer = FakeProducer()
    with RtspServer({"cam": FILM}) as server, make_setup(live(server)) as setup, running(setup, producer):
        seen = producer.wait_for("live")
        server.fault("cam", drop=0.2)
        setup.wait_chunks(10)
        server.disconnect("cam")
        seen = producer.wait_for("connecting", seen)
        body = producer.bodies[seen - 1]
        assert "note" not in body
        assert body["counters"]["lost"] > 0
        assert abs(body["counters"]["wall_offset_s"] - time.time()) < 60
    with RtspServer({"cam": FILM}, traits=Traits(unordered=True)) as server, make_setup(live(server)) as setup:
        producer = FakeProducer()
        with running(setup, producer):
            seen = producer.wait_for("live")
            setup.wait_chunks(1)
        assert "FFmpeg's demuxer, a frame interval later" in producer.bodies[seen - 1]["note"]


def test_a_camera_whose_time_stamps_stand_still_is_live_and_noted() -> None:
    producer = FakeProducer()
    traits = Traits(stamp=lambda ticks: 12345)
    with RtspServer({"cam": FILM}, traits=traits) as server, make_setup(live(server)) as setup:
        with running(setup, producer):
            setup.wait_chunks(8)
        assert setup.chunk(setup.reader.head - 1)[0].segment == 2, "one segment since arrival takes their place"
    assert producer.states == ["connecting", "live"]
    assert "its time stamps stand still" in producer.bodies[-1]["note"]
    assert producer.bodies[-1]["counters"].get("dropped_stale", 0) == 0


def test_a_status_says_that_a_connection_waits_for_a_key_frame() -> None:
    producer = FakeProducer()
    traits = Traits(first=5)
    with RtspServer({"cam": FILM}, traits=traits) as server, make_setup(live(server)) as setup:
        with running(setup, producer):
            seen = producer.wait_for("live")
        assert "waits for a key frame" in producer.bodies[seen - 2]["note"]
        assert "note" not in producer.bodies[seen - 1]


def test_a_changed_resolution_keeps_the_connection_and_the_segment() -> None:
    producer = FakeProducer()
    with RtspServer({"cam": FILM}) as server, make_setup(live(server)) as setup, running(setup, producer):
        setup.wait_chunks(2)
        server.fault("cam", film=LARGE)
        deadline = time.monotonic() + DEADLINE_S
        while not any(numbers[-1] >= 1000 for _, numbers in setup.chunks()):
            assert time.monotonic() < deadline
            setup.wait_chunks(1)
        assert server.mounts["cam"].plays == 1
        assert {meta.segment for meta, _ in setup.chunks()} == {1}


def test_a_wrong_password_appears_in_no_status_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    producer = FakeProducer()
    caplog.set_level(logging.DEBUG)
    with RtspServer({"cam": FILM}, auth=("admin", "right")) as server:
        url = server.url("cam", "geheim/8")
        with make_setup(StreamConfig(url=url)) as setup, running(setup, producer):
            producer.wait_for("connecting", reason="authentication refused (401)")
            producer.wait_for("offline", reason="authentication refused (401)")
    shown = caplog.text + repr(producer.posted)
    assert "geheim" not in shown
    assert caplog.text.count("authentication refused") >= 2, "it tries again"


def start_child(setup: CaptureSetup) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "streamclf.capture"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(setup.ring_fd, setup.wake_write),
    )
    assert process.stdin is not None
    process.stdin.write(encode_message(setup.job) + b"\n")
    process.stdin.flush()
    return process


def exit_of(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    assert process.stderr is not None
    code = process.wait(DEADLINE_S)  # not communicate(), which closes standard input and so stops the child
    return code, process.stderr.read().decode()


def close_stdin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize(
    "stop_child", [subprocess.Popen.terminate, close_stdin], ids=["SIGTERM", "end of standard input"]
)
def test_the_child_stops_on_request_even_in_a_blocked_read(
    stop_child: Callable[[subprocess.Popen[bytes]], None],
) -> None:
    server = RtspServer({"cam": FILM})
    with server, make_setup(live(server, read_timeout_s=60)) as setup, start_child(setup) as process:
        setup.wait_chunks(2)
        server.fault("cam", stalled=True)
        stop_child(process)
        assert exit_of(process) == (EXIT_DONE, "")


def test_the_child_has_different_exit_codes_for_an_end_and_a_failure(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_setup(StreamConfig(url=str(clip), pace="fast")) as setup, start_child(setup) as process:
        assert exit_of(process) == (EXIT_ENDED, "")
        assert setup.reader.head == 10
    monkeypatch.setenv("STREAMCLF_LOG", "debug")  # the hub logs the failure, from the status event
    with make_setup(StreamConfig(url=str(tmp_path))) as setup, start_child(setup) as process:
        code, errors = exit_of(process)
        assert code == EXIT_FAILED
        assert len(errors.splitlines()) == 1
        assert "a directory; give the path of one video file" in errors


def test_the_successor_of_a_killed_child_begins_a_new_segment() -> None:
    with RtspServer({"cam": FILM}) as server, make_setup(live(server)) as setup:
        for _ in range(2):
            with start_child(setup) as process:
                setup.wait_chunks(3)
                process.kill()
                process.wait(DEADLINE_S)
        chunks = setup.chunks()
        assert {meta.segment for meta, _ in chunks} == {1, 2}
        assert next(meta.index for meta, _ in chunks if meta.segment == 2) == 0
