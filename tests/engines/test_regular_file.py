"""Regular files are opened; pipes and devices are refused without waiting."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.regular_file import NotRegularFileError, open_regular


def test_a_regular_file_and_a_link_to_it_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"data"


@pytest.mark.parametrize(
    ("make", "is_directory"),
    [(os.mkfifo, False), (Path.mkdir, True), (lambda path: path.symlink_to("/dev/zero"), False)],
    ids=["pipe", "directory", "device"],
)
def test_other_kinds_are_refused_at_once(tmp_path: Path, make: Callable[[Path], None], is_directory: bool) -> None:
    make(tmp_path / "it")
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(NotRegularFileError, match=r"it: not a regular file") as caught:
        open_regular(tmp_path / "it")
    assert caught.value.is_directory == is_directory
    assert len(list(Path("/dev/fd").iterdir())) == before, "no descriptor stays open"
