"""Folders of classes: files of operating systems are no clips, splits are no classes, links in a circle end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from training.data.clip_lists import read_rows
from training.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"film")


def found(folder: Path, notes: list[str] | None = None) -> list[tuple[str, str, str]]:
    return [(row.path, row.label, row.split) for row in read_rows(folder, notes=notes)[0]]


def test_files_of_operating_systems_are_no_clips_and_no_classes(tmp_path: Path) -> None:
    clips = ("still/1.mp4", "wave/1.mp4")
    touch(
        tmp_path, *clips, "wave/._1.mp4", "wave/.DS_Store", "wave/Thumbs.db", "wave/desktop.ini", ".DS_Store",
        "__MACOSX/wave/._1.mp4", "__MACOSX/._wave", "wave/.ipynb_checkpoints/1-checkpoint.mp4",
        ".Trash-1000/files/a.mp4",
        "@eaDir/wave/1.mp4", "wave/@eaDir/1.mp4@SynoVideo/x.mp4", "#recycle/a.mp4", "$RECYCLE.BIN/b.mp4",
        "lost+found/c.mp4", "System Volume Information/d.mp4", "wave/.nfs0000001.mp4", "THUMBS.DB/e.mp4",
    )  # fmt: skip
    notes: list[str] = []
    assert found(tmp_path, notes) == [(name, name.split("/")[0], "") for name in clips]
    (note,) = notes
    assert "hidden files or folders of the operating system are left out" in note


def test_other_files_are_counted_and_named(tmp_path: Path) -> None:
    touch(
        tmp_path, "still/1.mp4", "wave/1.mp4", "wave/a.txt", "wave/b.txt", "wave/c.json", "loose.mp4", "wave/anna/2.mp4"
    )
    notes: list[str] = []
    assert len(found(tmp_path, notes)) == 3
    assert notes == [
        "1 clips are in folders below a class's folder; their label is the class: wave/anna/2.mp4",
        "1 clips outside the folders of classes are left out: loose.mp4",
        "3 files are no clips and are left out (2 .txt, 1 .json): wave/a.txt, wave/b.txt, wave/c.json",
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("train/wave/1.mp4", "train/still/2.mp4", "Validation/wave/3.mp4"),
        ("training_set/wave/1.mp4", "training_set/still/2.mp4", "val_set/wave/3.mp4"),
        ("videos_train/wave/1.mp4", "videos_train/still/2.mp4", "videos_val/wave/3.mp4", "annotations/a.txt"),
        ("still/train/2.mp4", "wave/train/1.mp4", "wave/dev/3.mp4"),
    ],
)
def test_folders_of_splits_are_recognised(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    assert sorted((label, split) for _, label, split in found(tmp_path)) == [
        ("still", "train"),
        ("wave", "train"),
        ("wave", "val"),
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("train/wave/1.mp4", "test/wave/2.mp4", "more/wave/3.mp4"),
            "test, train looks like a split, but more does not",
        ),
        (("train/wave/1.mp4", "eval/wave/2.mp4"), "train looks like a split, but eval does not"),
        (("fold_1/wave/1.mp4", "fold_2/wave/1.mp4"), "fold_1, fold_2 looks like a split"),
        (("train/1.mp4", "val/2.mp4"), r"clips are directly in train, val; .* such as train/CLASS/clip\.mp4"),
        (("wave/train/1.mp4", "still/1.mp4"), r"wave/train/1\.mp4 is in a split's folder, but still/1\.mp4 is not"),
        (("train/wave/1.mp4", "val/notes.txt"), "val: no clip in it"),
        (("clips/wave/1.mp4", "clips/still/1.mp4"), r"only folder with clips is clips, .*; give data\.path=.*/clips"),
        (("1.mp4", "2.mp4"), "2 clips are directly in it; put them into one folder for each class"),
        (("wave/1.jpg", "wave/2.jpg"), r"no clip of class 'wave' in it \(other files here: 2 \.jpg\)"),
    ],
)
def test_unclear_layout_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path)


def test_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path, "car/1.mp4", "train/1.mp4", "tram/1.mp4")
    assert [label for _, label, _ in found(tmp_path)] == ["car", "train", "tram"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path, "still/1.mp4", "wave/1.mp4")
    (tmp_path / "wave/all").symlink_to(tmp_path)
    (tmp_path / "wave/here").symlink_to(".")
    (tmp_path / "still/itself").symlink_to("itself")
    notes: list[str] = []
    assert [path for path, *_ in found(tmp_path, notes)] == ["still/1.mp4", "wave/1.mp4"]
    assert "2 links to folders that are read already are left out: wave/all, wave/here" in notes
    (tmp_path / "again").symlink_to("wave")
    with pytest.raises(DataError, match=r"wave: the same folder as .*again; remove the link"):
        read_rows(tmp_path)


def test_linked_folders_and_broken_links_are_clips(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.mp4", "set/still/1.mp4")
    (tmp_path / "set/wave").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/still/gone.mp4").symlink_to(tmp_path / "gone.mp4")
    assert [path for path, *_ in found(tmp_path / "set")] == ["still/1.mp4", "still/gone.mp4", "wave/1.mp4"]


def test_names_that_differ_only_in_composition_are_one_class(tmp_path: Path) -> None:
    touch(tmp_path, "cafe\u0301/1.mp4", "caf\xe9/2.mp4", "still/1.mp4")
    assert {label for _, label, _ in found(tmp_path)} == {"caf\xe9", "still"}
    touch(tmp_path, "Still/2.mp4")
    with pytest.raises(DataError, match=r"labels 'Still' \(1 clips\) and 'still' .* differ only in case"):
        read_rows(tmp_path)


def test_folder_that_cannot_be_a_label_is_named_with_escapes(tmp_path: Path) -> None:
    touch(tmp_path, "still/1.mp4")
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102 - the name is bytes
    Path(os.fsdecode(folder), "1.mp4").write_bytes(b"film")
    with pytest.raises(DataError, match=r"the folder 'caf\\xe9' cannot be a label; rename it in UTF-8"):
        read_rows(tmp_path)


def test_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / ("x" * 300))


def test_an_animated_webp_image_is_a_clip_and_another_one_is_not(tmp_path: Path) -> None:
    touch(tmp_path, "still/1.mp4", "still/preview.webp", "wave/preview.webp")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "wave/1.WEBP", save_all=True, append_images=frames[1:], duration=100)
    assert found(tmp_path) == [("still/1.mp4", "still", ""), ("wave/1.WEBP", "wave", "")]


def test_folder_of_videos_without_a_list_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "still/1.mp4", "wave/1.mp4")
    with pytest.raises(DataError, match=r"holds no list, so data\.videos=elsewhere has no use"):
        read_rows(tmp_path, videos=Path("elsewhere"))
