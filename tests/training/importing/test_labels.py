"""An imported bundle has one label for each output, and models that are no classifiers of one label are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import change_json

from training.errors import FolderError
from training.importing import import_folder
from training.importing.folder import read_config
from training.importing.labels import read_class_names

transformers = pytest.importorskip("transformers")


def changed(saved: Path, tmp_path: Path, changes: dict[str, Any]) -> Path:
    """Copy the folder and change its config.json; None removes a key."""
    folder = Path(shutil.copytree(saved, tmp_path / "changed"))
    change_json(folder / "config.json", **changes)
    return folder


DEFAULTS = ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ("clap", "wave", "nothing")),
        ({"id2label": None}, ("clap", "wave", "nothing")),
        ({"id2label": None, "label2id": None}, DEFAULTS),
        ({"id2label": {}, "label2id": {}, "num_labels": 3}, DEFAULTS),
        ({"id2label": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"id2label": {"2": "c", "0": "a", "1": " b "}}, ("a", "b", "c")),
        ({"id2label": {"0": 0, "1": 1, "2": 2}}, ("0", "1", "2")),
        ({"num_labels": 7}, ("clap", "wave", "nothing")),
        ({"problem_type": "single_label_classification"}, ("clap", "wave", "nothing")),
        ({"problem_type": "multi_label_classification"}, ("clap", "wave", "nothing")),
    ],
)
def test_names_of_the_classes(saved: Path, tmp_path: Path, changes: dict[str, Any], names: tuple[str, ...]) -> None:
    folder = changed(saved, tmp_path, changes)
    found = read_class_names(folder, read_config(folder))
    assert found.names == names
    assert bool(found.notes) == (names == DEFAULTS)


def test_the_bundle_says_that_the_checkpoint_names_no_classes(saved: Path, tmp_path: Path) -> None:
    folder = changed(saved, tmp_path, {"id2label": None, "label2id": None})
    bundle = import_folder(folder, tmp_path / "bundle")
    assert bundle.spec.labels == DEFAULTS
    assert "names no classes" in (bundle.path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_type": "regression"}, "problem_type='regression'"),
        ({"problem_type": "ranking"}, "problem_type='ranking'"),
        ({"id2label": {"0": "a", "1": "b"}}, "id2label names 2 classes, but the classifier has 3 outputs"),
        ({"id2label": {"0": "a"}}, "id2label names 1 classes, but the classifier has 3 outputs"),
        ({"id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}}, "names 4 classes"),
        ({"id2label": {"0": "a", "2": "c"}}, "count from 0 without a gap"),
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, "count from 0 without a gap"),
        ({"id2label": {"0": "a", "1": "b", "2": ""}}, "has 0 characters"),
        ({"id2label": {"0": "a", "1": "b", "2": " a"}}, "'a' appears more than once"),
        ({"id2label": {"LABEL_0": "a", "1": "b", "2": "c"}}, "id2label"),
        ({"id2label": "labels.json"}, "id2label"),
        ({"id2label": None, "label2id": None, "num_labels": 5}, "num_labels=5, but the classifier has 3 outputs"),
        ({"id2label": None, "label2id": {"a": 0, "b": 1, "c": 1}}, "label2id"),
        ({"id2label": None, "label2id": None, "num_labels": 10**9}, "num_labels"),
    ],
)
def test_other_heads_and_names_are_refused(saved: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = changed(saved, tmp_path, changes)
    with pytest.raises(FolderError, match=message) as caught:
        import_folder(folder, tmp_path / "bundle")
    assert "Value error" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_a_model_with_one_output_is_refused_as_a_regression(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "one"))
    config = transformers.VideoMAEConfig.from_pretrained(saved, num_labels=1)
    transformers.VideoMAEForVideoClassification(config).save_pretrained(folder)
    with pytest.raises(FolderError, match=r"1 class: .* a model with one output is a regression"):
        import_folder(folder, tmp_path / "bundle")
