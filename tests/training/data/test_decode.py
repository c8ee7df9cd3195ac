"""Clips are decoded to the frames that serving samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.clips import read_number, set_display_matrix, write_clip

from streamclf.classifier.offline import file_stream
from streamclf.sources import open_source
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


def test_longest_segment_of_a_clip_with_a_gap_is_used(tmp_path: Path) -> None:
    times = [*range(0, 500, 40), *range(3000, 4200, 40)]
    decoded = decode_clip(write_clip(tmp_path / "a.mp4", times_ms=times), SPEC)
    numbers = [read_number(frame, 320, 180) for frame in decoded.frames]
    assert numbers[0] == 13
    assert len(numbers) == 12
    assert decoded.elsewhere == 6
