"""Lists of clips are read in every format."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.labelled import write_list

from training.data.clip_lists import read_rows
from training.data.clips import Row
from training.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"film")


def test_csv_has_path_label_split_and_group(tmp_path: Path) -> None:
    path = write_list(tmp_path / "clips.csv", [("a/1.mp4", "a", "train", "g1"), ("b/2.mp4", "b", "validation", "")])
    rows, base = read_rows(path)
    assert base == tmp_path
    assert rows == [
        Row(path="a/1.mp4", label="a", split="train", group="g1"),
        Row(path="b/2.mp4", label="b", split="val", group=""),
    ]
    assert read_rows(tmp_path)[0] == rows, "a folder with clips.csv gives the same rows"


def test_folders_are_classes_with_or_without_splits(tmp_path: Path) -> None:
    touch(tmp_path / "plain", "wave/10.mp4", "wave/9.mp4", "wave/notes.txt", "still/x.avi")
    rows, _ = read_rows(tmp_path / "plain")
    assert [(row.path, row.label, row.split) for row in rows] == [
        ("still/x.avi", "still", ""),
        ("wave/9.mp4", "wave", ""),
        ("wave/10.mp4", "wave", ""),
    ]
    touch(tmp_path / "split", "train/wave/1.mp4", "valid/wave/2.mp4")
    assert [(row.path, row.label, row.split) for row in read_rows(tmp_path / "split")[0]] == [
        ("train/wave/1.mp4", "wave", "train"),
        ("valid/wave/2.mp4", "wave", "val"),
    ]


def test_ucf101_lists_give_class_and_group(tmp_path: Path) -> None:
    (tmp_path / "trainlist01.txt").write_text("Punch/v_Punch_g08_c01.avi 1\nYoYo/v_YoYo_g09_c02.avi 2\n")
    (tmp_path / "testlist01.txt").write_text("Punch/v_Punch_g01_c01.avi\n\n")
    (tmp_path / "trainlist02.txt").write_text("Punch/v_Punch_g01_c01.avi 1\n")
    rows, _ = read_rows(tmp_path)
    assert [(row.label, row.split, row.group) for row in rows] == [
        ("Punch", "test", "Punch-g01"),
        ("Punch", "train", "Punch-g08"),
        ("YoYo", "train", "YoYo-g09"),
    ]
    assert [row.split for row in read_rows(tmp_path, ucf101_list=2)[0]] == ["train"]


def test_five_class_subset_has_a_list_beside_each_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/v_Punch_g08_c01.avi", "test/v_Punch_g01_c01.avi")
    write_list(tmp_path / "train.csv", [("Punch", "v_Punch_g08_c01.avi")], "tag,video_name")
    write_list(tmp_path / "test.csv", [("v_Punch_g01_c01.avi", "Punch")], "video_name,tag")
    rows, base = read_rows(tmp_path)
    assert [(row.split, row.group, (base / row.path).is_file()) for row in rows] == [
        ("test", "Punch-g01", True),
        ("train", "Punch-g08", True),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name_of_it,kind\n", "no column path"),
        ("path,label\na.mp4,\n", "line 2: path='a.mp4', label=''"),
        ("path,label,split\na.mp4,a,holdout\n", "split='holdout'; one of train"),
        ("", "no column path"),
    ],
)
def test_wrong_list_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "list.csv")


def test_empty_class_folder_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "wave/1.mp4")
    (tmp_path / "still").mkdir()
    with pytest.raises(DataError, match="no clip of class 'still'"):
        read_rows(tmp_path)


def test_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_rows(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no clip in it"):
        read_rows(tmp_path / "empty")
