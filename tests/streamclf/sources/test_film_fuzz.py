"""Films with random time stamps and random damage: no error but our own, and no frame lost, repeated or out of order.

The seeds are fixed. A few run always; `-m slow` runs 500 films with random times and 300 damaged ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import av.error
import pytest
from support.clips import X264, remux, write_clip, write_packed_avi

from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import open_source
from streamclf.units import NS
from streamclf.windows.chunks import ChunkBuilder, read_chunks
from streamclf.windows.sampling import ChunkSampler

FLAT = {"preset": "ultrafast", "bf": "2", "x264-params": "b-pyramid=none:b-adapt=0:scenecut=0:threads=1"}
PYRAMID = {"preset": "ultrafast", "bf": "3", "x264-params": "b-pyramid=normal:b-adapt=0:scenecut=0:threads=1"}
SIZE = {"width": 64, "height": 48}
FEW = 24
"""Films of each kind that run always."""
MOST_DIFFERENT = 3
MOST_MS = 100_000
"""The longest jump. A longer picture only takes more time: it is repeated more often."""


def random_times(rng: random.Random) -> Callable[[int, int], int]:
    """Return a function of a packet's number and time stamp in ms that gives it another time stamp, with faults."""
    kind = rng.choice(["jitter", "restart", "jump", "still", "order", "swap", "coarse", "wild", "mixed"])
    step, place, far = rng.randrange(2, 20), rng.randrange(1, 30), rng.choice([50, 1000, 10_000, MOST_MS])

    def change(number: int, at: int) -> int:
        if kind == "jitter":
            return max(0, at + rng.randrange(-far // 50, far // 50 + 1))
        if kind == "restart":
            return at % (40 * place)
        if kind == "jump":
            return at + far * (number >= place)
        if kind == "still":
            return min(at, 40 * place)
        if kind == "order":
            return 40 * number
        if kind == "swap":
            return at + 40 * (1 - 2 * (number % 2))
        if kind == "coarse":
            return at // (40 * step) * 40 * step
        if kind == "wild":
            return rng.randrange(far) if rng.random() < 0.1 else at
        return rng.randrange(far)

    return change


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write the sound films that are changed."""
    folder = tmp_path_factory.mktemp("films")
    options: list[tuple[str, str, dict[str, str] | None]] = [
        ("flat.mp4", "libx264", FLAT),
        ("pyramid.mkv", "libx264", PYRAMID),
        ("plain.ts", "libx264", X264),
        ("flat.ts", "libx264", FLAT),
        ("flat.avi", "libx264", FLAT),
        ("b.avi", "mpeg4", {"bf": "2"}),
        ("b.mpg", "mpeg2video", {"bf": "2"}),
        ("flat.flv", "libx264", FLAT),
        ("flat.nut", "libx264", PYRAMID),
        ("w.wmv", "wmv2", {}),
    ]
    made = [
        write_clip(folder / name, frames=45, gop=12, codec=codec, options=chosen, **SIZE)
        for name, codec, chosen in options
    ]
    return [*made, write_packed_avi(folder / "packed.avi", frames=45, **SIZE)]


def with_random_times(films: list[Path], folder: Path, seed: int) -> Path:
    """Write one film: with random time stamps, or parts of a film joined in a random order."""
    rng = random.Random(seed)
    if rng.random() < 0.6:
        source = rng.choice([film for film in films if film.suffix != ".wmv"])
        return remux(source, folder / f"{seed}.mkv", random_times(rng))  # FFmpeg's other writers refuse such times
    joined = [film for film in films if film.suffix in (".ts", ".avi", ".mpg", ".nut")]
    first = rng.choice(joined)
    data = first.read_bytes()
    size = 188 if first.suffix == ".ts" else 1
    parts = [data]
    for _ in range(rng.randrange(1, 4)):
        cut = rng.randrange(len(data)) // size * size
        parts.append(rng.choice([data, data[cut:], data[:cut]]))
    target = folder / f"{seed}{first.suffix}"
    target.write_bytes(b"".join(parts))
    return target


def with_damage(films: list[Path], folder: Path, seed: int) -> Path:
    """Write one film with flipped bytes, a part missing, or its end cut off."""
    rng = random.Random(seed)
    source = rng.choice(films)
    data = bytearray(source.read_bytes())
    kind = rng.choice(["few", "many", "header", "cut", "hole", "zeros", "twice"])
    if kind in ("few", "many", "header"):
        end = min(1000, len(data)) if kind == "header" else len(data)
        for _ in range({"few": 5, "many": 100, "header": 8}[kind]):
            data[rng.randrange(end)] = rng.randrange(256)
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    else:
        begin = rng.randrange(len(data))
        end = min(len(data), begin + rng.randrange(1, 3000))
        part = data[begin:end]
        data[begin:end] = {"hole": b"", "zeros": bytes(len(part)), "twice": part + part}[kind]
    target = folder / f"{seed}{source.suffix}"
    target.write_bytes(data)
    return target


def decodable(path: Path) -> int | None:
    """Return how many frames PyAV decodes; None if FFmpeg cannot read the file."""
    count = 0
    try:
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            streams = [one for one in container.streams.video if one.codec_context is not None]
            stream = max(streams, key=lambda one: one.codec_context.width * one.codec_context.height)
            stream.codec_context.thread_type = "AUTO"
            for packet in container.demux():
                if packet.stream.index == stream.index:
                    with suppress(av.error.FFmpegError, ValueError):
                        count += len(packet.decode())
    except (av.error.FFmpegError, ValueError, OSError):
        return count or None
    return count


def check(path: Path, *, damaged: bool = False) -> None:
    """Read a film plainly, with skipping, and as capture does."""
    config = StreamConfig(url=str(path), pace="fast")
    times: list[int] = []
    new = 0
    error: str | None = None
    try:
        with open_source(config) as source:
            for frame in source:
                times.append(frame.pts_ns)
                assert frame.image is not None
                frame.to_rgb(8, 8)
                new += not frame.repeated
    except SourceError as found:
        error = str(found)
        assert "\n" not in error
    assert times == sorted(set(times)), "media time increases strictly"
    assert not times or times[0] <= NS
    expected = decodable(path)
    assert error is not None or new == expected, f"{new} frames of {expected} decodable ones"
    with suppress(SourceError), open_source(config) as source:
        for _, pixels in read_chunks(source, fps=10, frames_per_chunk=2, height=8, width=8, resize="crop"):
            assert pixels.shape == (2, 8, 8, 3)
    seen = frames_with_skipping(config, error)
    # A frame that is skipped may be one that cannot be decoded, or one that FFmpeg gives twice.
    assert error is not None or damaged or abs(seen - new) <= MOST_DIFFERENT


def frames_with_skipping(config: StreamConfig, error: str | None) -> int:
    """Read as capture does, and count the frames that are not repeated.

    A skipped frame has its time and its place, but is never rendered.
    """
    sampler = ChunkSampler(10, 2)
    builder = ChunkBuilder(sampler, NoSink(), height=8, width=8, resize="stretch")
    last, seen = -1, 0
    try:
        with open_source(config) as source:
            source.set_frame_selector(sampler)
            for frame in source:
                assert frame.pts_ns > last
                last, seen = frame.pts_ns, seen + (not frame.repeated)
                for _, chosen in builder.sample(frame):
                    assert not chosen.skipped
    except SourceError:
        assert error is not None
    return seen


class NoSink:
    """A sink for chunks that are not rendered."""

    def begin(self) -> Any:
        raise AssertionError("nothing is rendered here")

    def commit(self, chunk: Any) -> int:
        raise AssertionError("nothing is rendered here")


@pytest.mark.parametrize("seed", range(FEW))
def test_films_with_random_times(films: list[Path], tmp_path: Path, seed: int) -> None:
    check(with_random_times(films, tmp_path, seed))


@pytest.mark.parametrize("seed", range(FEW))
def test_damaged_films(films: list[Path], tmp_path: Path, seed: int) -> None:
    check(with_damage(films, tmp_path, seed), damaged=True)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 500, 50))
def test_500_films_with_random_times(films: list[Path], tmp_path: Path, first: int) -> None:
    for seed in range(first, first + 50):
        check(with_random_times(films, tmp_path, seed))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 300, 50))
def test_300_damaged_films(films: list[Path], tmp_path: Path, first: int) -> None:
    for seed in range(first, first + 50):
        check(with_damage(films, tmp_path, seed), damaged=True)
