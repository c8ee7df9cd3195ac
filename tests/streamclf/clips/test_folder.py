"""The folder of clips: listing, opening, starring and deleting, also among hostile files."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from streamclf.clips.folder import ClipFolder, MissingClipError
from streamclf.clips.names import ClipName, clip_name
from streamclf.errors import ClipError

BEGAN = datetime(2026, 11, 29, 12, 0, 0, tzinfo=timezone.utc)


def add_clip(root: Path, name: ClipName, *suffixes: str, size: int = 10) -> ClipName:
    for suffix in suffixes or (".mp4", ".jpg", ".drawn.jpg"):
        path = root / name.path(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return name


def test_clips_are_listed_newest_first(tmp_path: Path) -> None:
    folder = ClipFolder(tmp_path)
    names = [
        add_clip(tmp_path, clip_name(stream, BEGAN + timedelta(hours=hours), "fight"))
        for stream, hours in (("door", 0), ("yard", 1), ("door", 2), ("door", 30))
    ]
    add_clip(tmp_path, clip_name("door", BEGAN + timedelta(hours=3), "lost film"), ".jpg")
    assert [clip.name for clip in folder.newest()] == names[::-1]
    assert [clip.name for clip in folder.newest("yard")] == [names[1]]
    clip = next(folder.newest())
    assert (clip.bytes, clip.has_still, clip.has_drawn, clip.is_starred) == (30, True, True, False)


def test_a_folder_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    folder = ClipFolder(tmp_path / "none")
    assert list(folder.newest()) == []
    with pytest.raises(MissingClipError, match="no such clip"):
        folder.open(clip_name("door", BEGAN, "fight").film)


def test_a_star_is_set_and_removed(tmp_path: Path) -> None:
    folder, name = ClipFolder(tmp_path), add_clip(tmp_path, clip_name("door", BEGAN, "fight"))
    folder.star(name.film)
    folder.star(name.still)
    assert folder.find(name.film).is_starred
    folder.star(name.film, is_starred=False)
    folder.star(name.film, is_starred=False)
    assert not folder.find(name.film).is_starred
    with pytest.raises(MissingClipError):
        folder.star(clip_name("door", BEGAN, "other").film)
    assert not list(tmp_path.rglob("*.star"))


def test_delete_removes_all_files_of_the_clip_only(tmp_path: Path) -> None:
    folder, name = ClipFolder(tmp_path), add_clip(tmp_path, clip_name("door", BEGAN, "fight"))
    other = add_clip(tmp_path, clip_name("door", BEGAN, "fight", 2))
    folder.star(name.film)
    with pytest.raises(ClipError, match="starred"):
        folder.delete(name.film)
    assert folder.find(name.film).has_drawn
    assert folder.delete(name.film, even_starred=True).name == name
    assert [clip.name for clip in folder.newest()] == [other]
    assert len(list(tmp_path.rglob("*.*"))) == 3
    with pytest.raises(MissingClipError):
        folder.delete(name.film)


def test_a_film_that_is_being_written_cannot_be_reached(tmp_path: Path) -> None:
    folder, name = ClipFolder(tmp_path), clip_name("door", BEGAN, "fight")
    hidden = tmp_path / "door" / name.day / f".{name.stem}.mp4"
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(b"part")
    assert list(folder.newest()) == []
    for path in (name.film, f"door/{name.day}/{hidden.name}"):
        with pytest.raises(MissingClipError):
            folder.delete(path, even_starred=True)
    assert hidden.exists()


def test_links_and_directories_are_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "120000-000-fight.mp4").write_bytes(b"secret")
    root = tmp_path / "clips"
    day = root / "door" / "2026-11-29"
    day.mkdir(parents=True)
    (day / "120000-000-link.mp4").symlink_to(secret / "120000-000-fight.mp4")
    (day / "120000-000-directory.mp4").mkdir()
    os.mkfifo(day / "120000-000-pipe.mp4")
    (day / ("x" * 255)).touch()
    (day / "\udcff.mp4").touch()
    (root / "door" / "2026-11-30").symlink_to(secret)
    (root / "yard").symlink_to(secret)
    (root / "..evil").mkdir()
    folder = ClipFolder(root)
    assert list(folder.newest()) == []
    for path in (
        "door/2026-11-29/120000-000-link.mp4",
        "door/2026-11-29/120000-000-directory.mp4",
        "door/2026-11-29/120000-000-pipe.mp4",
        "door/2026-11-30/120000-000-fight.mp4",
        "yard/2026-11-29/120000-000-fight.mp4",
        "../secret/120000-000-fight.mp4",
    ):
        with pytest.raises(MissingClipError):
            folder.open(path)
        with pytest.raises(MissingClipError):
            folder.resolve(path)
        with pytest.raises(MissingClipError):
            folder.delete(path)
    with pytest.raises(MissingClipError):
        folder.star("door/2026-11-30/120000-000-fight.mp4")
    assert [each.name for each in secret.iterdir()] == ["120000-000-fight.mp4"]


def test_a_star_never_follows_a_link(tmp_path: Path) -> None:
    root, victim = tmp_path / "clips", tmp_path / "victim"
    name = add_clip(root, clip_name("door", BEGAN, "fight"))
    (root / name.path(".star")).symlink_to(victim)
    with pytest.raises(ClipError):
        ClipFolder(root).star(name.film)
    assert not victim.exists()


def test_files_are_opened_by_their_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")  # the configured folder itself may be a link
    folder = ClipFolder(tmp_path / "linked")
    name = add_clip(tmp_path / "real", clip_name("door", BEGAN, "fight"))
    with folder.open(name.film) as file:
        assert file.read() == b"x" * 10
    assert folder.resolve(name.still) == tmp_path / "real" / name.still
    assert folder.read_picture(name.still, 10) == b"x" * 10
    with pytest.raises(ClipError, match="more than 9 bytes"):
        folder.read_picture(name.still, 9)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_an_error(tmp_path: Path) -> None:
    folder, name = ClipFolder(tmp_path), add_clip(tmp_path, clip_name("door", BEGAN, "fight"))
    (tmp_path / "door" / name.day).chmod(0o500)
    try:
        with pytest.raises(ClipError, match="Permission denied"):
            folder.star(name.film)
        with pytest.raises(ClipError, match="Permission denied"):
            folder.delete(name.film)
    finally:
        (tmp_path / "door" / name.day).chmod(0o700)
