"""Films whose time stamps are missing, disordered, restart or stand still: every frame comes, in order, in its time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from support.clips import X264, read_number, remux, write_clip, write_packed_avi

from streamclf.config.stream import StreamConfig
from streamclf.sources import Frame, open_source
from streamclf.units import NS
from streamclf.windows.chunks import read_chunks

MS = 1_000_000
FLAT = {"preset": "ultrafast", "bf": "2", "x264-params": "b-pyramid=none:b-adapt=0:scenecut=0:threads=1"}
PYRAMID = {"preset": "ultrafast", "bf": "3", "x264-params": "b-pyramid=normal:b-adapt=0:scenecut=0:threads=1"}


def frames_of(path: Path) -> list[Frame]:
    with open_source(StreamConfig(url=str(path), pace="fast")) as source:
        return list(source)


def numbers(frames: list[Frame]) -> list[int]:
    return [read_number(frame.to_rgb(180, 320), frame.width, frame.height) for frame in frames]


def in_ms(frames: list[Frame]) -> list[int]:
    return [round(frame.pts_ns / MS) for frame in frames]


def check_chunks(path: Path, frames: list[Frame]) -> None:
    """Compare the chunks, for which frames are skipped, with those of all decoded frames."""
    shown = numbers(frames)
    for fps in (5, 10):
        with open_source(StreamConfig(url=str(path), pace="fast")) as source:
            chunks = list(read_chunks(source, fps=fps, frames_per_chunk=1, height=180, width=320, resize="stretch"))
        assert {meta.segment for meta, _ in chunks} == {1}
        times = [frame.pts_ns for frame in frames]
        for meta, pixels in chunks:
            nearest = min(range(len(times)), key=lambda i: (abs(times[i] - meta.start_pts_ns), times[i]))
            assert read_number(pixels[0], 320, 180) == shown[nearest]


def avi(path: Path) -> Path:
    return write_clip(path / "film.avi", options=FLAT)


def avi_pyramid(path: Path) -> Path:
    return write_clip(path / "film.avi", options=PYRAMID)


def avi_without_b_frames(path: Path) -> Path:
    return write_clip(path / "film.avi", options=X264)


def avi_mpeg4(path: Path) -> Path:
    return write_clip(path / "film.avi", codec="mpeg4", options={"bf": "2", "q": "2"})


def avi_packed(path: Path) -> Path:
    return write_packed_avi(path / "film.avi")


def raw_h264(path: Path) -> Path:
    return write_clip(path / "film.h264", options=PYRAMID)


def raw_h264_without_reorder_depth(path: Path) -> Path:
    """Write a film as old encoders do: its sequence parameters do not declare how far frames are reordered."""
    film = write_clip(
        path / "film.h264", options={**X264, "profile": "main", "bf": "3", "b_strategy": "0", "refs": "4"}
    )
    units = re.split(rb"(\x00\x00\x00?\x01)", film.read_bytes())
    film.write_bytes(b"".join(without_vui(unit) if unit and unit[0] & 31 == 7 else unit for unit in units))
    return film


def without_vui(unit: bytes) -> bytes:
    """Remove the video usability information of an H.264 sequence parameter set of the Main profile (7.3.2.1.1)."""
    bits = "".join(f"{byte:08b}" for byte in unit[1:].replace(b"\0\0\3", b"\0\0"))
    at = 24

    def skip_number() -> int:
        nonlocal at
        zeros = bits.index("1", at) - at
        at += 2 * zeros + 1
        return int(bits[at - zeros - 1 : at], 2) - 1

    skip_number()  # id
    skip_number()  # frame number bits
    if skip_number() == 0:  # type of the order count
        skip_number()
    skip_number()  # references
    at += 1
    skip_number()  # width
    skip_number()  # height
    at += 2 if bits[at] == "1" else 3
    at += 1
    if bits[at - 1] == "1":  # cropping
        for _ in range(4):
            skip_number()
    assert bits[at] == "1", "there is information to remove"
    kept = bits[:at] + "01"
    kept += "0" * (-len(kept) % 8)
    return unit[:1] + int(kept, 2).to_bytes(len(kept) // 8, "big")


def raw_hevc(path: Path) -> Path:
    options = {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1:bframes=3:b-adapt=0"}
    return write_clip(path / "film.hevc", codec="libx265", options=options)


def decoding_order(path: Path) -> Path:
    return remux(write_clip(path / "a.mp4", options=FLAT), path / "film.mkv", lambda n, at: 40 * n)


def standing_still(path: Path) -> Path:
    return remux(write_clip(path / "a.mp4", options=FLAT), path / "film.mkv", lambda n, at: 0)


def negative(path: Path) -> Path:
    return remux(write_clip(path / "a.mp4", options=FLAT), path / "film.mkv", lambda n, at: at - 480)


def one_wild_time(path: Path) -> Path:
    return remux(write_clip(path / "a.mp4"), path / "film.mkv", lambda n, at: at + 10**9 * (n == 20))


def restarting(path: Path) -> Path:
    return remux(write_clip(path / "a.mp4", options=FLAT), path / "film.mkv", lambda n, at: at % 1000)


def hours_later(path: Path) -> Path:
    """MPEG-TS may restart its clock anywhere."""
    return shifted(path, lambda n: 36_000 * (n >= 25))


def earlier(path: Path) -> Path:
    return shifted(path, lambda n: -5 * (n >= 25))


def wrap_around(path: Path) -> Path:
    return shifted(path, lambda n: 2**33 / 90_000 - 2.4)


def shifted(path: Path, seconds: Callable[[int], float]) -> Path:
    """Write MPEG-TS whose packets' time stamps are shifted by `seconds` of the packet's number."""
    target = path / "film.ts"
    with av.open(str(write_clip(path / "a.mp4", options=FLAT))) as reader:
        video = reader.streams.video[0]
        parts: dict[float, list[av.Packet[Any]]] = {}
        for number, packet in enumerate(packet for packet in reader.demux(video) if packet.size):
            parts.setdefault(seconds(number), []).append(packet)
        for number, (offset_s, packets) in enumerate(parts.items()):  # a muxer refuses times that go back
            with av.open(str(path / f"{number}.ts"), "w") as writer:
                stream = writer.add_stream_from_template(video)
                for packet in packets:
                    packet.stream = stream
                    offset = round((offset_s + 10) / packet.time_base)
                    packet.pts, packet.dts = (packet.pts or 0) + offset, (packet.dts or 0) + offset
                    writer.mux(packet)
    target.write_bytes(b"".join((path / f"{number}.ts").read_bytes() for number in range(len(parts))))
    return target


FILMS = [avi, avi_pyramid, avi_without_b_frames, avi_mpeg4, avi_packed, raw_h264, raw_h264_without_reorder_depth,
         raw_hevc, decoding_order, standing_still, negative, one_wild_time, restarting, hours_later, earlier,
         wrap_around]  # fmt: skip


@pytest.mark.parametrize("make", FILMS)
def test_every_frame_comes_in_its_order_and_time(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    frames = frames_of(make(tmp_path))
    assert numbers(frames) == list(range(50))
    assert in_ms(frames) == [40 * i for i in range(50)]
    check_chunks(make(tmp_path), frames)


def test_equal_time_stamps_never_put_frames_in_another_order(tmp_path: Path) -> None:
    film = remux(write_clip(tmp_path / "a.mp4"), tmp_path / "film.mkv", lambda n, at: at // 80 * 80)
    frames = frames_of(film)
    assert numbers(frames) == list(range(50))
    times = [frame.pts_ns for frame in frames]
    assert times == sorted(set(times))
    assert all(abs(frame.pts_ns - 40 * MS * i) <= 41 * MS for i, frame in enumerate(frames)), (
        "media time does not drift"
    )


@pytest.mark.parametrize("suffix", ["ts", "avi", "mpg", "mkv", "mp4"])
def test_media_time_goes_on_where_recordings_are_joined(tmp_path: Path, suffix: str) -> None:
    """As `cat a.ts b.ts` does. Each recording begins with the same time stamps."""
    codec = "mpeg2video" if suffix == "mpg" else "libx264"
    options = {"bf": "2", "q": "2"} if suffix == "mpg" else FLAT
    parts = [
        write_clip(tmp_path / f"{first}.{suffix}", frames=25, first=first, codec=codec, options=options)
        for first in (0, 25, 50)
    ]
    film = tmp_path / f"film.{suffix}"
    film.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = frames_of(film)
    assert numbers(frames) == list(range(75))
    assert in_ms(frames) == [40 * i for i in range(75)]
    check_chunks(film, frames)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_damaged_part_of_joined_films_does_not_hide_the_others(tmp_path: Path, suffix: str) -> None:
    parts = [write_clip(tmp_path / f"{i}.{suffix}", frames=25, first=25 * i).read_bytes() for i in range(3)]
    film = tmp_path / f"film.{suffix}"
    film.write_bytes(parts[0] + parts[1].replace(b"avc1", b"zzzz").replace(b"AVC", b"zzz") + parts[2])
    with open_source(StreamConfig(url=str(film), pace="fast")) as source:
        frames = list(source)
        assert "part 2 of 3 films that the file joins" in str(source.warning)
    assert numbers(frames) == [*range(25), *range(50, 75)]
    assert in_ms(frames) == [40 * i for i in range(50)]


def test_a_jump_within_the_declared_duration_is_a_long_picture(tmp_path: Path) -> None:
    """A time lapse may have a picture every hour. Its repetitions are the same image, not decoded again."""
    film = write_clip(tmp_path / "lapse.mp4", times_ms=[0, 3_600_000, 3_600_040])
    frames = frames_of(film)
    assert frames[-1].pts_ns == 3600 * NS + 40 * MS
    first, *held = frames[:-2]
    assert len(held) == 35_999
    assert all(frame.image is first.image and frame.repeated for frame in held)


@pytest.mark.parametrize(("name", "codec"), [("f.flv", "flv1"), ("f.wmv", "wmv2"), ("f.ivf", "libvpx")])
def test_all_recordings_of_a_file_are_read(tmp_path: Path, name: str, codec: str) -> None:
    first = write_clip(tmp_path / name, codec=codec, options={}, frames=50)
    second = write_clip(tmp_path / f"second_{name}", codec=codec, options={}, frames=25, first=50)
    joined = tmp_path / f"joined{first.suffix}"
    joined.write_bytes(first.read_bytes() + second.read_bytes() + second.read_bytes())
    frames = frames_of(joined)
    assert numbers(frames) == [*range(75), *range(50, 75)]
    assert in_ms(frames) == [40 * number for number in range(100)]


def test_joined_avi_files_may_have_different_codecs(tmp_path: Path) -> None:
    first = write_clip(tmp_path / "a.avi", options=FLAT, frames=50)
    second = write_clip(tmp_path / "b.avi", codec="mpeg4", options={}, frames=25, first=50)
    joined = tmp_path / "joined.avi"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    frames = frames_of(joined)
    assert numbers(frames) == [*range(75)]
    assert in_ms(frames) == [40 * number for number in range(75)]


def test_time_stamps_that_stand_still_at_an_earlier_time_do_not_stop_time(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "source.mp4", options=FLAT)
    film = remux(source, tmp_path / "film.mkv", lambda number, at: at if number < 30 else 1080)
    frames = frames_of(film)
    assert numbers(frames) == list(range(50))
    times = in_ms(frames)
    assert all(after - before == 40 for before, after in zip(times[-18:], times[-17:], strict=False))
