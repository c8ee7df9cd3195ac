"""Drawing is pure and fits any picture; watching records without a display and says what it needs with one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hub_process import HubProcess, prediction, status

from streamclf.errors import SourceError, UsageError
from streamclf.events.types import Action, Prediction, Status, Window
from streamclf.producer.link import EventProducer
from streamclf.render.film_writer import FilmWriter, fitted
from streamclf.render.overlay import OverlayState, draw
from streamclf.render.palette import label_bgr
from streamclf.subscribers.watch import PreviewWall, run_watch, tiled

EPOCH = "ab" * 16
NOW = datetime.now(timezone.utc)
STATE = OverlayState(
    stream="door",
    top=[("wave", 0.9), ("still", 0.08), ("other", 0.02)],
    history=[("wave", 0.5), ("still", 0.7)] * 50,
    rate_per_s=12.0,
    latency_ms=48.0,
    actions=("wave",),
)


def picture(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), 128, np.uint8)


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((360, 640), (360, 640)),
        ((1080, 1920), (1080, 1920)),
        ((28, 28), (280, 280)),
        ((1, 1), (270, 270)),
        ((640, 300), (640, 300)),
    ],
)
def test_small_pictures_are_enlarged_stop_text_can_be_read(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    result = draw(picture(*size), STATE)
    assert result.shape == (*drawn, 3)
    assert result.dtype == np.uint8


def test_the_picture_given_is_not_touched() -> None:
    given_one = picture(360, 640)
    draw(given_one, STATE)
    assert (given_one == 128).all()


def test_label_bars_and_timeline_are_there_in_the_labels_colour() -> None:
    result = draw(picture(360, 640), STATE)
    colour = np.array(label_bgr("wave"))
    near = (np.abs(result.astype(int) - colour) < 12).all(axis=2)
    assert near[230:280, :150].sum() > 500  # the chip
    assert near[280:330, 120:280].sum() > 200  # its bar
    assert near[345:].sum() > 300  # the timeline
    assert not near[:200].any()


@given(
    label=st.text(max_size=200),
    stream=st.text(max_size=80),
    probability=st.floats(0, 1),
    state=st.sampled_from(["live", "offline", "stalled", "?"]),
    height=st.integers(1, 700),
    width=st.integers(1, 700),
)
def test_any_text_on_any_size_can_be_drawn(
    label: str, stream: str, probability: float, state: str, height: int, width: int
) -> None:
    if max(height, width) / min(height, width) > 20:
        height = width
    overlay = OverlayState(
        stream=stream, state=state, reason=label, top=[(label, probability)], history=[(label, probability)]
    )
    assert min(draw(picture(height, width), overlay).shape[:2]) >= 270


def predicted(stream: str, label: str) -> Prediction:
    return Prediction(
        stream=stream, epoch=EPOCH, offset=1, previous=0, time=NOW,
        window=Window(start_s=0, end_s=1, frames=8), top=((label, 0.9),), model="m",
    )  # fmt: skip


def test_the_board_shows_each_stream_and_what_goes_on() -> None:
    board = PreviewWall()
    board.take(predicted("door", "wave"), 1.0)
    board.take(predicted("yard", "wave"), 1.0)
    assert list(board.pictures()) == ["door", "yard"]
    plain = board.pictures()["door"]
    assert board.pictures()["door"] is plain  # nothing new, nothing drawn
    board.take(
        Action(
            stream="door", epoch=EPOCH, offset=2, previous=1, time=NOW, label="wave", phase="start",
            started_s=0, at_s=1, probability=0.9, peak=0.9,
        ),
        1.1,
    )  # fmt: skip
    assert (board.pictures()["door"] != plain).any()
    board.take(Status(stream="door", epoch=EPOCH, offset=3, previous=2, time=NOW, state="offline", reason="gone"), 1.2)
    dark = board.pictures()["door"]
    assert dark[100:150, :100].mean() < plain[100:150, :100].mean()


def test_previews_that_are_no_pictures_are_left_out() -> None:
    board = PreviewWall()
    for junk in (b"", b"\xff\xd8junk", b"x" * 1000):
        board.take_preview("door", junk)
    assert board.pictures() == {}
    board.take_preview("door", cv2.imencode(".jpg", picture(300, 400))[1].tobytes())
    assert board.pictures()["door"].shape == (300, 400, 3)


def test_pictures_of_different_sizes_share_a_grid() -> None:
    grid = tiled([picture(300, 400), picture(600, 400), picture(30, 40)])
    assert grid.shape == (600, 800, 3)
    assert tiled([picture(300, 400)]).shape == (300, 400, 3)
    assert max(tiled([picture(1080, 1920)] * 9).shape) <= 1920
    assert fitted(picture(100, 100), 50, 200).shape == (50, 200, 3)


def test_a_film_keeps_times_and_takes_odd_sizes(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with FilmWriter(path) as film:
        for time_s in (0.0, 0.5, 0.5, 2.0):
            film.write(picture(271, 333), time_s)
        assert film.frames == 3
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == [0.0, 0.5, 2.0]
    assert (frames[0].height, frames[0].width) == (272, 334)


def test_a_film_without_pictures_leaves_no_file(tmp_path: Path) -> None:
    with FilmWriter(tmp_path / "film.mp4"):
        pass
    assert not (tmp_path / "film.mp4").exists()
    with pytest.raises(UsageError, match=r"\.mp4"):
        FilmWriter(tmp_path / "film.txt")
    with pytest.raises(SourceError, match="writable"):
        FilmWriter(tmp_path / "missing" / "film.mp4")


@pytest.mark.skipif(sys.platform != "linux", reason="how Linux says that there is no display")
@pytest.mark.parametrize("display", ["", ":4711"])
def test_without_a_display_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, display: str) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(UsageError, match=r"--record out\.mp4 works without one"):
        run_watch("tcp://127.0.0.1:9")


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def test_watching_records_previews_that_nobody_would_make_otherwise(hub: HubProcess, tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", picture(300, 400))[1].tobytes()
    wanted = threading.Event()
    stop = threading.Event()
    with EventProducer(hub.link, "test") as link:

        def serve() -> None:
            while not stop.wait(0.05):
                link.post(prediction())
                link.post(status())
                if link.preview_wanted("door"):
                    wanted.set()
                    link.post_preview("door", jpeg)

        server = threading.Thread(target=serve)
        server.start()
        try:
            path = tmp_path / "watch.mp4"
            assert run_watch(hub.events, streams=["door"], record=path, seconds=2.5) == 0
        finally:
            stop.set()
            server.join()
    assert wanted.is_set()
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) > 3
    assert (frames[-1].height, frames[-1].width) == (300, 400)
