"""The films of a store are found by their names, read through a copy, and named without credentials."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.archive import films
from streamclf.archive.films import find_archive, local_copy, store_uri
from streamclf.errors import SourceError, UsageError

fs = pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Serve a folder as every store. The file systems of stores differ from a local one only in how they connect."""
    (tmp_path / "bucket" / "deep").mkdir(parents=True)
    for name in ("a.mp4", "deep/b.MKV", "deep/.c.mp4", "d.txt"):
        (tmp_path / "bucket" / name).write_bytes(name.encode())

    def open_store(uri: str) -> tuple[object, str]:
        return fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), uri.partition("://")[2].partition("?")[0]

    monkeypatch.setattr(films, "_open_store", open_store)
    return tmp_path


def test_films_of_a_store_are_found_in_folders_and_by_name(store: Path) -> None:
    found = find_archive([Path("s3://bucket?region=x")])
    assert [film.name for film in found.films] == ["s3://bucket/a.mp4?region=x", "s3://bucket/deep/b.MKV?region=x"]
    assert [film.size for film in found.films] == [5, 10]
    assert [film.name for film in find_archive([Path("s3://bucket/d.txt")]).films] == ["s3://bucket/d.txt"]
    assert "no such object" in find_archive([Path("s3://bucket/none")]).faults[0]


def test_a_copy_is_removed_after_use_and_keeps_the_suffix(store: Path) -> None:
    with local_copy("s3://bucket/deep/b.MKV?region=x") as path:
        assert path.read_bytes() == b"deep/b.MKV"
        assert path.suffix == ".mkv"
    assert not path.exists()
    with pytest.raises(SourceError, match="s3://bucket/gone"), local_copy("s3://bucket/gone.mp4"):
        pass


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="AWS_ACCESS_KEY_ID") as caught:
        store_uri(Path("s3://KEY:passphrase@bucket/films"))
    assert "passphrase" not in str(caught.value)
    assert store_uri(Path("films/s3:/x")) is None


def test_a_film_that_is_given_twice_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert len(find_archive([tmp_path / "a.mp4", tmp_path, tmp_path]).films) == 1
