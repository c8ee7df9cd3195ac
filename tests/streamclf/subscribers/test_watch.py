"""The wall shows each stream; recording needs no display, and a window without one is an error with a remedy."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from support.hub_process import HubProcess, prediction, status, wait_until

from streamclf.client.stream_views import SERVICE_SILENT_S
from streamclf.errors import UsageError
from streamclf.events.types import Action, Prediction, Status, Window
from streamclf.events.views import ViewDescription
from streamclf.producer.link import EventProducer
from streamclf.subscribers.watch import PreviewWall, run_watch

EPOCH = "ab" * 16
NOW = datetime.now(timezone.utc)


def image(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), 128, np.uint8)


def predicted(stream: str, label: str, **view: str) -> Prediction:
    return Prediction(
        stream=stream, epoch=EPOCH, offset=1, previous=0, time=NOW,
        window=Window(start_s=0, end_s=1, frames=8), top=((label, 0.9),), model="m", **view,
    )  # fmt: skip


def test_the_wall_shows_each_stream_its_actions_and_its_state() -> None:
    wall = PreviewWall()
    wall.apply(predicted("door", "wave"), 1.0)
    wall.apply(predicted("yard", "wave"), 1.0)
    assert list(wall.images()) == ["door", "yard"]
    plain = wall.images()["door"]
    assert wall.images()["door"] is plain  # an image is drawn again only after an event
    wall.apply(
        Action(
            stream="door", epoch=EPOCH, offset=2, previous=1, time=NOW, label="wave", phase="start",
            started_s=0, at_s=1, probability=0.9, peak=0.9,
        ),
        1.1,
    )  # fmt: skip
    assert (wall.images()["door"] != plain).any()
    wall.apply(Status(stream="door", epoch=EPOCH, offset=3, previous=2, time=NOW, state="offline", reason="gone"), 1.2)
    dark = wall.images()["door"]
    assert dark[100:150, :100].mean() < plain[100:150, :100].mean()


def test_the_tile_of_a_stream_shows_all_its_views() -> None:
    wall = PreviewWall()
    views = (ViewDescription(region="gate", area=(0.1, 0.1, 0.5, 0.5)), ViewDescription(region="gate", model_name="b"))
    wall.apply(Status(stream="door", epoch=EPOCH, offset=1, previous=0, time=NOW, state="live", views=views), 1.0)
    wall.apply(predicted("door", "wave", region="gate"), 1.0)
    (first,) = wall._overlay_state("door", wall._service.streams["door"]).views[:1]
    assert (first.name, first.area, first.present) == ("gate", (0.1, 0.1, 0.5, 0.5), (("wave", 0.9),))
    before = wall.images()["door"]
    wall.apply(predicted("door", "wave", region="gate", model_name="b"), 1.1)
    assert list(wall.images()) == ["door"]
    assert (wall.images()["door"] != before).any(), "the equal label of the other model is shown, too"


def test_streams_of_a_silent_service_are_shown_as_offline_until_it_sends_again() -> None:
    wall = PreviewWall()
    wall.check_silence(1000.0)
    wall.apply(predicted("door", "wave"), 1000.0)
    live = wall.images()["door"]
    wall.check_silence(1000.0 + SERVICE_SILENT_S)
    assert wall.images()["door"] is live
    wall.check_silence(1000.0 + SERVICE_SILENT_S + 0.1)
    dark = wall.images()["door"]
    assert dark[100:150, :100].mean() < live[100:150, :100].mean()
    wall.apply(predicted("door", "wave"), 1010.0)
    wall.check_silence(1010.0)
    assert (wall.images()["door"][100:150, :100] == live[100:150, :100]).all()


def test_previews_that_cannot_be_decoded_are_ignored() -> None:
    wall = PreviewWall()
    for junk in (b"", b"\xff\xd8junk", b"x" * 1000):
        wall.add_preview("door", junk)
    assert wall.images() == {}
    wall.add_preview("door", cv2.imencode(".jpg", image(300, 400))[1].tobytes())
    assert wall.images()["door"].shape == (300, 400, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these variables")
@pytest.mark.parametrize("display", ["", ":4711"])
def test_without_a_screen_one_line_names_the_alternatives(monkeypatch: pytest.MonkeyPatch, display: str) -> None:
    """Qt ends the process with SIGABRT if it cannot connect to the display."""
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(UsageError, match=r"--record out\.mp4 works without one, and streamclf web tcp") as caught:
        run_watch("tcp://127.0.0.1:9")
    assert "\n" not in str(caught.value)
    assert (f"display {display})" if display else "DISPLAY is not set") in str(caught.value)


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def test_recording_asks_for_previews_and_ends_with_a_signal(hub: HubProcess, tmp_path: Path) -> None:
    """The service makes previews only while somebody subscribes to them."""
    jpeg = cv2.imencode(".jpg", image(300, 400))[1].tobytes()
    path = tmp_path / "watch.mp4"
    command = [sys.executable, "-m", "streamclf", "watch", hub.events, "--stream", "door", "--record", str(path)]
    with EventProducer(hub.link, "test") as link, subprocess.Popen(command) as process:
        try:
            wait_until(lambda: link.preview_wanted("door"), "a subscription to the previews", 90)
            for _ in range(80):  # at least 4 s: recording begins a second after the first preview
                link.post_preview("door", jpeg)  # first: the film keeps the size of its first image
                time.sleep(0.05)
                link.post(prediction())
                link.post(status())
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) > 3
    assert (frames[-1].height, frames[-1].width) == (300, 400)
