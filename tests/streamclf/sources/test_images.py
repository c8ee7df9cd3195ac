"""Folders of images: natural order, damaged files, loops."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from support.clips import draw, read_number

from streamclf.config.service import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import Frame, open_source
from streamclf.units import NS


def folder_of(path: Path, names: list[str]) -> Path:
    path.mkdir()
    for number, name in enumerate(names):
        cv2.imwrite(str(path / name), draw(number, 320, 180)[..., ::-1])
    return path


def frames_of(path: Path, **keys: object) -> list[Frame]:
    config = StreamConfig.model_validate({"images": str(path), "fps": 10, "pace": "fast", **keys})
    with open_source(config) as source:
        assert not source.live
        return list(source)


def numbers(frames: list[Frame]) -> list[int]:
    return [read_number(frame.to_rgb(180, 320)) for frame in frames]


def test_images_come_in_natural_order_at_the_configured_rate(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", ["f1.png", "f2.PNG", "f9.jpg", "f010.bmp", "f10.webp", "f11.tiff"])
    (folder / "notes.txt").write_text("not an image")
    (folder / "f0.png").mkdir()
    frames = frames_of(folder)
    assert numbers(frames) == [0, 1, 2, 3, 4, 5], "f10 and f010 are the same number"
    assert [frame.pts_ns for frame in frames] == [i * NS // 10 for i in range(6)]
    assert [frame.index for frame in frames] == list(range(6))
    assert (frames[0].width, frames[0].height) == (320, 180)


def test_a_damaged_image_leaves_a_gap_and_is_counted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", [f"{i}.png" for i in range(5)])
    (folder / "1.png").write_bytes(b"\x89PNG, or so it says")
    (folder / "2.png").write_bytes(b"")
    config = StreamConfig(images=str(folder), fps=10, pace="fast")
    with open_source(config) as source:
        frames = list(source)
        assert source.undecodable == 2
    assert numbers(frames) == [0, 3, 4]
    assert frames[1].pts_ns == 3 * NS // 10


def test_a_loop_lists_the_folder_again_and_marks_a_discontinuity(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", ["1.png", "2.png"])
    with open_source(StreamConfig(images=str(folder), fps=10, pace="fast", loop=True)) as source:
        first = [next(source), next(source)]
        (folder / "1.png").unlink()
        second = [next(source), next(source)]
    assert numbers([*first, *second]) == [0, 1, 1, 1]
    assert [frame.discontinuity for frame in [*first, *second]] == [False, False, True, True]


def test_realtime_pace_waits_between_images(tmp_path: Path) -> None:
    frames = frames_of(folder_of(tmp_path / "a", ["1.png", "2.png", "3.png"]), pace="realtime")
    assert frames[-1].captured_ns - frames[0].captured_ns >= 0.19 * NS


def test_images_may_have_different_sizes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", ["1.png"])
    cv2.imwrite(str(folder / "2.png"), draw(7, 640, 360)[..., ::-1])
    assert [(frame.width, frame.height) for frame in frames_of(folder)] == [(320, 180), (640, 360)]


def test_a_folder_without_readable_images_is_reported_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no images in it; known suffixes are \.bmp"):
        frames_of(tmp_path / "empty")
    with pytest.raises(SourceError, match="No such file or directory; give the path of a folder"):
        frames_of(tmp_path / "absent")
    (tmp_path / "empty" / "a.jpg").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"none of its 1 images can be read; check a\.jpg"):
        frames_of(tmp_path / "empty")
