"""Any label has a folder, and the folder gives the label back."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.clips.example_labels import label_folder, make_label_folder, read_label
from streamclf.errors import ClipError

LABELS = [
    "open",
    "gate open",
    "Tür zu",
    "人が倒れる",
    "../../etc/passwd",
    "a/b",
    ".hidden",
    "..",
    "ends.",
    "CON:1",
    "<img src=x onerror=alert(1)>",
    "x" * 256,
    "🙂" * 256,
    "%2e%2e",
]


@pytest.mark.parametrize("label", LABELS)
def test_a_label_survives_its_folder_and_stays_inside(label: str, tmp_path: Path) -> None:
    folder = make_label_folder(tmp_path, label)
    assert folder.parent == tmp_path
    assert folder.is_dir()
    assert not folder.name.startswith(".")
    assert read_label(folder) == label
    assert make_label_folder(tmp_path, label) == folder


def test_plain_labels_are_the_names_of_their_folders() -> None:
    assert label_folder("gate open") == "gate open"
    assert label_folder("Tür") == "Tür"


def test_different_labels_have_different_folders() -> None:
    assert len({label_folder(label) for label in [*LABELS, "a:b", "a b", "a-b", "x" * 255]}) == len(LABELS) + 4


def test_a_folder_made_by_hand_is_its_label(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir()
    assert read_label(tmp_path / "shut") == "shut"


@pytest.mark.parametrize("label", ["", "  ", "x" * 257, "line\nbreak", "nul\0"])
def test_what_is_no_label_is_refused(label: str, tmp_path: Path) -> None:
    with pytest.raises(ClipError):
        make_label_folder(tmp_path, label)
    assert not [*tmp_path.iterdir()]
