"""Stretches of real sources that are saved as examples show the requested pictures, and nothing before them."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.clips import read_number, write_clip

from streamclf.clips import example_writer as writer_module
from streamclf.clips.example_info import read_example_info
from streamclf.clips.example_labels import label_folder
from streamclf.clips.example_writer import ExampleWriter
from streamclf.clips.ring import PacketRing
from streamclf.config.examples import ExamplesConfig
from streamclf.config.source import SourceConfig
from streamclf.events.example_request import ExampleRequest, ExampleResult
from streamclf.sources import open_source
from streamclf.units import NS

FPS = 25
WALL_S = 1_700_000_000
"""The wall-clock time of the first picture of a film."""
REORDERED = {"x264-params": "bframes=3:keyint=50:min-keyint=50:scenecut=0:b-adapt=0"}


def fill_ring(film: Path, *, keep_s: float = 100, max_bytes: int = 10**9) -> PacketRing:
    """Read a film to its end, as if each picture came when it is due."""
    ring = PacketRing(keep_ns=round(keep_s * NS), max_bytes=max_bytes)
    with open_source(SourceConfig(url=str(film), pace="fast")) as source:
        source.set_packet_sink(ring)
        for frame in source:
            ring.add_frame(frame, WALL_S * NS + frame.pts_ns)
    return ring


def save(ring: PacketRing, folder: Path, stretches: Sequence[tuple[float, float]], **more: Any) -> list[ExampleResult]:
    """Save stretches of the stream `door`, in seconds since the first picture."""
    results: list[ExampleResult] = []
    config = ExamplesConfig(folder=folder, **more.pop("config", {}))
    writer = ExampleWriter("door", config, ring, lambda _, result: results.append(result))
    request = {"stream": "door", "project": "yard", "label": "open", **more}
    writer_module_late, writer_module.LATE_S = writer_module.LATE_S, 0.0
    try:
        for begin, end in stretches:
            writer.add("a", ExampleRequest(begin=WALL_S + begin, end=WALL_S + end, **request))
        writer.start()
        writer.close(20)
    finally:
        writer_module.LATE_S = writer_module_late
    return results


def numbers_of(path: Path) -> list[int]:
    """Return the bar codes of the pictures that a reader of this project sees."""
    with open_source(SourceConfig(url=str(path), pace="fast")) as source:
        return [read_number(frame.to_rgb(frame.height, frame.width)) for frame in source]


@pytest.mark.parametrize("options", [None, REORDERED], ids=["plain", "reordered"])
def test_a_film_has_the_pictures_of_its_stretch_though_the_key_frame_is_earlier(
    options: dict[str, str] | None, tmp_path: Path
) -> None:
    film = write_clip(tmp_path / "film.mp4", frames=200, gop=50, options=options)
    (result,) = save(fill_ring(film), tmp_path / "examples", [(3.0, 5.0)])
    assert result.error is None
    assert result.file is not None
    numbers = numbers_of(tmp_path / "examples" / result.file)
    assert numbers[0] == 75, "the key frame before is picture 50"
    assert numbers[:50] == list(range(75, 125))
    assert len(numbers) <= 53, "at most the pictures from which the last ones are predicted"
    info = read_example_info(tmp_path / "examples" / result.file)
    assert info is not None
    assert info.stream == "door"
    assert info.began.timestamp() == WALL_S + 3
    assert result.file.startswith("yard/open/door-2023")
    assert not [*(tmp_path / "examples").rglob("*.part")]


def test_pictures_of_a_webcam_are_encoded(tmp_path: Path) -> None:
    import cv2
    from support.clips import draw

    ring = PacketRing(keep_ns=60 * NS, max_bytes=10**8)
    for number in range(100):
        _, jpeg = cv2.imencode(".jpg", draw(number, 320, 180)[:, :, ::-1])
        ring.push_picture(jpeg.tobytes(), number * NS // 10, WALL_S * NS + number * NS // 10)
    area = {"rotate": 90, "mask": [[0, 0, 0.2, 0.1]], "region": [0.1, 0.2, 0.3, 0.4]}
    (result,) = save(ring, tmp_path / "examples", [(3.0, 5.0)], area=area)
    assert result.file is not None, result.error
    assert numbers_of(tmp_path / "examples" / result.file) == list(range(30, 51))
    info = read_example_info(tmp_path / "examples" / result.file)
    assert info is not None
    assert info.area == {"region": [0.1, 0.2, 0.3, 0.4]}, "its pictures are rotated and masked already"


@pytest.mark.parametrize("area", [{"rotate": 7}, {"region": [0, 0, 2, 2]}, {"mask": 10**40}, {"path": "/etc"}])
def test_an_area_that_teaching_could_not_read_is_refused(area: dict[str, Any], tmp_path: Path) -> None:
    ring = fill_ring(write_clip(tmp_path / "film.mp4", frames=50))
    (result,) = save(ring, tmp_path / "examples", [(0.5, 1.5)], area=area)
    assert result.error is not None
    assert "area: " in result.error
    assert not [*tmp_path.glob("examples/yard/open/*")]


def test_the_label_and_the_area_are_kept_whatever_they_hold(tmp_path: Path) -> None:
    ring = fill_ring(write_clip(tmp_path / "film.mp4", frames=100))
    label = "../<b>" + "ü" * 200
    area = {"rotate": 90, "region": [0.1, 0.2, 0.3, 0.4]}
    (result,) = save(ring, tmp_path / "examples", [(1, 2)], label=label, area=area, region="gate")
    assert result.file is not None
    path = tmp_path / "examples" / result.file
    assert path.parent == tmp_path / "examples" / "yard" / label_folder(label)
    info = read_example_info(path)
    assert info is not None
    assert info.area == area
    assert info.region == "gate"


def test_films_that_follow_each_other_are_one_group_and_later_ones_are_not(tmp_path: Path) -> None:
    ring = fill_ring(write_clip(tmp_path / "film.mp4", frames=400, width=64, height=48))
    results = save(ring, tmp_path / "examples", [(1, 2), (2.5, 3.5), (10, 11)])
    groups = [str(result.file).split("__")[0] for result in results]
    assert groups[0] == groups[1] != groups[2]


def test_a_stretch_that_is_not_kept_is_refused_with_the_reason(tmp_path: Path) -> None:
    ring = fill_ring(write_clip(tmp_path / "film.mp4", frames=500, gop=25, width=64, height=48), keep_s=5)
    early, half, later = save(ring, tmp_path / "examples", [(2, 4), (10, 17), (60, 62)])
    assert "no video of that time is kept" in str(early.error)
    assert "examples.last_s" in str(early.error)
    assert "of that stretch is kept" in str(half.error)
    assert "no video of that time is kept" in str(later.error)
    assert not [*(tmp_path / "examples").rglob("*.mp4")]


def test_examples_end_at_their_size_and_at_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = fill_ring(write_clip(tmp_path / "film.mp4", frames=100))
    folder = tmp_path / "examples"
    folder.mkdir()
    (folder / "large").write_bytes(b"\0" * 1_100_000)
    (result,) = save(ring, folder, [(1, 2)], config={"keep_size": "1MB"})
    assert "raise examples.keep_size" in str(result.error)

    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer_module.os, "fsync", fail)
    (result,) = save(ring, folder, [(1, 2)])
    assert "No space left" in str(result.error)
    assert not [*folder.rglob("*.mp4*")]


def test_a_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    ring = fill_ring(write_clip(tmp_path / "film.mp4", frames=100))
    folder, outside = tmp_path / "examples", tmp_path / "outside"
    for each in (folder, outside):
        each.mkdir()
    (folder / "yard").symlink_to(outside)
    (result,) = save(ring, folder, [(1, 2)])
    assert "a link" in str(result.error)
    assert not [*outside.iterdir()]


def test_examples_without_a_label_go_to_a_hidden_folder_with_their_prediction(tmp_path: Path) -> None:
    ring = fill_ring(write_clip(tmp_path / "film.mp4", frames=100))
    more = {"project": None, "label": None, "top": (("open", 0.51), ("shut", 0.49)), "margin": 0.02}
    (result,) = save(ring, tmp_path / "examples", [(1, 2)], **more)
    assert result.file is not None
    assert result.file.startswith(".unlabelled/door-")
    info = read_example_info(tmp_path / "examples" / result.file)
    assert info is not None
    assert info.margin == 0.02
    assert info.top[0] == ("open", 0.51)
