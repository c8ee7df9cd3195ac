"""Lists of clips in every format, and splits that keep what shares a source together."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.labelled import write_list

from training.data.clip_lists import read_rows
from training.data.clips import Row
from training.data.splits import check_classes, check_groups, class_names, split_by_groups, split_by_list
from training.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"film")


def test_a_csv_says_path_label_split_and_group(tmp_path):
    path = write_list(tmp_path / "clips.csv", [("a/1.mp4", "a", "train", "g1"), ("b/2.mp4", "b", "validation", "")])
    rows, base = read_rows(path)
    assert base == tmp_path
    assert rows == [
        Row(path="a/1.mp4", label="a", split="train", group="g1"),
        Row(path="b/2.mp4", label="b", split="val", group=""),
    ]
    assert read_rows(tmp_path)[0] == rows, "a folder with clips.csv in it is the same"


def test_folders_are_classes_alone_or_below_splits(tmp_path):
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


def test_ucf101s_own_lists_name_class_and_group(tmp_path):
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


def test_the_five_class_subset_has_a_list_beside_each_folder(tmp_path):
    touch(tmp_path, "train/v_Punch_g08_c01.avi", "test/v_Punch_g01_c01.avi")
    write_list(tmp_path / "train.csv", [("Punch", "v_Punch_g08_c01.avi")], "tag,video_name")
    write_list(tmp_path / "test.csv", [("v_Punch_g01_c01.avi", "Punch")], "video_name,tag")
    rows, base = read_rows(tmp_path)
    assert [(row.split, row.group, (base / row.path).is_file()) for row in rows] == [
        ("test", "Punch-g01", True),
        ("train", "Punch-g08", True),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file_name,kind\n", "no column path"),
        ("path,label\na.mp4,\n", "line 2: path='a.mp4', label=''"),
        ("path,label,split\na.mp4,a,holdout\n", "split='holdout'; one of train"),
        ("", "no column path"),
    ],
)
def test_a_wrong_list_is_told_with_its_line(tmp_path, text, said):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_rows(tmp_path / "list.csv")


def test_an_empty_class_folder_is_named(tmp_path):
    touch(tmp_path, "wave/1.mp4")
    (tmp_path / "still").mkdir()
    with pytest.raises(DataError, match="no clip of class 'still'"):
        read_rows(tmp_path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        read_rows(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no clip in it"):
        read_rows(tmp_path / "empty")


def rows_of(*specs: tuple[str, str, str]) -> list[Row]:
    """(label, split, group) each."""
    return [Row(path=f"{i}.mp4", label=a, split=s, group=g) for i, (a, s, g) in enumerate(specs)]


def test_labels_that_are_in_only_one_of_list_and_recipe_are_named():
    rows = rows_of(("a", "", ""), ("b", "", ""))
    assert class_names(rows) == ("a", "b")
    assert class_names(rows, ("b", "a")) == ("b", "a")
    with pytest.raises(DataError, match=r"'b': in the list, but not among data\.labels"):
        class_names(rows, ("a", "c"))
    with pytest.raises(DataError, match=r"'c': among data\.labels, but no clip"):
        class_names(rows, ("a", "b", "c"))
    with pytest.raises(DataError, match="only one class"):
        class_names(rows[:1])


def test_a_group_on_both_sides_is_named():
    training, validation = split_by_list(rows_of(("a", "train", "film7"), ("a", "val", "film7")), "train", "val")
    with pytest.raises(DataError, match=r"group 'film7': 0\.mp4 is a training clip and 1\.mp4 a validation clip"):
        check_groups(training, validation)


def test_a_split_without_clips_is_told_with_those_there_are():
    with pytest.raises(DataError, match=r"split 'val': no clip in it \(1 in test, 1 in train\)"):
        split_by_list(rows_of(("a", "train", ""), ("a", "test", "")), "train", "val")
    with pytest.raises(DataError, match="class 'b': no clip of it in the training split"):
        check_classes(["a"], ("a", "b"), "the training split")


def test_whole_groups_are_dealt_and_classes_stay_even():
    rows = rows_of(*[(label, "", f"{label}{i // 3}") for label in "abc" for i in range(15)])
    seen = set()
    for part in range(5):
        training, validation = split_by_groups(rows, folds=5, fold=part, seed=4)
        check_groups(training, validation)
        assert len(training) + len(validation) == len(rows)
        assert sorted(row.label for row in validation) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
        seen |= {row.path for row in validation}
    assert len(seen) == len(rows), "every clip is held back in one of the parts"
    assert split_by_groups(rows, folds=5, fold=0, seed=4) == split_by_groups(rows, folds=5, fold=0, seed=4)


def test_a_class_of_one_clip_cannot_be_split():
    with pytest.raises(DataError, match="class 'b': 1 clip of one source"):
        split_by_groups(rows_of(("a", "", ""), ("a", "", ""), ("b", "", "")), folds=2, fold=0, seed=0)
