from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

import pytest
from support.clips import write_clip

from streamclf.clips.example_info import ExampleInfo
from streamclf.clips.example_labels import make_label_folder
from streamclf.clips.example_writer import write_stretch
from streamclf.clips.ring import PacketRing
from streamclf.config.picture_area import PictureArea
from streamclf.config.source import SourceConfig
from streamclf.errors import UsageError
from streamclf.sources import open_source
from streamclf.teach.example_folder import find_clips
from streamclf.units import NS


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"film")
    return root


def test_labels_groups_and_stretches(tmp_path: Path) -> None:
    touch(tmp_path, "open/noon__1.mp4", "open/noon__2.mp4", "open/x_2.5-8s.mp4", "shut/monday/a.mp4", "shut/b.mkv")
    touch(tmp_path, "open/notes.txt", "shut/.hidden.mp4", ".trash/c.mp4")
    clips = {clip.name: clip for clip in find_clips(tmp_path).clips}
    assert {name: (clip.label, clip.group) for name, clip in clips.items()} == {
        "open/noon__1.mp4": ("open", "noon"),
        "open/noon__2.mp4": ("open", "noon"),
        "open/x_2.5-8s.mp4": ("open", "open/x_2.5-8s.mp4"),
        "shut/monday/a.mp4": ("shut", "monday"),
        "shut/b.mkv": ("shut", "shut/b.mkv"),
    }
    assert clips["open/x_2.5-8s.mp4"].stretch == (2.5, 8)
    assert clips["shut/b.mkv"].stretch is None


def test_marks_take_the_place_of_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "open/a.mp4", "open/b.mp4", "day.mp4", "shut/c.mp4")
    (tmp_path / "marks.csv").write_text(
        "file,start_s,end_s,label\nday.mp4,1,2.5,open\nday.mp4,4,6,shut\nopen/b.mp4,0,1,shut\n"
    )
    found = find_clips(tmp_path)
    assert sorted((clip.name, clip.label, clip.stretch) for clip in found.clips) == [
        ("day.mp4", "open", (1, 2.5)),
        ("day.mp4", "shut", (4, 6)),
        ("open/a.mp4", "open", None),
        ("open/b.mp4", "shut", (0, 1)),
        ("shut/c.mp4", "shut", None),
    ]
    assert {clip.group for clip in found.clips if clip.name == "day.mp4"} == {"day.mp4"}


def test_a_label_that_is_no_name_of_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "open-shut-12ab/a.mp4")
    (tmp_path / "open-shut-12ab/.label").write_text("open / shut")
    assert [clip.label for clip in find_clips(tmp_path).clips] == ["open / shut"]


def test_a_folder_of_images_is_one_clip(tmp_path: Path) -> None:
    touch(tmp_path, "open/a.mp4", "shut/shots/1.jpg", "shut/shots/2.jpg", "shut/one/1.jpg")
    assert [clip.name for clip in find_clips(tmp_path).clips] == ["open/a.mp4", "shut/shots"]


def test_what_is_passed_over_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "open/a.mp4", "shut/b.mp4", "loose.mp4", "old/spec.json")
    (tmp_path / "open/again").symlink_to(tmp_path / "open")
    os.mkfifo(tmp_path / "open/pipe.mp4")
    (tmp_path / "open/zero.mp4").symlink_to("/dev/zero")
    (tmp_path / "open/empty.mp4").touch()  # like the files of /proc, of which some never end
    (tmp_path / "marks.csv").write_text(f"gone.mp4,0,1,open\n{'x' * 300}.mp4,0,1,open\n")
    faults = find_clips(tmp_path).faults
    assert len(faults) == 8
    assert (str(tmp_path / "open/empty.mp4"), "an empty file") in faults
    assert (str(tmp_path / "open/pipe.mp4"), "not a regular file") in faults
    assert (str(tmp_path / "open/zero.mp4"), "not a regular file") in faults
    assert ("loose.mp4", "this film is in no folder of a label") in faults
    assert ("old", "this folder is a bundle, and no label") in faults


@pytest.mark.parametrize(
    ("names", "marks", "problem"),
    [
        (["open/a.mp4", "shut/notes.txt"], None, r"shut: no film in it; add films of 'shut'"),
        (["a.mp4", "b.mp4"], None, "2 films are directly in it; put them into one subfolder"),
        ([], None, "no film in it"),
        (["open/a.mp4"], "a,b\n", "line 1: 2 fields; give file,start_s,end_s,label"),
        (["open/a.mp4"], "open/a.mp4,x,2,open\n", "start_s='x'"),
        (["open/a.mp4"], "open/a.mp4,3,2,open\n", "the end must come after the start"),
        (["open/a.mp4"], "open/a.mp4,0,nan,open\n", "the end must come after the start"),
        (["open/a.mp4"], "../a.mp4,0,1,open\n", "give a path below"),
        (["open/a.mp4"], "open/a.mp4,0,2,open\nopen/a.mp4,1,3,shut\n", "'open' and 'shut' to the same stretch"),
        (["open/a_5-2s.mp4"], None, "ends before it begins"),
    ],
)
def test_bad_folders(tmp_path: Path, names: list[str], marks: str | None, problem: str) -> None:
    touch(tmp_path, *names)
    if marks is not None:
        (tmp_path / "marks.csv").write_text(marks)
    with pytest.raises(UsageError, match=problem) as caught:
        find_clips(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        find_clips(tmp_path / "nothing")


def test_examples_of_the_page_give_label_time_and_area(tmp_path: Path) -> None:
    """A label that is no name of a folder is in the file `.label`; the metadata of a film have the rest."""
    label = "../a <b>"
    folder = make_label_folder(tmp_path, label)
    ring = PacketRing(keep_ns=60 * NS, max_bytes=10**8)
    with open_source(SourceConfig(url=str(write_clip(tmp_path / "source.mp4", frames=50)), pace="fast")) as source:
        source.set_packet_sink(ring)
        for frame in source:
            ring.add_frame(frame, frame.pts_ns)
    stretch = ring.stretch(0, 60 * NS)
    assert stretch is not None
    began = datetime(2026, 11, 29, tzinfo=timezone.utc)
    info = ExampleInfo(stream="door", began=began, seconds=2, area={"region": [0.1, 0.2, 0.5, 0.9], "rotate": 90})
    write_stretch(folder / "a.mp4", stretch[2], stretch[0], info)
    (tmp_path / "source.mp4").unlink()
    (clip,) = find_clips(tmp_path).clips
    assert clip.label == label
    assert clip.began == began.timestamp()
    assert clip.area == PictureArea(region=(0.1, 0.2, 0.5, 0.9), rotate=90)
    write_stretch(folder / "b.mp4", stretch[2], stretch[0], info.model_copy(update={"area": {"rotate": 7}}))
    found = find_clips(tmp_path)
    assert found.clips == [clip], "one film must not stop the teaching with all others"
    assert [(name, "part of the picture" in fault) for name, fault in found.faults] == [(f"{folder.name}/b.mp4", True)]
