"""Films that were cut off: a warning with both durations, or an error that says what is missing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.clips import X264, draw, write_clip

from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import open_source
from streamclf.sources.av_opening import CUT_SHORT_NS, declared_ns

SMALL = {"width": 64, "height": 48}
FLAT = {"preset": "ultrafast", "bf": "0"}


def read(path: Path) -> tuple[int, str | None]:
    """Return the number of frames of a film, and its warning."""
    with open_source(StreamConfig(url=str(path), pace="fast")) as source:
        count = sum(not frame.repeated for frame in source)
        return count, source.warning


def cut(path: Path, share: float) -> Path:
    target = path.with_name(f"cut{path.suffix}")
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def write_two_lengths(path: Path) -> Path:
    """Write a Matroska film of 1 s whose second, smaller video lasts 10 s."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25), container.add_stream("mpeg4", rate=25)]
        for stream, width in zip(streams, (64, 32), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
        for number in range(250):
            for stream, count in zip(streams, (25, 250), strict=True):
                if number < count:
                    image = np.ascontiguousarray(draw(number, stream.width, 48))
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("name", "codec"), [("f.mp4", "libx264"), ("f.mov", "mpeg4"), ("f.3gp", "mpeg4")])
def test_a_film_without_its_index_is_named_as_cut_off(tmp_path: Path, name: str, codec: str) -> None:
    film = write_clip(tmp_path / name, codec=codec, options=FLAT if codec == "libx264" else {}, **SMALL)
    with pytest.raises(SourceError, match=r"its index \(moov\) is missing; copy it again, or repair it"):
        read(cut(film, 0.7))


@pytest.mark.parametrize("name", ["f.avi", "f.mkv", "f.wmv"])
def test_a_film_cut_off_in_its_header_is_named_as_cut_off(tmp_path: Path, name: str) -> None:
    film = write_clip(tmp_path / name, codec="mpeg4" if name != "f.wmv" else "wmv2", options={}, **SMALL)
    short = tmp_path / f"short{film.suffix}"
    short.write_bytes(film.read_bytes()[:200])
    with pytest.raises(SourceError, match=rf"cut off: it has 200 bytes and declares {film.stat().st_size}; copy"):
        read(short)


@pytest.mark.parametrize(
    ("name", "codec"), [("f.wmv", "wmv2"), ("f.flv", "flv1"), ("f.mxf", "mpeg2video"), ("f.ivf", "libvpx")]
)
def test_a_film_cut_short_has_a_warning_with_both_durations(tmp_path: Path, name: str, codec: str) -> None:
    film = write_clip(tmp_path / name, codec=codec, options={}, frames=75, width=320, height=240)
    assert read(film) == (75, None)
    count, warning = read(cut(film, 0.6))
    assert 20 < count < 75
    assert warning is not None
    assert "cut short: it declares 3.0 s, " in warning or "declares 3.1 s, " in warning


def test_a_few_missing_frames_matter_if_bytes_are_missing(tmp_path: Path) -> None:
    options = {**FLAT, "x264-params": "scenecut=0"}
    film = write_clip(tmp_path / "f.mkv", options=options, **SMALL)
    count, warning = read(cut(film, 0.9))
    assert count >= 40
    assert warning is not None
    assert "cut short: it declares 2.0 s, 1." in warning


def test_a_film_whose_other_stream_is_longer_is_not_cut_short(tmp_path: Path) -> None:
    assert read(write_two_lengths(tmp_path / "f.mkv")) == (25, None)


def test_bytes_that_a_phone_appends_are_no_sign_of_a_cut(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "f.mp4", options=X264, **SMALL)
    film.write_bytes(film.read_bytes() + b"\x00\x00\x0b\x0aSEFH" + bytes(30) + b"SEFT")
    assert read(film) == (50, None)


def test_a_film_that_cannot_be_read_on_gives_what_was_read(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "f.y4m", codec="wrapped_avframe", options={}, **SMALL)
    film.write_bytes(film.read_bytes() + b"no frame\n" * 1000)
    count, warning = read(film)
    assert count == 50
    assert warning is not None
    assert "FFmpeg cannot read on after 2.0 s" in warning


def test_packets_that_cannot_be_decoded_give_a_warning(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "f.avi", options=X264, gop=1, **SMALL)
    data = bytearray(film.read_bytes())
    place = data.index(b"movi")
    for number in range(12):
        place = data.index(b"00dc", place) + 8
        if number < 10:
            continue
        size = int.from_bytes(data[place - 4 : place], "little")
        data[place : place + size] = bytes(size)
    film.write_bytes(data)
    count, warning = read(film)
    assert count == 48
    assert warning is not None
    assert "damaged: 2 packets could not be decoded" in warning


def test_a_film_that_names_no_codec_is_not_called_damaged(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "f.avi", options=X264, **SMALL)
    film.write_bytes(film.read_bytes().replace(b"H264", bytes(4)))
    with pytest.raises(SourceError, match="the file does not name the codec of its video, so that FFmpeg takes it"):
        read(film)


@pytest.mark.parametrize("length", [b"\x01" + b"\xff" * 7, b"\x00" * 8, b"\x01" + b"\xff" * 6 + b"\xfe"])
def test_a_header_of_an_impossible_length_is_one_line(tmp_path: Path, length: bytes) -> None:
    film = tmp_path / "f.mkv"
    film.write_bytes(b"\x1a\x45\xdf\xa3" + length + bytes(100))
    with pytest.raises(SourceError, match=r"f\.mkv: "):
        read(film)


def test_the_duration_of_the_stream_counts_and_not_that_of_the_file() -> None:
    """FFmpeg gives each Matroska stream the duration of the file, which an audio stream may determine."""

    class Stream:
        duration, time_base, metadata = 10_000, Fraction(1, 1000), {"DURATION": "00:00:03.003000000"}

    class Format:
        name = "matroska,webm"

    class Container:
        format, duration, streams = Format, 10_000_000, (Stream, Stream)

    container: Any = Container
    stream: Any = Stream
    assert declared_ns(container, stream) == (3_003_000_000, CUT_SHORT_NS)
