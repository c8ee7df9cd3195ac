"""Clips are split by their list or by whole groups, and clips of one source stay together."""

from __future__ import annotations

import pytest

from training.data.clips import Row
from training.data.splits import check_classes, check_groups, class_names, split_by_groups, split_by_list
from training.errors import DataError


def rows_of(*specs: tuple[str, str, str]) -> list[Row]:
    """Return rows of (label, split, group)."""
    return [Row(path=f"{i}.mp4", label=a, split=s, group=g) for i, (a, s, g) in enumerate(specs)]


def test_label_missing_in_list_or_recipe_is_named() -> None:
    rows = rows_of(("a", "", ""), ("b", "", ""))
    assert class_names(rows) == ("a", "b")
    assert class_names(rows, ("b", "a")) == ("b", "a")
    with pytest.raises(DataError, match=r"'b': in the list, but not among data\.labels"):
        class_names(rows, ("a", "c"))
    with pytest.raises(DataError, match=r"'c': among data\.labels, but no clip"):
        class_names(rows, ("a", "b", "c"))
    with pytest.raises(DataError, match="only one class"):
        class_names(rows[:1])


def test_group_in_both_splits_is_named() -> None:
    training, validation = split_by_list(rows_of(("a", "train", "film7"), ("a", "val", "film7")), "train", "val")
    with pytest.raises(DataError, match=r"group 'film7': 0\.mp4 is a training clip and 1\.mp4 a validation clip"):
        check_groups(training, validation)


def test_empty_split_is_refused_and_the_existing_splits_are_named() -> None:
    with pytest.raises(DataError, match=r"split 'val': no clip in it \(1 in test, 1 in train\)"):
        split_by_list(rows_of(("a", "train", ""), ("a", "test", "")), "train", "val")
    with pytest.raises(DataError, match="class 'b': no clip of it in the training split"):
        check_classes(["a"], ("a", "b"), "the training split")


def test_whole_groups_are_distributed_and_classes_stay_even() -> None:
    rows = rows_of(*[(label, "", f"{label}{i // 3}") for label in "abc" for i in range(15)])
    paths = set()
    for fold in range(5):
        training, validation = split_by_groups(rows, folds=5, fold=fold, seed=4)
        check_groups(training, validation)
        assert len(training) + len(validation) == len(rows)
        assert sorted(row.label for row in validation) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
        paths |= {row.path for row in validation}
    assert len(paths) == len(rows), "every clip is in the validation split of one fold"
    assert split_by_groups(rows, folds=5, fold=0, seed=4) == split_by_groups(rows, folds=5, fold=0, seed=4)


def test_class_of_one_clip_cannot_be_split() -> None:
    with pytest.raises(DataError, match="class 'b': 1 clip of one source"):
        split_by_groups(rows_of(("a", "", ""), ("a", "", ""), ("b", "", "")), folds=2, fold=0, seed=0)
