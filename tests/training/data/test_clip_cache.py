"""Decoded clips are cached: no clip is decoded twice, and a killed call resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.clips import write_clip

from training.data import clip_cache
from training.data.clip_cache import store_clips
from training.data.decode import DecodedClip, DecodeSpec, decode_clip

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
