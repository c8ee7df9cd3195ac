"""A clip of an event becomes an example, with the description that an example has."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.recorded import write_film

from streamclf.clips.example_info import read_example_info
from streamclf.clips.folder import ClipFolder
from streamclf.errors import ClipError
from streamclf.subscribers.web.teach.clip_copy import copy_clip

CLIP = "door/2026-11-29/120000-250-wave.mp4"


def test_a_clip_is_copied_with_its_time_and_area(tmp_path: Path) -> None:
    write_film(tmp_path / "clips", CLIP)
    (tmp_path / "yard").mkdir()
    area = {"region": [0, 0, 0.5, 1]}
    path = copy_clip(ClipFolder(tmp_path / "clips"), CLIP, tmp_path / "yard", "a/b", "gate", area)
    info = read_example_info(path)
    assert info is not None
    assert (info.stream, info.region, info.area) == ("door", "gate", area)
    assert info.began.isoformat() == "2026-11-29T12:00:00.250000+00:00"
    assert info.seconds > 0
    with pytest.raises(ClipError, match="is an example of a/b already"):
        copy_clip(ClipFolder(tmp_path / "clips"), CLIP, tmp_path / "yard", "a/b", None, None)


@pytest.mark.parametrize("file", ["../a.mp4", "door/2026-11-29/120000-250-gone.mp4", CLIP.replace("mp4", "jpg"), ""])
def test_other_files_are_refused_and_leave_no_film(file: str, tmp_path: Path) -> None:
    write_film(tmp_path / "clips", CLIP)
    (tmp_path / "yard").mkdir()
    with pytest.raises(ClipError):
        copy_clip(ClipFolder(tmp_path / "clips"), file, tmp_path / "yard", "open", None, None)
    assert not [*(tmp_path / "yard").rglob("*.mp4*")]
