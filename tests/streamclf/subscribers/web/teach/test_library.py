"""Examples are listed, moved, deleted and restored; paths from outside never leave the folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from support.clips import write_clip

from streamclf.errors import ClipError
from streamclf.subscribers.web.teach.advice import is_night
from streamclf.subscribers.web.teach.example_paths import MissingExampleError
from streamclf.subscribers.web.teach.library import MAX_TIME_S, TRASH_S, ExampleLibrary


@pytest.fixture
def library(tmp_path: Path) -> ExampleLibrary:
    root = tmp_path / "examples"
    for label, name in (("open", "a"), ("open", "b"), ("shut", "c")):
        (root / "yard" / label).mkdir(parents=True, exist_ok=True)
        write_clip(root / "yard" / label / f"{name}.mp4", frames=20, width=64, height=48)
    return ExampleLibrary(root)


def files(library: ExampleLibrary) -> list[str]:
    return sorted(each.file for each in library.examples("yard"))


def test_examples_made_by_hand_are_listed_with_their_length(library: ExampleLibrary) -> None:
    (library.root / "yard" / "open" / "notes.txt").write_text("no film")
    (library.root / "yard" / ".hidden").mkdir()
    (library.root / "not a name").mkdir()
    assert library.projects() == ["yard"]
    found = library.examples("yard")
    assert [each.label for each in sorted(found, key=lambda each: each.file)] == ["open", "open", "shut"]
    assert all(0.7 < each.seconds < 0.9 for each in found)
    assert library.examples("other") == []
    assert ExampleLibrary(library.root / "absent").projects() == []


def test_a_film_that_is_broken_is_listed_so_that_it_can_be_deleted(library: ExampleLibrary) -> None:
    (library.root / "yard" / "open" / "broken.mp4").write_bytes(b"no film")
    (broken,) = (each for each in library.examples("yard") if each.file.endswith("broken.mp4"))
    assert broken.seconds == 0
    library.delete(broken.file)
    assert len(library.examples("yard")) == 3


def test_names_and_times_that_the_page_cannot_show(library: ExampleLibrary) -> None:
    """One such file must not make the whole page fail."""
    (library.root / "yard" / os.fsdecode(b"\xff")).mkdir()
    for name in (b"\xff.mp4", b"future.mp4"):
        (library.root / "yard" / "open" / os.fsdecode(name)).write_bytes(b"no film")
    os.utime(library.root / "yard/open/future.mp4", (7.5e9, 7.5e9))
    assert sorted(library.labels("yard")) == ["open", "shut"]
    examples = library.examples("yard")
    assert sorted(each.file for each in examples)[2:] == ["yard/open/future.mp4", "yard/shut/c.mp4"]
    assert max(each.began_s for each in examples) <= MAX_TIME_S
    assert is_night(MAX_TIME_S) in (True, False)


def test_moves_and_deletions_can_be_undone_in_turn(library: ExampleLibrary) -> None:
    before = files(library)
    moved = library.move("yard/open/a.mp4", "yard", "half / open")
    assert {each.label for each in library.examples("yard")} == {"half / open", "open", "shut"}
    library.delete(moved)
    library.delete("yard/shut/c.mp4")
    assert len(files(library)) == 1
    assert library.undoable("yard") == "Delete an example"
    for _ in range(3):
        library.undo("yard")
    assert files(library) == before
    with pytest.raises(ClipError, match="no change to undo"):
        library.undo("yard")


def test_undo_of_a_saved_example_deletes_it(library: ExampleLibrary) -> None:
    library.note_saved("yard", "yard/shut/c.mp4", "shut")
    assert library.undo("yard") == "Save an example of shut"
    assert files(library) == ["yard/open/a.mp4", "yard/open/b.mp4"]
    assert library.undoable("yard") is None


@pytest.mark.parametrize("stem", ["m" * 250, "\u00e9" * 125], ids=["letters", "two bytes each"])
def test_an_example_with_a_long_name_is_moved_and_deleted(library: ExampleLibrary, stem: str) -> None:
    for label in ("open", "shut"):
        (library.root / "yard" / label / f"{stem}.mp4").write_bytes(b"no film")
    moved = library.move(f"yard/open/{stem}.mp4", "yard", "shut")
    assert moved.endswith("-2.mp4")
    library.delete(moved)
    library.delete(f"yard/shut/{stem}.mp4")
    assert files(library) == ["yard/open/a.mp4", "yard/open/b.mp4", "yard/shut/c.mp4"]
    library.undo("yard")
    assert f"yard/shut/{stem}.mp4" in files(library)


def test_an_equal_name_overwrites_nothing(library: ExampleLibrary) -> None:
    write_clip(library.root / "yard" / "shut" / "a.mp4", frames=5)
    after = library.move("yard/open/a.mp4", "yard", "shut")
    assert after == "yard/shut/a-2.mp4"
    assert len(files(library)) == 4


OUTSIDE = [
    "../secret.mp4", "yard/../../secret.mp4", "/etc/passwd", "yard/open/../../../secret.mp4", "yard", "", "secret.mp4",
    "yard/open/a.txt", "yard/.label/a.mp4", ".git/a.mp4", "yard//a.mp4", "yard/open/a.mp4\0.mp4", "x/" * 600 + "a.mp4",
    "link/open/a.mp4", "yard/linked/a.mp4", "yard/open/link.mp4",
]  # fmt: skip


@pytest.mark.parametrize("file", OUTSIDE)
def test_no_path_leads_outside(file: str, library: ExampleLibrary, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    write_clip(outside / "a.mp4", frames=2)
    write_clip(tmp_path / "secret.mp4", frames=2)
    (library.root / "link").symlink_to(library.root / "yard")
    (library.root / "yard" / "linked").symlink_to(outside)
    (library.root / "yard" / "open" / "link.mp4").symlink_to(outside / "a.mp4")
    for use in (library.open, library.delete, lambda path: library.move(path, "yard", "shut")):
        with pytest.raises(ClipError):
            use(file)
    assert (outside / "a.mp4").exists()
    assert (tmp_path / "secret.mp4").exists()


@pytest.mark.parametrize("project", ["..", "a/b", "", ".trash", "x" * 65, "yård"])
def test_names_of_models_are_checked(project: str, library: ExampleLibrary) -> None:
    with pytest.raises(ClipError):
        library.add_label(project, "open")


def test_a_label_is_removed_only_without_examples(library: ExampleLibrary) -> None:
    library.add_label("yard", "a/b")
    assert "a/b" in library.labels("yard")
    library.remove_label("yard", "a/b")
    assert [*library.labels("yard")] == ["open", "shut"]
    with pytest.raises(ClipError, match="has examples"):
        library.remove_label("yard", "open")
    with pytest.raises(MissingExampleError):
        library.remove_label("yard", "absent")


def test_labels_keep_the_order_in_which_they_were_added(tmp_path: Path) -> None:
    library = ExampleLibrary(tmp_path / "examples")
    for label in ("shut", "a/b", "open", "shut"):
        library.add_label("yard", label)
    (library.root / "yard" / "by hand").mkdir()
    assert [*library.labels("yard")] == ["shut", "a/b", "open", "by hand"]


def test_old_deleted_and_old_unlabelled_examples_expire(library: ExampleLibrary) -> None:
    library.delete("yard/open/a.mp4")
    library.delete("yard/open/b.mp4")
    (library.root / ".unlabelled").mkdir()
    for name, age_s in (("old", 100), ("new", 1)):
        path = write_clip(library.root / ".unlabelled" / f"{name}.mp4", frames=2)
        os.utime(path, (time.time() - age_s, time.time() - age_s))
    old = next((library.root / ".trash").glob("*a.mp4"))
    os.utime(old, (time.time() - TRASH_S - 1, time.time() - TRASH_S - 1))
    assert library.expire(keep_unlabelled_s=50) == 2
    assert [each.file for each in library.unlabelled()] == [".unlabelled/new.mp4"]
    assert files(library) == ["yard/shut/c.mp4"]
