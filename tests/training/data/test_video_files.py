"""Clips decoded as the service decodes them, once; what is wrong with them is said."""

from __future__ import annotations

import numpy as np
import pytest
from support.clips import read_number, write_audio, write_clip
from support.labelled import CLASSES, draw_clip, write_film, write_list, write_set, write_volumes

from streamclf.classifier.offline import file_stream
from streamclf.sources import open_source
from streamclf.windows.chunks import read_chunks
from training.data import clip_cache
from training.data.clip_cache import store_clips
from training.data.decode import DecodeSpec, decode_clip
from training.data.shape import Shape
from training.data.video_files import ClipsData
from training.data.volumes import VolumesData
from training.data_section import MixedData
from training.errors import DataError

SHAPE = Shape(fps=10.0, frames_per_chunk=2, chunks=4, height=32, width=48)
SPEC = DecodeSpec(fps=10.0, frames_per_chunk=2, steps=1, height=90, width=160, resize="stretch")


def test_frames_are_those_that_serving_samples(tmp_path):
    path = write_clip(tmp_path / "a.mp4", frames=52, fps=25)
    decoded = decode_clip(path, SPEC)
    with open_source(file_stream(path)) as source:
        chunks = list(read_chunks(source, fps=10.0, frames_per_chunk=2, height=90, width=160, resize="stretch"))
    served = np.concatenate([pixels for _, pixels in chunks])
    assert np.array_equal(decoded.frames[: len(served)], served)
    assert len(decoded.frames) == len(served) + 1, "the last frame, which makes no whole chunk, is kept here"
    numbers = [read_number(frame, 320, 180) for frame in decoded.frames]
    assert numbers == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37, 40, 42, 45, 47, 50]


def test_more_frames_may_be_kept_and_every_nth_is_the_models(tmp_path):
    path = write_clip(tmp_path / "a.mp4", frames=50, fps=50)
    plain = decode_clip(path, SPEC)
    finer = decode_clip(path, DecodeSpec(fps=10.0, frames_per_chunk=2, steps=3, height=90, width=160, resize="stretch"))
    assert np.array_equal(finer.frames[::3][: len(plain.frames)], plain.frames)


def test_of_a_clip_with_a_gap_the_longest_run_is_taken(tmp_path):
    times = [*range(0, 500, 40), *range(3000, 4200, 40)]
    decoded = decode_clip(write_clip(tmp_path / "a.mp4", times_ms=times), SPEC)
    numbers = [read_number(frame, 320, 180) for frame in decoded.frames]
    assert numbers[0] == 13
    assert len(numbers) == 12
    assert decoded.elsewhere == 6


def test_nothing_is_decoded_twice(tmp_path, monkeypatch):
    paths = [write_clip(tmp_path / f"{i}.mp4", frames=10, first=i) for i in range(3)]
    calls = []
    plain = decode_clip
    monkeypatch.setattr(clip_cache, "decode_clip", lambda path, spec: calls.append(path.name) or plain(path, spec))
    first = store_clips(paths, SPEC, tmp_path / "cache", workers=1)
    assert store_clips(paths, SPEC, tmp_path / "cache", workers=1) == first
    assert calls == ["0.mp4", "1.mp4", "2.mp4"]
    write_clip(paths[1], frames=12, first=77)
    changed = store_clips(paths, SPEC, tmp_path / "cache", workers=1)
    assert calls[3:] == ["1.mp4"], "a file with other content is another clip"
    assert changed[0] == first[0]
    assert changed[1] != first[1]


