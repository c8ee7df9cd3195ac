"""Lists give clips several labels or none, and splitting and balancing count each label of a clip."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.clip_recipes import clip_recipe
from support.labelled import write_list
from support.two_events import write_events

from training.data.batches import mixup
from training.data.clip_lists import read_rows
from training.data.clips import Row, balanced_odds
from training.data.splits import class_names, split_by_groups
from training.errors import DataError, RecipeError
from training.fit.session import open_session


def labels_of(path: Path, **options: Any) -> dict[str, tuple[str, ...]]:
    return {row.path: row.labels for row in read_rows(path, multi_label=True, **options)[0]}


def test_labels_are_in_one_cell_or_in_several_rows(tmp_path: Path) -> None:
    rows = [("1.mp4", "fall;door"), ("2.mp4", "door"), ("2.mp4", " fall ; door;"), ("3.mp4", ""), ("4.mp4", "fall")]
    for header, delimiter in (("path,label", ","), ("path;label", ";")):
        path = tmp_path / "list.csv"
        lines = [header, *(delimiter.join([name, f'"{label}"']) for name, label in rows)]
        path.write_text("\n".join(lines))
        assert labels_of(path) == {
            "1.mp4": ("fall", "door"), "2.mp4": ("door", "fall"), "3.mp4": (), "4.mp4": ("fall",),
        }  # fmt: skip
    assert class_names(read_rows(path, multi_label=True)[0]) == ("door", "fall")
    assert class_names([Row(path="1", label="a", several=("a",)), Row(path="2", label="", several=())]) == ("a",)


def test_a_known_label_may_contain_the_separator(tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.csv", [("1.mp4", "stop; go"), ("2.mp4", "go")], "path,label")
    assert labels_of(path, known=("stop; go", "go")) == {"1.mp4": ("stop; go",), "2.mp4": ("go",)}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("1.mp4", "a", "train", "g"), ("1.mp4", "b", "val", "g")],
            "split 'train' .* and 'val' .*; a clip has one split",
        ),
        ([("1.mp4", "a", "train", "g"), ("1.mp4", "b", "train", "h")], "group 'g' .* and 'h' .*; a clip has one group"),
        ([("1.mp4", "a;A", "train", "g"), ("2.mp4", "a", "val", "h")], "labels 'a' .* and 'A' .*differ only in case"),
    ],
)
def test_rows_that_contradict_are_refused(tmp_path: Path, rows: list[tuple[str, ...]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels_of(write_list(tmp_path / "list.csv", rows))


def test_two_labels_of_a_clip_without_multi_label_name_the_key(tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.csv", [("1.mp4", "a"), ("1.mp4", "b"), ("2.mp4", "b")], "path,label")
    with pytest.raises(DataError, match=r"a clip has one label: remove a row, or give data\.multi_label: true"):
        read_rows(path)


def test_a_note_tells_of_cells_that_look_like_several_labels(tmp_path: Path) -> None:
    for rows, is_noted in (([("1.mp4", "a; b"), ("2.mp4", "a")], True), ([("1.mp4", "x; y"), ("2.mp4", "a")], False)):
        path, notes = write_list(tmp_path / "list.csv", rows, "path,label"), list[str]()
        read_rows(path, notes=notes)
        assert any("give data.multi_label: true" in note for note in notes) == is_noted


def test_groups_are_split_so_that_each_label_is_on_both_sides() -> None:
    rng = np.random.default_rng(3)
    rows = []
    for number in range(60):
        labels = tuple(name for name, share in (("a", 0.5), ("b", 0.2)) if rng.random() < share)
        rows.append(Row(path=str(number), label="", several=labels, group=f"g{number // 2}"))
    training, validation = split_by_groups(rows, folds=5, fold=1, seed=0)
    assert not {row.group for row in training} & {row.group for row in validation}
    counts = [Counter(label for row in part for label in row.labels or ("none",)) for part in (training, validation)]
    for label in ("a", "b", "none"):
        share = counts[1][label] / (counts[0][label] + counts[1][label])
        assert 0.08 < share < 0.34, label


def test_balanced_windows_draw_each_label_equally_often() -> None:
    """Ten clips with `a`, one with `b`, one with both, two with none."""
    labels = np.array([[1, 0]] * 10 + [[0, 1]] + [[1, 1]] + [[0, 0]] * 2)
    odds = balanced_odds(np.full(14, 1 / 14), labels, 2)
    assert odds.sum() == pytest.approx(1)
    rare, common, both, none = odds[10], odds[0], odds[11], odds[12]
    assert both == pytest.approx(rare + common)
    assert 2 * none == pytest.approx(11 * common) == pytest.approx(2 * rare)
    single = balanced_odds(np.full(4, 0.25), np.array([0, 0, 0, 1]), 2)
    assert single.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    hot = np.eye(2, dtype=np.int64)[[0, 0, 0, 1]]
    assert balanced_odds(np.full(4, 0.25), hot, 2).tolist() == pytest.approx(single.tolist())


def test_mixup_mixes_each_label() -> None:
    target = np.array([[1, 1, 0], [0, 0, 0]], np.float32)
    frames = np.zeros((2, 1), np.float32)
    for seed in range(4):
        _, mixed, _ = mixup(np.random.default_rng(seed), 0.5, frames, target, np.zeros((2, 0), np.float32))
        assert (mixed[:, 0] == mixed[:, 1]).all()
        assert (mixed[:, 2] == 0).all()
        assert ((mixed >= 0) & (mixed <= 1)).all()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"monitor": "top1"}, "monitor=top1: with several labels for each clip, one of map, macro_f1, auc, loss"),
        ({"data": {"multi_label": False}, "monitor": "map"}, "with one label for each clip, one of balanced_accuracy"),
        (
            {"data": {"multi_label": False}, "loss": {"pos_weight": 2}},
            "loss.pos_weight=2.0: only with data.multi_label",
        ),
        ({"loss": {"pos_weight": "even"}}, "loss.pos_weight"),
        ({"loss": {"pos_weight": 0}}, "loss.pos_weight"),
    ],
)
def test_keys_that_do_not_go_with_the_labels_are_refused(
    tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    data = {"multi_label": True, **sections.pop("data", {})}
    with pytest.raises(RecipeError, match=message):
        clip_recipe(tmp_path, data=data, augment={"flip": False, "flip_labels": {}}, **sections)


def test_a_label_of_every_clip_is_refused_and_weights_follow_the_windows(tmp_path: Path) -> None:
    write_events(tmp_path, train=1, val=1, test=0)
    sections: dict[str, Any] = {
        "data": {"multi_label": True, "find_duplicates": False},
        "augment": {"flip": True, "flip_labels": {"lamp": "walker"}},
    }
    assert clip_recipe(tmp_path, **sections).monitor == "map"
    path = tmp_path / "clips.csv"
    before = path.read_text()
    path.write_text(before.replace("lamp; walker,train", "lamp,train"))
    weighted = clip_recipe(tmp_path, loss={"pos_weight": "balanced"}, windows={"balanced": False}, **sections)
    session = open_session(weighted)
    assert session.module.pos_weight.tolist() == pytest.approx([1, 3]), "lamp is in 2 of 4 clips, walker in 1"
    assert session.module.losses(next(iter(session.training)))["label"].item() > 0
    sampler = session.training.sampler  # type: ignore[union-attr]
    flipped = {tuple(sampler.sample(np.random.default_rng(seed), 1)[1].tolist()) for seed in range(12)}
    assert flipped == {(1.0, 0.0), (0.0, 1.0)}, "a mirror swaps the labels of the recipe"
    everywhere = before.replace("nothing_0.mp4,", "nothing_0.mp4,lamp")
    path.write_text(everywhere.replace(",walker,train", ",walker;lamp,train"))
    nothing = (
        before.replace("walker,val", "lamp,val").replace("lamp; lamp,val", "lamp,val").replace(",lamp,val", ",,val")
    )
    path.write_text(nothing)
    with pytest.raises(DataError, match="4 validation clips: each label is in none of them, or in all"):
        open_session(clip_recipe(tmp_path, **sections))
    path.write_text(everywhere.replace(",walker,train", ",walker;lamp,train"))
    with pytest.raises(DataError, match="label 'lamp': all 4 training clips have it; add clips without it"):
        open_session(clip_recipe(tmp_path, **sections))


HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"


def write_charades(folder: Path) -> Path:
    """Write lists and classes as Charades publishes them, and files in the folder of its films."""
    (folder / "films").mkdir(parents=True)
    (folder / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\nc092 Closing a window\n")
    rows = {
        "train": ['46GP8,HR43,Kitchen,6,7,Yes,"A person, cooking.",food,d,c092 11.90 21.20;c000 0.00 12.60,24.83'],
        "test": [
            "YSKX3,0KZ7,Hall,5,5,Yes,s,door,d,c000 1.0 2.0;c000 3.0 4.0,30.1",
            "N11GT,0KZ7,Hall,5,5,Yes,s,door,d,,30",
        ],
    }
    for split, lines in rows.items():
        (folder / f"Charades_v1_{split}.csv").write_text("\n".join([HEADER, *lines]) + "\n")
        for line in lines:
            (folder / "films" / f"{line[:5]}.mp4").write_bytes(b"film")
    return folder


def test_the_lists_of_charades_give_names_of_classes_without_times(tmp_path: Path) -> None:
    folder = write_charades(tmp_path / "Charades")
    rows, base = read_rows(folder, multi_label=True)
    assert base == folder
    assert {row.path: (row.split, row.labels) for row in rows} == {
        "films/46GP8.mp4": ("train", ("Closing a window", "Holding some clothes")),
        "films/YSKX3.mp4": ("test", ("Holding some clothes",)),
        "films/N11GT.mp4": ("test", ()),
    }
    with pytest.raises(DataError, match=r"a list of Charades, .*; give data\.multi_label: true"):
        read_rows(folder)
    (folder / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\n")
    with pytest.raises(DataError, match=r"Charades_v1_train\.csv, line 2: no class 'c092' in Charades_v1_classes\.txt"):
        read_rows(folder, multi_label=True)
    (folder / "Charades_v1_classes.txt").unlink()
    with pytest.raises(DataError, match="put the file of the classes beside the list"):
        read_rows(folder, multi_label=True)
