"""`streamclf.classify` gives the command line's numbers for files, and the same for frames in memory."""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.bundles import expected_logits, make_brightness_bundle, make_other_head
from support.clips import write_clip

import streamclf
from engines.arrays import U8
from engines.bundle import load_bundle, write_spec
from streamclf.cli import _main
from streamclf.errors import ModelError, SourceError, UsageError

BACKEND = {"backend": "onnxruntime", "precision": "fp32"}


def as_json(windows: list[streamclf.ClassifiedWindow]) -> list[dict[str, Any]]:
    return [
        {
            "start_s": window.start_s,
            "end_s": window.end_s,
            "top": [[label, round(probability, 6)] for label, probability in window.top(10)],
        }
        for window in windows
    ]


@pytest.mark.parametrize("frames", [60, 9])
def test_several_models_have_the_windows_that_each_has_alone(bundle: Path, tmp_path: Path, frames: int) -> None:
    levels = make_other_head(tmp_path / "levels", load_bundle(bundle)).path
    slow = make_brightness_bundle(tmp_path / "slow", fps=7.0, chunks=3, name="slow").path
    film, paths = write_clip(tmp_path / "film.mp4", frames=frames), [bundle, levels, slow]
    found: dict[str, list[Any]] = {}
    for window in streamclf.classify(film, model=[str(bundle), levels, slow], hop=2, **BACKEND):  # type: ignore[arg-type]
        found.setdefault(window.model, []).append(window)
    assert sorted(found) == ["brightness@1", "levels@1", "slow@1"]
    for path in paths:
        alone = list(streamclf.classify(film, model=path, hop=2, **BACKEND))  # type: ignore[arg-type]
        assert found[alone[0].model] == alone


def test_lists_of_models_that_cannot_be_used_are_refused_at_once(bundle: Path, tmp_path: Path) -> None:
    twin = make_brightness_bundle(tmp_path / "twin", corner=3).path
    absent = str(tmp_path / "absent.mp4")
    for source, models, message in (
        (absent, [], "an empty list"),
        (absent, [bundle, twin], "are both brightness@1"),
        (absent, [bundle, 3], "model: int; must be"),
        (grey([1, 2]), [bundle], "several are only for a film"),
    ):
        with pytest.raises(UsageError, match=message):
            streamclf.classify(source, model=models)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="only for frames"):
        streamclf.classify(absent, model=[bundle], fps=3)
    with pytest.raises(SourceError, match="absent"):
        list(streamclf.classify(absent, model=[bundle], **BACKEND))  # type: ignore[arg-type]


def grey(levels: list[int], height: int = 30, width: int = 40) -> U8:
    """Return one frame of each grey level, (T, height, width, 3)."""
    return np.stack([np.full((height, width, 3), level, np.uint8) for level in levels])


@pytest.mark.parametrize("frames", [60, 9])
@pytest.mark.parametrize("hop", [1, 3])
def test_a_file_has_the_windows_of_the_command_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], frames: int, hop: int
) -> None:
    film = write_clip(tmp_path / "a b.mp4", frames=frames)
    command = ["classify", str(film), "--model", str(bundle), "--hop", str(hop), "--json"]
    assert _main([*command, "--backend", "onnxruntime", "--precision", "fp32"]) == 0
    printed = json.loads(capsys.readouterr().out)
    for source in (film, str(film), film.as_uri()):
        windows = list(streamclf.classify(source, model=bundle, hop=hop, **BACKEND))  # type: ignore[arg-type]
        assert as_json(windows) == printed["windows"]
        assert [window.short_clip for window in windows] == [printed.get("short_clip", {}).get("fill")] * len(windows)
    assert (frames == 9) == (windows[0].short_clip == "hold")


