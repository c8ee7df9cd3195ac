"""Decoded clips are cached: no clip is decoded twice, and a killed call resumes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.clips import write_clip

from streamclf.config.picture_area import WHOLE, PictureArea
from training.data import clip_cache
from training.data.clip_cache import store_clips
from training.data.decode import DecodedClip, DecodeSpec, decode_clip
from training.errors import DataError

SPEC = DecodeSpec(fps=10.0, frames_per_chunk=2, steps=1, height=90, width=160, resize="stretch")


def test_clip_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_clip(tmp_path / f"{i}.mp4", frames=10, first=i) for i in range(3)]
    calls = []

    def counting_decode(path: Path, spec: DecodeSpec) -> DecodedClip:
        calls.append(path.name)
        return decode_clip(path, spec)

    monkeypatch.setattr(clip_cache, "decode_clip", counting_decode)
    first = store_clips(paths, SPEC, tmp_path / "cache", workers=1)
    assert store_clips(paths, SPEC, tmp_path / "cache", workers=1) == first
    assert calls == ["0.mp4", "1.mp4", "2.mp4"]
    write_clip(paths[1], frames=12, first=77)
    changed = store_clips(paths, SPEC, tmp_path / "cache", workers=1)
    assert calls[3:] == ["1.mp4"], "a file with new content is a new clip"
    assert changed[0] == first[0]
    assert changed[1] != first[1]


def test_killed_decoding_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_clip(tmp_path / f"{i}.mp4", frames=10, first=i) for i in range(4)]
    calls: list[str] = []
    kill_after = 2

    def dying_decode(path: Path, spec: DecodeSpec) -> DecodedClip:
        if len(calls) == kill_after:
            raise KeyboardInterrupt
        calls.append(path.name)
        return decode_clip(path, spec)

    monkeypatch.setattr(clip_cache, "decode_clip", dying_decode)
    with pytest.raises(KeyboardInterrupt):
        store_clips(paths, SPEC, tmp_path / "cache", workers=1)
    kill_after = 100
    store_clips(paths, SPEC, tmp_path / "cache", workers=1)
    assert calls == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]


def test_unreadable_clip_is_named_by_its_own_path(tmp_path: Path) -> None:
    """Two sets with one cache have a clip with the same bytes. A cache of an older version has a reason, too."""
    write_clip(tmp_path / "good.mp4", frames=3)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bad.mp4").write_bytes(b"not a film" * 100)
        paths = [tmp_path / "good.mp4"] * 30 + [tmp_path / name / "bad.mp4"]
        *good, bad = store_clips(paths, SPEC, tmp_path / "cache", workers=1)
        assert bad.reason.startswith(f"{tmp_path}/{name}/bad.mp4: ")
        assert bad.reason.count("bad.mp4") == 1
        assert good[0].frames is not None
        (written,) = (tmp_path / "cache").glob("*.json")
        key = clip_cache._key(paths[-1], SPEC).stem
        (tmp_path / "cache" / f"{key}.json").write_text('{"reason": "/elsewhere/bad.mp4: not a film"}')
        assert written.stem != key
        *_, bad = store_clips(paths, SPEC, tmp_path / "cache", workers=1)
        assert bad.reason.startswith(f"{tmp_path}/{name}/bad.mp4: ")
        (tmp_path / "cache" / f"{key}.json").unlink()


def test_pipes_folders_and_absent_files_are_named_with_their_reason(tmp_path: Path) -> None:
    write_clip(tmp_path / "good.mp4", frames=3)
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("gone.mp4")
    wrong = [tmp_path / "pipe.mp4", tmp_path, tmp_path / "none.mp4", tmp_path / "link.mp4", tmp_path / ("x" * 300)]
    stored = store_clips([tmp_path / "good.mp4"] * 100 + wrong, SPEC, tmp_path / "cache", workers=1)
    assert [item.reason.rpartition(": ")[2] for item in stored if item.reason] == [
        "not a file",
        "not a file",
        "no such file",
        "a link to a file that does not exist",
        "File name too long",
    ]


def test_cache_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"cache: cannot be written .*data\.cache"):
        store_clips([], SPEC, tmp_path / "cache", workers=1)


def test_another_part_of_the_picture_is_another_clip_and_the_whole_one_keeps_its_key(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=10)
    whole, region, turned = (
        store_clips([path], replace(SPEC, area=area), tmp_path / "cache", workers=1)[0].frames
        for area in (WHOLE, PictureArea(region=(0, 0, 0.5, 1)), PictureArea(rotate=180))
    )
    assert whole == store_clips([path], SPEC, tmp_path / "cache", workers=1)[0].frames
    assert len({whole, region, turned}) == 3
