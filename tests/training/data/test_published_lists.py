"""The official lists of published sets are found below the clips and beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.data.clip_lists import read_rows
from training.errors import DataError

TRAIN = "Punch/v_Punch_g08_c01.avi 1\r\nYoYo/v_YoYo_g09_c02.avi 2\r\nSwing/v_Swing_g08_c01.avi 3\r\n"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"film")


@pytest.fixture
def ucf101(tmp_path: Path) -> Path:
    """Lay out UCF101 as its two archives unpack, with two of the three classes that the lists name."""
    touch(tmp_path, *(f"UCF-101/{c}/v_{c}_g0{g}_c01.avi" for c in ("Punch", "Swing") for g in (1, 8)))
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text(TRAIN)
    (lists / "testlist01.txt").write_text("Punch/v_Punch_g01_c01.avi\nSwing/v_Swing_g01_c01.avi\n")
    (lists / "classInd.txt").write_text("1 Punch\n2 YoYo\n")
    return tmp_path


@pytest.mark.parametrize("path", [".", "UCF-101", "ucfTrainTestlist"])
def test_ucf101_lists_beside_the_clips_are_found(ucf101: Path, path: str) -> None:
    notes: list[str] = []
    rows, base = read_rows(ucf101 / path, notes=notes)
    assert [(row.label, row.split, row.group) for row in rows] == [
        ("Punch", "test", "Punch-g01"),
        ("Swing", "test", "Swing-g01"),
        ("Punch", "train", "Punch-g08"),
        ("Swing", "train", "Swing-g08"),
    ]
    assert all((base / row.path).is_file() for row in rows)
    assert any("ucfTrainTestlist/testlist01.txt" in note for note in notes)
    assert "1 of 3 listed classes have no folder and are left out: YoYo" in notes


def test_ucf101_clips_may_be_converted_or_without_folders(ucf101: Path) -> None:
    touch(ucf101, *(f"flat/v_{c}_g0{g}_c01.mp4" for c in ("Punch", "Swing") for g in (1, 8)))
    rows, base = read_rows(ucf101 / "flat")
    assert [(row.path, row.label, row.split) for row in rows if row.label == "Punch"] == [
        ("v_Punch_g01_c01.mp4", "Punch", "test"),
        ("v_Punch_g08_c01.mp4", "Punch", "train"),
    ]
    assert base == ucf101 / "flat"


def test_absent_number_of_a_list_is_refused(ucf101: Path) -> None:
    with pytest.raises(DataError, match=r"ucfTrainTestlist: no list 2, only 1; give data\.ucf101_list"):
        read_rows(ucf101 / "UCF-101", ucf101_list=2)


def test_lists_of_another_set_beside_the_clips_are_not_used(ucf101: Path) -> None:
    touch(ucf101, "own/wave/1.mp4", "own/still/1.mp4")
    assert [row.label for row in read_rows(ucf101 / "own")[0]] == ["still", "wave"]


def test_clips_may_be_in_another_folder(ucf101: Path, tmp_path: Path) -> None:
    (ucf101 / "UCF-101").rename(tmp_path / "moved")
    rows, base = read_rows(ucf101 / "ucfTrainTestlist", videos=tmp_path / "moved")
    assert base == tmp_path / "moved"
    assert len(rows) == 4


def test_hmdb51_lists_give_the_split(tmp_path: Path) -> None:
    touch(tmp_path, "hmdb51/wave/a b.avi", "hmdb51/wave/c.avi", "hmdb51/wave/d.avi", "hmdb51/brush_hair/e.avi")
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    (lists / "wave_test_split1.txt").write_text("a b.avi 1 \nc.avi 2 \nd.avi 0 \n")
    (lists / "brush_hair_test_split1.txt").write_text("e.avi 1 \n")
    for path in (tmp_path / "hmdb51", tmp_path):
        rows, base = read_rows(path)
        assert [(row.path, row.label, row.split) for row in rows] == [
            ("brush_hair/e.avi", "brush_hair", "train"),
            ("wave/a b.avi", "wave", "train"),
            ("wave/c.avi", "wave", "test"),
        ]
        assert base == tmp_path / "hmdb51"


def test_something_something_lists_give_template_and_split(tmp_path: Path) -> None:
    touch(tmp_path, "20bn-something-something-v2/1.webm", "20bn-something-something-v2/2.webm")
    train = [{"id": "1", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]}]
    (tmp_path / "something-something-v2-train.json").write_text(json.dumps(train))
    (tmp_path / "something-something-v2-validation.json").write_text(
        json.dumps([{"id": 2, "template": "Moving [something] up"}])
    )
    (tmp_path / "something-something-v2-test.json").write_text(json.dumps([{"id": "3"}]))
    for path in (tmp_path, tmp_path / "20bn-something-something-v2"):
        rows, base = read_rows(path)
        assert [(row.label, row.split) for row in rows] == [
            ("Holding something", "train"),
            ("Moving something up", "val"),
        ]
        assert all((base / row.path).is_file() for row in rows)