def test_a_film_may_be_decoded_fast_as_on_the_command_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`auto` is fast here, because the model's picture is much smaller than the film's, unless its bundle objects."""
    film = write_clip(tmp_path / "film.mp4", options={"preset": "veryfast", "crf": "40", "bf": "0"})
    vectors = {}
    for decode in ("exact", "fast", "auto"):
        windows = list(streamclf.classify(film, model=bundle, decode=decode, **BACKEND))  # type: ignore[arg-type]
        vectors[decode] = np.stack([window.vector for window in windows])
        command = ["classify", str(film), "--model", str(bundle), "--json", "--decode", decode]
        assert _main([*command, "--backend", "onnxruntime", "--precision", "fp32"]) == 0
        assert as_json(windows) == json.loads(capsys.readouterr().out)["windows"]
    assert not np.array_equal(vectors["fast"], vectors["exact"])
    np.testing.assert_array_equal(vectors["auto"], vectors["fast"])
    own = make_brightness_bundle(tmp_path / "own").path
    write_spec(own, load_bundle(own).spec.model_dump(exclude={"files"}) | {"decode": "exact"})
    windows = list(streamclf.classify(film, model=own, decode="auto", **BACKEND))  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.stack([window.vector for window in windows]), vectors["exact"])


def test_an_unknown_decode_and_one_for_frames_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="decode='turbo': must be one of auto, exact, fast"):
        streamclf.classify(tmp_path / "film.mp4", model=bundle, decode="turbo")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="decode=fast: only for films"):
        streamclf.classify(np.zeros((9, 8, 8, 3), np.uint8), model=bundle, fps=10, decode="fast")


@pytest.mark.parametrize("whole_clips", ["windows", "stretch"])
@pytest.mark.parametrize("frames", [60, 9])
def test_frames_have_the_windows_of_the_file_that_they_come_from(tmp_path: Path, frames: int, whole_clips: str) -> None:
    bundle = make_brightness_bundle(tmp_path / "bundle", whole_clips=whole_clips).path
    film = write_clip(tmp_path / "film.mp4", frames=frames)
    with av.open(str(film)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with streamclf.open_model(bundle, **BACKEND) as model:  # type: ignore[arg-type]
        expected = list(model.classify(film))
        buffer = np.empty_like(decoded[0])

        def reuse_one_array() -> Iterator[U8]:
            for image in decoded:
                buffer[...] = image
                yield buffer

        sources: list[tuple[Any, dict[str, Any]]] = [
            (np.stack(decoded), {"fps": 25}),
            (decoded, {"fps": Fraction(25), "hop": np.int64(1)}),
            (reuse_one_array(), {"fps": 25}),
            (iter(decoded), {"pts_s": (number / 25 for number in range(frames))}),
        ]
        for source, times in sources:
            found = list(model.classify(source, **times))
            assert [(w.start_s, w.end_s, w.short_clip) for w in found] == [
                (w.start_s, w.end_s, w.short_clip) for w in expected
            ]
            for one, other in zip(found, expected, strict=True):
                assert np.abs(one.vector - other.vector).max() < 0.02  # one grey level


def test_a_window_has_the_models_probabilities(model: streamclf.Model) -> None:
    (window,) = model.classify(grey([140] * 8), fps=10)
    logits = expected_logits(grey([140] * 8))
    expected = np.exp(logits) / np.exp(logits).sum()
    assert window.vector == pytest.approx(expected)
    assert window.label == "bright"
    assert window.probability == pytest.approx(expected[1])
    assert window.probabilities == pytest.approx({"dark": expected[0], "bright": expected[1]})
    assert [label for label, _ in window.top()] == ["bright", "dark"]
    assert window.top(1) == [("bright", window.probability)]
    assert (window.start_s, window.end_s, window.short_clip) == (0.0, 0.8, None)
    assert "label='bright'" in repr(window)
    assert pickle.loads(pickle.dumps(window)) == window
    assert (model.labels, model.window_s, model.id) == (("dark", "bright"), 0.8, "brightness@1")
    assert "onnxruntime" in model.engine


def test_windows_come_while_frames_are_read_and_memory_stays_bounded(model: streamclf.Model) -> None:
    alive: set[int] = set()
    most = read = 0

    class Image(np.ndarray[Any, Any]):
        pass

    def endless() -> Iterator[U8]:
        nonlocal most, read
        while True:
            image = np.zeros((8, 8, 3), np.uint8).view(Image)
            alive.add(id(image))
            weakref.finalize(image, alive.discard, id(image))
            read += 1
            most = max(most, len(alive))
            yield image
            del image

    with model.classify(endless(), fps=10) as windows:
        for number, _ in enumerate(windows):
            if number == 0:
                assert read <= 2 * 16 + 2, "a batch of chunks"
            if number == 500:
                break
    assert most < 10
    assert list(windows) == []


def test_a_slow_source_shows_each_image_until_the_next(model: streamclf.Model) -> None:
    windows = list(model.classify(grey([50, 200]), fps=0.5))
    assert (windows[0].start_s, windows[-1].end_s) == (0.0, 4.0)
    assert [window.label for window in windows] == ["dark"] * 9 + ["bright"] * 8
    by_time = list(model.classify(grey([50, 200, 200]), pts_s=[100, 102, 104]))
    assert by_time[0].start_s == 100.0
    assert [window.label for window in by_time] == [window.label for window in windows]


def test_a_film_that_is_cut_short_gives_a_warning(bundle: Path, tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mkv", frames=200)
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    with pytest.warns(UserWarning, match="cut short: it declares 8.0 s") as caught:
        list(streamclf.classify(film, model=bundle, **BACKEND))  # type: ignore[arg-type]
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: streamclf.classify("a.mp4", model="camera-event"), "did you mean camera-events"),
        (lambda m: streamclf.open_model("absent"), "model=absent: no such directory; give a bundle"),
        (lambda m: streamclf.open_model(3), "model: int; must be"),
        (lambda m: streamclf.open_model(backend="cuda"), "backend='cuda': must be one of auto, openvino"),
        (lambda m: streamclf.open_model(precision="fp8"), "precision='fp8': must be one of auto, fp32"),
        (lambda m: streamclf.open_model(threads=-1), "threads=-1: must be a whole number, 0 to 1024"),
        (lambda m: streamclf.open_model(max_streams=True), "max_streams=True: must be a whole number, 1 to"),
        (lambda m: streamclf.classify("a.mp4", model=m, backend="openvino"), "the model is open already"),
        (lambda m: m.classify("a.mp4", hop=5), "hop=5: must be a whole number, 1 to 4"),
        (lambda m: m.classify("a.mp4", fps=25), "only for frames; a file has its own times"),
        (lambda m: streamclf.open_model("a" * 5000), "no such directory; give a bundle"),
        (lambda m: streamclf.open_model("~nobody-of-this-name/model"), "no such directory; give a bundle"),
        (lambda m: m.classify("a.mp4", hop=1.0), "hop=1.0: must be a whole number"),
        (lambda m: m.classify("rtsp://u:secret@cam/1"), "source: a URL; must be a file"),
        (lambda m: m.classify("file://u:secret@cam/1.mp4"), "source: a file URL is file:///ABSOLUTE/PATH"),
        (lambda m: m.classify(b"a.mp4"), "source: bytes; must be the path"),
        (lambda m: m.classify(None), "source: NoneType; must be the path"),
        (lambda m: m.classify(grey([1])), "fps: missing; frames have no times of their own"),
        (lambda m: m.classify(grey([1]), fps=25, pts_s=[0.0]), "fps and pts_s: give one"),
        (lambda m: m.classify(grey([1]), fps=0), "fps=0: must be a number of frames per second"),
        (lambda m: m.classify(grey([1]), fps=float("nan")), "fps=nan: must be"),
        (lambda m: m.classify(grey([1]), fps=True), "fps=True: must be"),
        (lambda m: m.classify(grey([1]) / 255, fps=9), "float64 (1, 30, 40, 3); must be uint8 (T, H, W, 3), RGB; for"),
        (lambda m: m.classify(np.zeros((4, 3, 8, 8), np.uint8), fps=9), "channels come first"),
        (lambda m: m.classify(np.zeros((4, 8, 8, 4), np.uint8), fps=9), "fourth channel"),
        (lambda m: m.classify(np.zeros((8, 8), np.uint8), fps=9), "for a grey image repeat the channel"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    model: streamclf.Model, call: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as refused:
        call(model)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("frames", "times", "message"),
    [
        ([], {"fps": 10}, "frames: empty; give at least one frame"),
        (np.zeros((0, 8, 8, 3), np.uint8), {"fps": 10}, "frames: empty"),
        (["a.mp4", "b.mp4"], {"fps": 10}, "frames[0]: a path or text, no image; classify one file at a time"),
        ([grey([1])[0], grey([1])], {"fps": 10}, "frames[1]: uint8 (1, 30, 40, 3); must be uint8 (H, W, 3)"),
        (grey([1, 2, 3]), {"pts_s": [0, 1]}, "pts_s: 2 times for more frames"),
        (grey([1, 2]), {"pts_s": [0, 1, 2]}, "pts_s: more times than frames"),
        (grey([1, 2]), {"pts_s": [1, 1]}, "pts_s[1]=1 after 1: times must increase"),
        (grey([1, 2]), {"pts_s": [0, 1e9]}, "pts_s[1]=1e+09 after 0: times must increase, by at most 108000 s"),
        (grey([1, 2]), {"pts_s": [0, float("inf")]}, "pts_s[1]=inf: must be seconds"),
        (grey([1, 2]), {"pts_s": [0, "1"]}, "pts_s[1]='1': must be seconds"),
    ],
)
def test_frames_that_cannot_be_used_are_refused_when_they_are_reached(
    model: streamclf.Model, frames: Any, times: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        list(model.classify(frames, **times))
    assert len(list(model.classify(grey([9] * 8), fps=10))) == 1, "the model works on"


def test_files_that_cannot_be_read_give_source_errors(model: streamclf.Model, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    for path, message in (
        (tmp_path / "absent.mp4", "no such file"),
        (tmp_path, "a directory"),
        (tmp_path / "text.mp4", "text.mp4"),
    ):
        with pytest.raises(SourceError, match=message):
            next(model.classify(path))


def test_a_damaged_bundle_and_a_missing_backend_are_model_errors(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=re.escape("spec.json: cannot be read")) as damaged:
        streamclf.open_model(tmp_path)
    assert damaged.value.__cause__ is not None
    with pytest.raises(ModelError, match="int8"):
        streamclf.open_model(bundle, backend="onnxruntime", precision="int8")


def test_a_closed_model_is_named_in_the_error(bundle: Path) -> None:
    model = streamclf.open_model(bundle, **BACKEND)  # type: ignore[arg-type]
    stream, running = model.new_stream(), model.classify(grey([9] * 200), fps=10)
    next(running)
    model.close()
    model.close()
    for use in (
        model.new_stream,
        lambda: list(running),
        lambda: next(model.classify(grey([9]), fps=10)),
        lambda: stream.push(grey([9] * 8), 10),
        lambda: model.push(grey([9]), 10),
    ):
        with pytest.raises(UsageError, match="brightness@1: the model is closed; open it again"):
            use()


def test_streams_beyond_the_number_that_was_asked_for_are_refused(model: streamclf.Model) -> None:
    streams = [model.new_stream() for _ in range(3)]
    for use in (model.new_stream, lambda: next(model.classify(grey([9]), fps=10))):
        with pytest.raises(UsageError, match="3 streams and classifications are open"):
            use()
    streams[0].close()
    assert len(list(model.classify(grey([9]), fps=10))) == 1
    streams[1:] = []
    gc.collect()
    unfinished = model.classify(grey([9] * 100), fps=10)
    next(unfinished)
    again = [model.new_stream(), model.new_stream()]
    unfinished.close()
    assert len([*again, model.new_stream()]) == 3


def test_threads_share_a_model(model: streamclf.Model) -> None:
    """Each thread gets the results of its own frames, because each has its own features."""
    results: dict[int, list[streamclf.ClassifiedWindow]] = {}

    def run(level: int) -> None:
        results[level] = list(model.classify(grey([level] * 400), fps=10))

    threads = [threading.Thread(target=run, args=(level,)) for level in (20, 120, 220)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for level in (20, 120, 220):
        (alone,) = model.classify(grey([level] * 8), fps=10)
        assert len(results[level]) == 197
        assert all(np.array_equal(window.vector, alone.vector) for window in results[level])


def test_a_path_object_of_another_kind_is_taken(model: streamclf.Model, clip: Path) -> None:
    class Odd(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(clip)

    assert len(list(model.classify(Odd()))) == len(list(model.classify(clip)))