def test_a_killed_decoding_goes_on_where_it_stopped(tmp_path, monkeypatch):
    paths = [write_clip(tmp_path / f"{i}.mp4", frames=10, first=i) for i in range(4)]
    calls, plain = [], decode_clip

    def dies(path, spec):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(path.name)
        return plain(path, spec)

    monkeypatch.setattr(clip_cache, "decode_clip", dies)
    with pytest.raises(KeyboardInterrupt):
        store_clips(paths, SPEC, tmp_path / "cache", workers=1)
    monkeypatch.setattr(clip_cache, "decode_clip", lambda path, spec: calls.append(path.name) or plain(path, spec))
    store_clips(paths, SPEC, tmp_path / "cache", workers=1)
    assert calls == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three classes of eight clips, four of each held back."""
    folder = tmp_path_factory.mktemp("films")
    write_set(folder, clips=6, validation=4)
    return folder


def clips_data(films, tmp_path, **keys) -> ClipsData:
    return ClipsData(path=films / "clips.csv", cache=tmp_path / "cache", workers=1, **keys)


def test_a_set_is_split_as_its_list_says(films, tmp_path):
    data = clips_data(films, tmp_path, train_scale=1.25, steps=2).open(SHAPE, seed=1, stretch=False)
    assert data.labels == CLASSES
    assert np.bincount(data.training.labels).tolist() == [6, 6, 6]
    assert np.bincount(data.validation.labels).tolist() == [4, 4, 4]
    assert data.training.frames(0).shape == (24, 40, 60, 3)
    assert data.validation.frames(0).shape == (12, 32, 48, 3)


def test_corrupt_videos_among_good_ones_are_listed_and_left_out(films, tmp_path, capsys):
    rows = [tuple(line.split(",")) for line in (films / "clips.csv").read_text().splitlines()[1:]]
    (films / "bad.mp4").write_bytes(b"not a film" * 100)
    path = write_list(films / "with_bad.csv", [*rows * 2, ("bad.mp4", "left", "train", "x")])
    data = ClipsData(path=path, cache=tmp_path, workers=1, find_duplicates=False).open(SHAPE, seed=1, stretch=False)
    assert len(data.training.labels) == 36
    (note,) = [note for note in data.notes if "cannot be read" in note]
    assert note.startswith("training: 1 of 37 clips cannot be read and are left out")
    assert "bad.mp4" in note


def test_over_five_percent_of_corrupt_videos_fail(films, tmp_path):
    write_audio(films / "sound.mp4")
    rows = [tuple(line.split(",")) for line in (films / "clips.csv").read_text().splitlines()[1:]]
    path = write_list(
        films / "more_bad.csv", [*rows, ("sound.mp4", "left", "train", "x"), ("gone.mp4", "left", "train", "y")]
    )
    with pytest.raises(
        DataError, match=r"2 of 20 clips cannot be read, at most 5% may: .*sound.mp4.*gone.mp4: no such file"
    ):
        ClipsData(path=path, cache=tmp_path, workers=1).open(SHAPE, seed=1, stretch=False)


def test_short_clips_are_counted(films, tmp_path):
    long = Shape(fps=10.0, frames_per_chunk=4, chunks=5, height=32, width=48)
    data = clips_data(films, tmp_path).open(long, seed=1, stretch=False)
    assert any("18 of 18 clips are shorter than a window (shortest 12 of 20 frames)" in note for note in data.notes)


def test_near_duplicates_across_the_split_are_said(tmp_path):
    frames = draw_clip("left", 5, frames=14)
    rows = []
    for name, pictures, split in (
        ("original_a.mp4", frames[:12], "train"),
        ("copy_a.mp4", np.clip(frames[1:13].astype(int) + 9, 0, 255).astype(np.uint8), "val"),
        ("other_b.mp4", draw_clip("right", 77), "train"),
        ("another_b.mp4", draw_clip("right", 78), "val"),
    ):
        write_film(tmp_path / name, pictures)
        rows.append((name, name[-5], split, name))
    path = write_list(tmp_path / "clips.csv", rows)
    data = ClipsData(path=path, cache=tmp_path / "cache", workers=1).open(SHAPE, seed=1, stretch=False)
    (note,) = [note for note in data.notes if "near-duplicates" in note]
    assert "1 of 2 validation clips" in note
    assert "copy_a.mp4 and original_a.mp4" in note


def test_volumes_are_clips_of_slices(tmp_path):
    path = write_volumes(tmp_path / "organmnist3d.npz")
    shape = Shape(fps=28.0, frames_per_chunk=4, chunks=7, height=28, width=28)
    data = VolumesData(path=path).open(shape, seed=1, stretch=False)
    assert data.labels == tuple(str(i) for i in range(11))
    assert np.bincount(data.training.labels).tolist() == [3] * 11
    with np.load(path) as arrays:
        volume = arrays["train_images"][4]
    frames = data.training.frames(4)
    assert frames.shape == (28, 28, 28, 3)
    assert all(np.array_equal(frames[..., channel], volume) for channel in range(3)), "no voxel is lost"
    smaller = VolumesData(path=path, keep=(24, 24, 24)).open(
        Shape(fps=28.0, frames_per_chunk=8, chunks=3, height=24, width=24),
        seed=1,
        stretch=False,
    )
    assert np.array_equal(smaller.training.frames(4)[..., 0], volume[:24, :24, :24])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"train_images": np.zeros((2, 28, 28, 28), np.float32)}, "no array train_labels"),
        (
            {"train_images": np.zeros((2, 28, 28, 28), np.float32), "train_labels": np.zeros((2, 1), np.uint8)},
            "train_images is float32",
        ),
        (
            {"train_images": np.zeros((2, 8, 8, 8), np.uint8), "train_labels": np.array([None, None])},
            "not a .npz of plain arrays",
        ),
    ],
)
def test_volumes_that_are_none_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "v.npz", **arrays)
    with pytest.raises(DataError, match=said):
        VolumesData(path=tmp_path / "v.npz").open(SHAPE, seed=1, stretch=False)


def test_sources_are_mixed_by_share_with_the_same_classes(films, tmp_path):
    one, other = clips_data(films, tmp_path), clips_data(films, tmp_path, steps=2)
    mixed = MixedData.model_validate(
        {
            "parts": [
                {"share": 3, "data": one.model_dump()},
                {"share": 1, "validation": False, "data": other.model_dump()},
            ]
        }
    )
    data = mixed.open(SHAPE, seed=1, stretch=False)
    assert len(data.training.labels) == 36
    assert data.odds[:18].sum() == pytest.approx(0.75)
    assert len(data.validation.labels) == 12
    assert (data.training.steps(17), data.training.steps(18)) == (1, 2)
    assert len(data.training.frames(18)) == 2 * len(data.training.frames(0))
    wrong = MixedData.model_validate(
        {
            "parts": [
                {"share": 1, "data": one.model_dump()},
                {"share": 1, "data": {**one.model_dump(), "labels": ("right", "left", "still")}},
            ]
        }
    )
    with pytest.raises(DataError, match=r"the same data\.labels"):
        wrong.open(SHAPE, seed=1, stretch=False)
