"""A stream that a program pushes has the windows of the film, encodes each chunk once, and takes live times."""

from __future__ import annotations

import itertools
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import make_brightness_bundle

import streamclf
from engines.arrays import F32, I32, U8
from engines.errors import DeviceError
from streamclf.api.shared_engine import BankRegion
from streamclf.errors import ModelError, SourceError, UsageError


def moving(count: int, height: int = 24, width: int = 32) -> U8:
    """Return (count, height, width, 3): each frame has another brightness."""
    levels = 100 + 60 * np.sin(np.arange(count) / 5)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).astype(np.uint8)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of chunks of each call of the encoder."""
    counts: list[int] = []
    encode = BankRegion.encode

    def count(self: BankRegion, frames: U8, slots: I32) -> None:
        counts.append(len(frames))
        encode(self, frames, slots)

    monkeypatch.setattr(BankRegion, "encode", count)
    return counts


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize("timed", [False, True])
def test_frames_pushed_in_any_batches_have_the_windows_of_the_film(
    model: streamclf.Model, encoded: list[int], size: int, timed: bool
) -> None:
    frames = moving(100)
    expected = list(model.classify(frames, fps=25))
    encoded.clear()
    stream = model.new_stream()
    found: list[streamclf.ClassifiedWindow] = []
    for first in range(0, 100, size):
        part = frames[first : first + size].copy()
        times = [number / 25 for number in range(first, first + len(part))]
        found += stream.push(part, pts_s=times) if timed else stream.push(part, 25)
        part[...] = 0  # the program uses its array again
    assert found == expected
    assert all(np.array_equal(one.vector, other.vector) for one, other in zip(found, expected, strict=True))
    assert sum(encoded) == 20, "4 s have 20 chunks of 0.2 s, and each is encoded once"


def test_streams_of_one_model_do_not_mix(model: streamclf.Model) -> None:
    streams = {level: model.new_stream() for level in (20, 220)}
    found: dict[int, list[streamclf.ClassifiedWindow]] = {20: [], 220: []}
    for _ in range(60):
        for level, stream in streams.items():
            found[level] += stream.push(np.full((9, 9, 3), level, np.uint8), fps=10)
    for level, label in ((20, "dark"), (220, "bright")):
        (alone,) = model.classify(np.full((8, 9, 9, 3), level, np.uint8), fps=10)
        assert len(found[level]) == 27
        assert all((w.label, w.probability) == (label, alone.probability) for w in found[level])


def test_the_models_own_stream_and_frames_of_other_sizes(model: streamclf.Model) -> None:
    windows: list[streamclf.ClassifiedWindow] = []
    for number in range(8):
        windows += model.push([np.full((10 + number, 50 - number, 3), 200, np.uint8)], fps=10)
    (window,) = windows
    assert (window.start_s, window.end_s, window.label) == (0.0, 0.8, "bright")
    with model.new_stream(hop=4) as stream:
        assert [w.start_s for w in stream.push(moving(40), 10)] == [0.0, 0.8, 1.6, 2.4, 3.2]


def test_a_gap_and_a_time_that_goes_back_begin_a_new_segment(model: streamclf.Model) -> None:
    stream = model.new_stream()
    first = [100 + number / 10 for number in range(12)]
    after_a_gap = [110 + number / 10 for number in range(12)]
    back = [5 + number / 10 for number in range(12)]
    starts = [w.start_s for times in (first, after_a_gap, back) for w in stream.push(moving(12), pts_s=times)]
    assert starts == [100.0, 100.2, 100.4, 110.0, 110.2, 110.4, 5.0, 5.2, 5.4]


def test_reset_begins_again(model: streamclf.Model) -> None:
    stream = model.new_stream()
    assert stream.push(moving(6), 10) == []
    stream.reset()
    assert stream.push(moving(7), 10) == [], "the frames before do not count"
    (window,) = stream.push(moving(1), 10)
    assert (window.start_s, window.end_s) == (0.0, 0.8)
    with pytest.raises(UsageError, match="began with the other one; give that one"):
        stream.push(moving(1), pts_s=2.0)
    stream.reset()
    assert stream.push(moving(1), pts_s=2.0) == []


def test_media_time_continues_when_the_rate_changes(model: streamclf.Model) -> None:
    stream = model.new_stream()
    windows = stream.push(moving(20), 10) + stream.push(moving(50), 25) + stream.push(moving(4), 2)
    assert [window.start_s for window in windows] == pytest.approx([0.2 * number for number in range(27)])


@pytest.mark.parametrize(
    ("frames", "times", "message"),
    [
        (moving(2), {}, "fps: missing"),
        (moving(2), {"fps": 10, "pts_s": [0, 1]}, "give one of them"),
        (moving(2), {"fps": -1}, "fps=-1: must be"),
        (moving(2), {"pts_s": [0]}, "pts_s: fewer times than frames"),
        (moving(2), {"pts_s": itertools.count()}, "pts_s: more times than frames"),
        (moving(2), {"pts_s": 1.0}, "pts_s: fewer times than frames"),
        (moving(2), {"pts_s": [0, None]}, "pts_s[1]=None: must be seconds"),
        ((frame for frame in moving(2)), {"fps": 10}, "frames: generator; must be an array (T, H, W, 3), or a list"),
        ([moving(1)[0], np.zeros((0, 4, 3), np.uint8)], {"fps": 10}, "frames[1]: uint8 (0, 4, 3)"),
        (np.zeros((1, 20_000, 1, 3), np.uint8), {"fps": 10}, "1x20000; at most 16384 a side"),
        ("film.mp4", {"fps": 10}, "frames: str; must be"),
    ],
)
def test_wrong_frames_are_refused_and_leave_the_stream_as_it_was(
    model: streamclf.Model, frames: Any, times: Any, message: str
) -> None:
    stream = model.new_stream()
    assert stream.push(moving(7), 10) == []
    with pytest.raises(UsageError, match=re.escape(message)):
        stream.push(frames, **times)
    assert len(stream.push(moving(1), 10)) == 1


def test_an_image_that_the_model_cannot_crop_resets_the_stream(tmp_path: Path) -> None:
    bundle = make_brightness_bundle(tmp_path / "crop", resize="crop").path
    with streamclf.open_model(bundle, backend="onnxruntime", precision="fp32") as model:
        model.push(moving(7), 10)
        with pytest.raises(SourceError, match="too elongated to crop"):
            model.push(np.zeros((4, 4000, 3), np.uint8), 10)
        (window,) = model.push(moving(8), 10)
        assert window.start_s == 0.0


def test_an_empty_batch_changes_nothing(model: streamclf.Model) -> None:
    stream = model.new_stream()
    for empty in ([], moving(0)):
        assert stream.push(empty, 10) == []
        assert stream.push(empty, pts_s=[]) == []
    assert len(stream.push(moving(8), pts_s=[number / 10 for number in range(8)])) == 1


def test_a_failed_push_starts_the_stream_again(model: streamclf.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = model.new_stream()
    stream.push(moving(7), 10)
    with model._shared.exclusive() as engine, monkeypatch.context() as patch:

        def fail(windows: I32) -> F32:
            raise DeviceError("the GPU has failed")

        patch.setattr(engine, "classify", fail)
        patch.setattr(model._shared, "_lock", threading.Lock())
        with pytest.raises(ModelError, match="the GPU has failed"):
            stream.push(moving(2), 10)
    assert stream.push(moving(7), 10) == []
    (window,) = stream.push(moving(1), 10)
    assert window.start_s == 0.0


def test_a_second_thread_gets_an_error(model: streamclf.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = model.new_stream()
    reached, finish = threading.Event(), threading.Event()
    encode = BankRegion.encode

    def wait(self: BankRegion, frames: U8, slots: I32) -> None:
        reached.set()
        finish.wait(30)
        encode(self, frames, slots)

    monkeypatch.setattr(BankRegion, "encode", wait)
    windows: list[streamclf.ClassifiedWindow] = []
    thread = threading.Thread(target=lambda: windows.extend(stream.push(moving(8), 10)))
    thread.start()
    assert reached.wait(30)
    for use in (lambda: stream.push(moving(1), 10), stream.reset):
        with pytest.raises(UsageError, match="another thread is using this stream; give each thread its own"):
            use()
    finish.set()
    thread.join(60)
    assert len(windows) == 1


def test_a_closed_stream_is_refused(model: streamclf.Model) -> None:
    stream = model.new_stream()
    stream.close()
    stream.close()
    with pytest.raises(UsageError, match="the stream is closed; make another one"):
        stream.push(moving(1), 10)
