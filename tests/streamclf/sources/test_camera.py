"""Webcams, on a machine without one: OpenCV plays a clip in place of the camera."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.clips import read_number, write_clip, write_flat

from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import camera as camera_module
from streamclf.sources import open_source
from streamclf.sources.camera import Camera, CameraSource, list_cameras


def test_webcam_frames_use_our_clock_and_are_rgb(tmp_path: Path) -> None:
    path = write_flat(tmp_path / "red.avi", (220, 30, 60), width=64, height=48)
    before = time.monotonic_ns()
    with CameraSource(0, device=cv2.VideoCapture(str(path))) as source:
        assert source.live
        frame = next(source)
        assert before <= frame.pts_ns == frame.captured_ns <= time.monotonic_ns()
        assert np.abs(frame.to_rgb(32, 32)[16, 16].astype(int) - (220, 30, 60)).max() <= 2
        assert (source.info.width, source.info.height) == (64, 48)


def test_arrays_are_resized_like_decoded_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "bars.mp4", frames=3, width=640, height=360)
    with (
        open_source(StreamConfig(url=str(path), pace="fast")) as decoded,
        CameraSource(0, device=cv2.VideoCapture(str(path))) as captured,
    ):
        a, b = next(decoded), next(captured)
        for resize in ("stretch", "crop", "letterbox"):
            left, right = (frame.to_rgb(112, 112, resize).astype(int) for frame in (a, b))  # type: ignore[arg-type]
            assert np.abs(left - right).mean() < 4  # the colour conversions differ, the geometry must not
        assert read_number(b.to_rgb(180, 320)) == 0


def test_a_camera_that_is_unplugged_is_an_error(tmp_path: Path) -> None:
    device = cv2.VideoCapture(str(write_clip(tmp_path / "bars.mp4", frames=3)))
    with CameraSource(3, device=device) as source:
        for _ in range(3):
            next(source)
        with pytest.raises(SourceError, match="camera 3: sends no more frames; was it unplugged"):
            next(source)
    with CameraSource(3, device=cv2.VideoCapture()) as busy, pytest.raises(SourceError, match="another program"):
        next(busy)


@pytest.mark.parametrize(
    ("known", "wanted", "message"),
    [
        ([], 0, r"camera 0: /dev/video0 does not exist\. No camera was found"),
        (["Front", "Door cam"], 9, r"/dev/video9 does not exist\. Cameras here: 0 \(Front\), 1 \(Door cam\)"),
        (["Front"], "garden", r"camera 'garden': no camera of that name\. Cameras here: 0 \(Front\)"),
        ([], "/dev/null/x", "does not exist"),
        ([], str(Path(__file__)), "is not a camera; give a file's path as url"),
    ],
)
def test_a_missing_camera_is_reported_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, known: Sequence[str], wanted: int | str, message: str
) -> None:
    cameras = [Camera(index=i, path=Path(f"/dev/video{i}"), name=name) for i, name in enumerate(known)]
    monkeypatch.setattr(camera_module, "list_cameras", lambda: cameras)
    monkeypatch.setattr(camera_module, "LINUX", True)
    if isinstance(wanted, int) and Path(f"/dev/video{wanted}").exists():
        pytest.skip("this machine has that camera")
    with pytest.raises(SourceError, match=message) as caught:
        open_source(StreamConfig(camera=wanted))
    assert "\n" not in str(caught.value)


def test_the_list_of_cameras_omits_metadata_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for node, name, index in (("video2", "Webcam", "0"), ("video3", "Webcam", "1"), ("video4", "Gone", "0")):
        (tmp_path / node).mkdir()
        (tmp_path / node / "name").write_text(name + "\n")
        (tmp_path / node / "index").write_text(index + "\n")
    monkeypatch.setattr(camera_module, "SYSFS", tmp_path)
    monkeypatch.setattr(Path, "exists", lambda path: path.name in ("video2", "video3"))
    assert list_cameras() == [Camera(index=2, path=Path("/dev/video2"), name="Webcam")]
