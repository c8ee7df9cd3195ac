"""Clips are decoded to the frames that serving samples."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.clips import read_number, set_display_matrix, write_clip, write_packed_avi

from streamclf.classifier.offline import file_stream
from streamclf.sources import Frame, open_source
from streamclf.windows.chunks import read_chunks
from training.data.decode import DecodeSpec, decode_clip

SPEC = DecodeSpec(fps=10.0, frames_per_chunk=2, steps=1, height=90, width=160, resize="stretch")


def test_decoded_frames_equal_the_frames_of_serving(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=52, fps=25)
    decoded = decode_clip(path, SPEC)
    with open_source(file_stream(path)) as source:
        chunks = list(read_chunks(source, fps=10.0, frames_per_chunk=2, height=90, width=160, resize="stretch"))
    served = np.concatenate([pixels for _, pixels in chunks])
    assert np.array_equal(decoded.frames[: len(served)], served)
    assert len(decoded.frames) == len(served) + 1, "the last frame is kept, though its chunk is not full"
    numbers = [read_number(frame, 320, 180) for frame in decoded.frames]
    assert numbers == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37, 40, 42, 45, 47, 50]


def test_a_mirrored_clip_is_decoded_as_serving_shows_it(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=4, fps=10)
    plain = decode_clip(path, SPEC).frames
    mirrored = decode_clip(set_display_matrix(path, (-1, 0, 0, 1)), SPEC).frames
    assert np.abs(mirrored.astype(int) - plain[:, :, ::-1]).mean() < 2
    assert np.abs(mirrored.astype(int) - plain).mean() > 20


def test_every_nth_frame_of_finer_sampling_equals_the_models_sampling(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=50, fps=50)
    plain = decode_clip(path, SPEC)
    finer = decode_clip(path, DecodeSpec(fps=10.0, frames_per_chunk=2, steps=3, height=90, width=160, resize="stretch"))
    assert np.array_equal(finer.frames[::3][: len(plain.frames)], plain.frames)


def test_a_picture_of_a_clip_lasts_until_the_next_one(tmp_path: Path) -> None:
    """Screen recordings have no new picture while nothing changes; training uses all of the clip."""
    times = [*range(0, 500, 40), *range(3000, 4200, 40)]
    decoded = decode_clip(write_clip(tmp_path / "a.mp4", times_ms=times), SPEC)
    numbers = [read_number(frame, 320, 180) for frame in decoded.frames]
    assert numbers == [0, 2, 5, 7, *[10] * 1, *[12] * 25, *numbers[30:]]
    assert numbers[30:] == [13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38, 40]
    assert decoded.elsewhere == 0


def test_the_longest_segment_of_a_damaged_clip_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken frames that last longer than a chunk end a segment."""
    path = write_clip(tmp_path / "a.mp4", frames=50)
    with open_source(file_stream(path)) as source:
        frames = [replace(frame, broken=15 <= frame.index < 25) for frame in source]
    monkeypatch.setattr("training.data.decode.open_source", lambda config: nullcontext(ListSource(frames)))
    decoded = decode_clip(path, SPEC)
    numbers = [read_number(frame, 320, 180) for frame in decoded.frames]
    assert numbers[0] == 25
    assert len(numbers) == 10
    assert decoded.elsewhere == 9


class ListSource(list[Frame]):
    """The frames of a source, as a list."""

    undecodable = 0


def test_training_uses_all_frames_of_an_avi_with_packed_b_frames(tmp_path: Path) -> None:
    """XviD and DivX wrote such files; UCF101 consists of them."""
    decoded = decode_clip(write_packed_avi(tmp_path / "a.avi", frames=50), replace(SPEC, fps=25.0))
    assert [read_number(frame, 320, 180) for frame in decoded.frames] == list(range(50))
    assert (decoded.elsewhere, decoded.undecodable) == (0, 0)
