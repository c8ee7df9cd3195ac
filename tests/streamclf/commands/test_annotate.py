"""The annotated film has all pictures of the film, each for its time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.clips import read_number, write_clip, write_flat
from support.sound import flash_and_beep_s, write_film_with_sound

from engines.bundle import ModelSpec
from streamclf.classifier.offline import FileResult
from streamclf.classifier.window_classifier import WindowResult
from streamclf.commands.annotate import write_annotated
from streamclf.config.picture_area import PictureArea
from streamclf.errors import SourceError

SPEC = ModelSpec.model_construct(labels=("dark", "bright"))


def result(seconds: float, *, changes_at: float = 1e9, short: bool = False) -> FileResult:
    first, second = np.array([0.9, 0.1], np.float32), np.array([0.2, 0.8], np.float32)
    windows = [
        WindowResult(start_s=i / 5, end_s=i / 5 + 0.8, probabilities=first if i / 5 < changes_at else second)
        for i in range(round(5 * (seconds - 0.8)) + 1)
    ]
    return FileResult(windows=windows, short_clip="hold" if short else None)


def times_of(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [round(1000 * frame.time) for frame in container.decode(video=0) if frame.time is not None]


def test_joined_recordings_are_all_in_the_annotated_film(tmp_path: Path) -> None:
    part = write_clip(tmp_path / "part.ts", frames=25).read_bytes()
    (tmp_path / "film.ts").write_bytes(3 * part)
    write_annotated(tmp_path / "film.ts", tmp_path / "out.mp4", result(3), SPEC)
    assert times_of(tmp_path / "out.mp4") == [40 * i for i in range(75)]


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_long_picture_is_drawn_again_only_where_the_prediction_changes(tmp_path: Path, suffix: str) -> None:
    film = write_clip(tmp_path / "film.mp4", times_ms=[0, 40, 80, 60_000, 60_040])
    write_annotated(film, tmp_path / f"out.{suffix}", result(60, changes_at=30), SPEC)
    times = times_of(tmp_path / f"out.{suffix}")
    assert len(times) <= 7
    assert times[0] == 0
    assert any(abs(at - 800) < 100 for at in times), "the first prediction"
    assert any(abs(at - 30_800) < 200 for at in times), "another prediction"
    assert times[-1] >= 60_000


def test_the_prediction_of_a_short_clip_is_drawn_on_all_of_it(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mp4", frames=10)
    for name, is_short in (("short", True), ("plain", False)):
        write_annotated(film, tmp_path / f"{name}.mp4", result(0.8, short=is_short), SPEC)
    images = []
    for name in ("short", "plain"):
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            images.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    assert np.abs(images[0].astype(int) - images[1]).max() > 50


def streams_of(path: Path) -> dict[str, tuple[str, int, float]]:
    """Return (codec, packets, end of the last one in seconds) of each kind of stream."""
    found = {}
    for kind in ("video", "audio"):
        with av.open(str(path)) as container:
            stream = container.streams.get(**{kind: 0})[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            ends = [float((packet.pts + (packet.duration or 0)) * packet.time_base) for packet in packets]
            found[kind] = (stream.codec_context.name, len(packets), max(ends))
    return found


@pytest.mark.parametrize(
    ("name", "codec", "written"),
    [
        ("film.mp4", "aac", "aac"),
        ("film.ts", "aac", "aac"),
        ("film.mkv", "pcm_s16le", "aac"),
        ("film.avi", "mp3", "mp3"),
    ],
)
def test_the_sound_is_in_the_annotated_film_at_its_time(name: str, codec: str, written: str, tmp_path: Path) -> None:
    film = write_film_with_sound(tmp_path / name, codec=codec)
    output = tmp_path / "out.mp4"
    assert write_annotated(film, output, result(3), SPEC) is None
    given, made = streams_of(film), streams_of(output)
    assert made["video"][1] == given["video"][1] == 75
    assert made["audio"][0].startswith(written)
    if codec == written:
        assert made["audio"][1] == given["audio"][1], "every packet is copied"
    assert abs(made["audio"][2] - 3) < 0.1
    flash_s, beep_s = flash_and_beep_s(output)
    assert abs(flash_s - 1.0) < 0.001
    assert abs(beep_s - flash_s) < 0.03, "MP3 in AVI has no place for its encoder's delay of 23 ms"


def test_sound_that_begins_later_than_the_frames_stays_in_its_place(tmp_path: Path) -> None:
    film = write_film_with_sound(tmp_path / "film.mkv", codec="pcm_s16le", sound_from_s=0.8)
    write_annotated(film, tmp_path / "out.mp4", result(3), SPEC)
    flash_s, beep_s = flash_and_beep_s(tmp_path / "out.mp4")
    assert abs(beep_s - flash_s) < 0.03


def test_the_sound_of_joined_recordings_ends_with_a_warning(tmp_path: Path) -> None:
    part = write_film_with_sound(tmp_path / "part.ts", codec="aac").read_bytes()
    (tmp_path / "film.ts").write_bytes(2 * part)
    note = write_annotated(tmp_path / "film.ts", tmp_path / "out.mp4", result(6), SPEC)
    assert note is not None
    assert "its time stamps do not continue" in note
    made = streams_of(tmp_path / "out.mp4")
    assert made["video"][1] == 150
    assert 2 < made["audio"][2] < 3.5


@pytest.mark.parametrize(("name", "codec"), [("film.ts", "aac"), ("film.mkv", "pcm_s16le"), ("film.avi", "mp3")])
def test_damaged_sound_costs_no_frames(name: str, codec: str, tmp_path: Path) -> None:
    whole = write_film_with_sound(tmp_path / name, codec=codec, seconds=1.2).read_bytes()
    random = np.random.default_rng(3)
    written = 0
    for count in (0, 3, 30, 300, 300, 300):
        damaged = bytearray(whole)
        for place in random.integers(0, len(damaged), count):
            damaged[place] = int(random.integers(256))
        (tmp_path / name).write_bytes(damaged)
        try:
            write_annotated(tmp_path / name, tmp_path / "out.mp4", result(1), SPEC)
        except SourceError as error:
            assert "its disk" not in str(error)  # noqa: PT017 - the film itself cannot be read
            continue
        written += 1
        assert len(times_of(tmp_path / "out.mp4")) > 0
    assert written >= 2
    assert not list(tmp_path.glob(".out*"))


def test_sound_of_more_channels_than_aac_has_becomes_stereo(tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    with av.open(str(write_film_with_sound(tmp_path / "mono.mkv", codec="pcm_s16le"))) as mono:
        frames = [frame.to_ndarray(format="rgb24") for frame in mono.decode(video=0)]
    with av.open(str(film), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound: Any = container.add_stream("pcm_s16le", rate=48_000, layout="hexadecagonal")
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
            samples = av.AudioFrame.from_ndarray(np.full((1, 16 * 1920), 900, np.int16), "s16", "hexadecagonal")
            samples.sample_rate, samples.pts, samples.time_base = 48_000, 1920 * number, Fraction(1, 48_000)
            container.mux(sound.encode(samples))
        container.mux(video.encode(None))
    assert write_annotated(film, tmp_path / "out.mp4", result(3), SPEC) is None
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].layout.name == "stereo"
        assert container.streams.video[0].frames == 75


def test_frames_keep_their_times_at_a_variable_rate(tmp_path: Path) -> None:
    times = [0, 33, 71, 100, 340, 341, 400, 733, 800]
    film = write_clip(tmp_path / "film.mkv", times_ms=times)
    write_annotated(film, tmp_path / "out.mp4", result(0.8), SPEC)
    assert times_of(tmp_path / "out.mp4") == times


def test_the_times_of_29_97_frames_per_second_are_exact(tmp_path: Path) -> None:
    film = write_film_with_sound(tmp_path / "film.mp4", codec="aac", fps=Fraction(30_000, 1001), seconds=1.001)
    write_annotated(film, tmp_path / "out.mp4", result(1), SPEC)
    with av.open(str(tmp_path / "out.mp4")) as container:
        times = [(frame.pts or 0) * (frame.time_base or 0) for frame in container.decode(video=0)]
        assert times == [Fraction(1001 * i, 30_000) for i in range(30)]


def test_a_rotated_film_is_upright(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mp4", frames=10, rotation=90)
    write_annotated(film, tmp_path / "out.mp4", result(0), SPEC)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.height, frame.width) == (640, 360)  # 320 x 180, enlarged so that text can be read
    assert read_number(np.rot90(frame.to_ndarray(format="rgb24"), k=-1)) == 0


def test_the_film_shows_the_whole_picture_turned_and_masked_with_the_region(tmp_path: Path) -> None:
    film = write_flat(tmp_path / "film.mp4", (90, 90, 90), width=640, height=360, frames=25)
    area = PictureArea(rotate=90, mask=[[0, 0, 0.5, 0.2]], region=[0.25, 0.5, 0.75, 0.75])
    write_annotated(film, tmp_path / "out.mp4", result(1), SPEC, area=area)
    write_annotated(film, tmp_path / "plain.mp4", result(1), SPEC, area=area.without_region)
    images = []
    for name in ("out", "plain"):
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            images.append([frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)][10])
    assert images[0].shape == (640, 360, 3)
    assert images[0][64:126, :178].max() < 20, "the mask"
    changed = np.abs(images[0] - images[1]).max(axis=2) > 60
    ys, xs = np.nonzero(changed)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == pytest.approx((320, 480, 90, 270), abs=6), "the rectangle"
    assert not changed[330:470, 100:260].any()


def test_independent_labels_are_drawn_together(tmp_path: Path) -> None:
    """With both labels present the picture differs from that with one, although the most probable label is the same."""
    film = write_clip(tmp_path / "film.mp4", frames=10)
    images = []
    for name, thresholds in (("both", {"dark": 0.05, "bright": 0.05}), ("one", {}), ("none", {"dark": 0.99})):
        spec = SPEC.model_copy(update={"activation": "sigmoid", "thresholds": thresholds})
        write_annotated(film, tmp_path / f"{name}.mp4", result(0.8, short=True), spec)
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            images.append(next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int))
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (abs(images[one] - images[other]).max(axis=-1) > 60).sum() > 200
