"""A webcam that is unplugged, comes back, or belongs to another service: real services, OpenCV's device is a double.

The device file is a link to a terminal: a character device that appears and disappears with its link.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.live import Setup, assert_unbroken
from support.service import DEADLINE_S, Service
from support.watcher import Watcher

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses device files of Linux")

SLACK_S = 15.0
"""Added to each deadline, for a machine that is busy with other things."""

DEVICE = """
import sys

if "streamclf.capture" in sys.orig_argv:
    import fcntl, os, time
    import cv2, numpy

    class Device:
        '''A bright, noisy frame ten times a second, for one process at a time, as long as the device file exists.'''

        def __init__(self, path, api):
            self._path, self._fd = path, None
            try:
                fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
            except OSError:
                return
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._fd = fd
            except OSError:
                os.close(fd)

        def isOpened(self):
            return self._fd is not None

        def set(self, prop, value):
            return True

        def get(self, prop):
            return {cv2.CAP_PROP_FRAME_WIDTH: 64, cv2.CAP_PROP_FRAME_HEIGHT: 48, cv2.CAP_PROP_FPS: 10}.get(prop, 0)

        def read(self):
            time.sleep(0.1)
            if not os.path.exists(self._path):
                return False, None
            return True, numpy.random.default_rng().integers(190, 210, (48, 64, 3), numpy.uint8)

        def release(self):
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    cv2.VideoCapture = Device
"""


class Webcam:
    """A device file that can be unplugged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._master, slave = os.openpty()
        self._device = os.ttyname(slave)
        os.close(slave)
        self.plug_in()

    def plug_in(self) -> None:
        self.path.symlink_to(self._device)

    def unplug(self) -> None:
        self.path.unlink()

    def close(self) -> None:
        os.close(self._master)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    (tmp_path / "sitecustomize.py").write_text(DEVICE)
    return Setup(tmp_path)


@pytest.fixture
def webcam(tmp_path: Path) -> Iterator[Webcam]:
    webcam = Webcam(tmp_path / "video7")
    yield webcam
    webcam.close()


def serve(setup: Setup, path: Path) -> Service:
    pythonpath = os.pathsep.join([str(setup.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return Service("run", str(path), cwd=setup.folder, env={**setup.env, "PYTHONPATH": pythonpath})


def test_an_unplugged_camera_is_reported_and_found_again(setup: Setup, webcam: Webcam) -> None:
    path = setup.write(streams={"desk": {"camera": str(webcam.path)}, "film": setup.film})
    with serve(setup, path) as service, Watcher(service.endpoint) as watcher:
        began = time.monotonic()
        for stream in ("desk", "film"):
            watcher.wait("prediction", stream, since=began, within=DEADLINE_S)
        processes = sorted(service.descendants())
        since = time.monotonic()
        webcam.unplug()
        watcher.state("desk", "connecting", since=since, within=1 + SLACK_S, reason="was it unplugged?")
        watcher.state("desk", "offline", since=since, within=3 + SLACK_S, reason="does not exist")
        before = watcher.events("prediction", "desk")[-1].window
        back = time.monotonic()
        webcam.plug_in()
        watcher.state("desk", "live", since=back, within=2 + SLACK_S)
        seen = watcher.wait("prediction", "desk", since=back, within=4 + SLACK_S)
        assert seen.window[0] > before[0], "a new segment"
        assert seen.probability("bright") > 0.99
        watcher.wait("prediction", "film", since=time.monotonic(), within=SLACK_S)
        assert_unbroken(watcher, "film", since=since, at_least=3)
        assert sorted(service.descendants()) == processes, "a process was restarted"


def test_a_camera_in_use_is_reported_with_its_user_and_opened_when_it_is_free(setup: Setup, webcam: Webcam) -> None:
    first = setup.write(streams={"desk": {"camera": str(webcam.path)}}).rename(setup.folder / "first.yaml")
    setup.config["publish"] |= {"journal": "other.db"}
    with serve(setup, first) as owner, Watcher(owner.endpoint) as seen:
        began = time.monotonic()
        seen.wait("prediction", "desk", since=began, within=DEADLINE_S)
        (pid,) = owner.children("streamclf.capture")
        with serve(setup, setup.write()) as other, Watcher(other.endpoint) as watcher:
            watcher.state("desk", "offline", since=began, within=DEADLINE_S, reason=f"(process {pid}); a camera serves")
            assert not watcher.events("prediction", "desk")
            seen.wait("prediction", "desk", since=time.monotonic(), within=SLACK_S)
            assert_unbroken(seen, "desk", since=began, at_least=3)
            owner.interrupt()
            assert owner.wait() == 0
            free = time.monotonic()
            watcher.state("desk", "live", since=free, within=2 + SLACK_S)
            watcher.wait("prediction", "desk", since=free, within=4 + SLACK_S)


def test_a_journal_in_use_is_reported_at_the_start(setup: Setup) -> None:
    path = setup.write(streams={"film": setup.film})
    with serve(setup, path) as owner, Watcher(owner.endpoint) as seen:
        began = time.monotonic()
        seen.wait("prediction", "film", since=began, within=DEADLINE_S)
        with serve(setup, path) as other:
            assert other.wait() == 1
            assert any("streamclf.db" in line and "another" in line for line in other.lines), other.lines
        seen.wait("prediction", "film", since=time.monotonic(), within=SLACK_S)
        assert_unbroken(seen, "film", since=began, at_least=3)
