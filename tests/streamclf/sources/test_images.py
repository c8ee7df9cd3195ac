"""Folders of images: natural order, damaged files, loops."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from support.clips import draw, read_number

from engines.arrays import U8
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import Frame, image_file, open_source
from streamclf.sources.decoding import WantedDecoding
from streamclf.sources.image_file import ImageError, decode_reduced, read_image
from streamclf.sources.images import ImageFolderSource, list_images
from streamclf.sources.resize import render_bgr
from streamclf.units import NS
from streamclf.windows.chunks import ChunkBuilder, ListSink
from streamclf.windows.sampling import ChunkSampler


def folder_of(path: Path, names: list[str]) -> Path:
    path.mkdir()
    for number, name in enumerate(names):
        cv2.imwrite(str(path / name), draw(number, 320, 180)[..., ::-1])
    return path


def frames_of(path: Path, **keys: object) -> list[Frame]:
    config = StreamConfig.model_validate({"images": str(path), "fps": 10, "pace": "fast", **keys})
    with open_source(config) as source:
        assert not source.live
        return list(source)


def numbers(frames: list[Frame]) -> list[int]:
    return [read_number(frame.to_rgb(180, 320)) for frame in frames]


def test_images_come_in_natural_order_at_the_configured_rate(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", ["f1.png", "f2.PNG", "f9.jpg", "f010.bmp", "f10.webp", "f11.tiff"])
    (folder / "notes.txt").write_text("not an image")
    (folder / "f0.png").mkdir()
    frames = frames_of(folder)
    assert numbers(frames) == [0, 1, 2, 3, 4, 5], "f10 and f010 are the same number"
    assert [frame.pts_ns for frame in frames] == [i * NS // 10 for i in range(6)]
    assert [frame.index for frame in frames] == list(range(6))
    assert (frames[0].width, frames[0].height) == (320, 180)


def test_a_time_lapse_of_images_shows_each_until_the_next(tmp_path: Path) -> None:
    """As in a film: an interval between images is no gap."""
    folder = folder_of(tmp_path / "a", ["f1.png", "f2.png", "f3.png"])
    frames = frames_of(folder, fps=0.5)
    assert numbers(frames) == [0] * 20 + [1] * 20 + [2] * 20
    assert [frame.pts_ns for frame in frames] == [i * NS // 10 for i in range(60)]
    assert [frame.continues for frame in frames] == [False] + [True] * 59
    assert sum(frame.repeated for frame in frames) == 57


def test_hidden_files_are_not_images_and_a_second_image_follows_the_first(tmp_path: Path) -> None:
    names = ["IMG_2.jpg", "IMG_2 (1).jpg", "IMG_10.jpg", "shot.jpg", "shot-1.jpg", "Shot-2.JPG"]
    folder = folder_of(tmp_path / "a", names)
    for name in names:
        (folder / f"._{name}").write_bytes(b"\0\5\x16\7")
    (folder / ".x.jpg").write_bytes((folder / "shot.jpg").read_bytes())
    assert [path.name for path in list_images(folder)] == names
    assert numbers(frames_of(folder)) == [0, 1, 2, 3, 4, 5]


def test_links_and_pipes_in_a_folder_do_not_end_the_stream(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", ["1.png", "5.png"])
    (folder / "2.png").symlink_to(folder / "2.png")  # a link to itself
    (folder / "3.png").symlink_to(folder / "absent.png")
    (folder / "folder.png").symlink_to(folder)
    (folder / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    (folder / "6.png").symlink_to(folder / "1.png")
    with open_source(StreamConfig(images=str(folder), fps=10, pace="fast")) as source:
        frames = list(source)
        assert source.undecodable == 2
    assert numbers(frames) == [0, 1, 0]
    assert [frame.pts_ns for frame in frames] == [0, 3 * NS // 10, 4 * NS // 10]


def test_a_pipe_that_replaces_an_image_does_not_block(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", ["1.png", "2.png"])
    with open_source(StreamConfig(images=str(folder), fps=10, pace="fast")) as source:
        next(source)
        (folder / "2.png").unlink()
        os.mkfifo(folder / "2.png")
        assert list(source) == []
        assert source.info.note == "image 2.png is left out: it is not a file"


def png_of(width: int, height: int) -> bytes:
    """Return the start of a PNG file of that size: its header is complete, its pixels are missing."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": b"\0" * 64}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


def bmp_of(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 1078, 0, 0, 54) + info + b"\0" * 64


def tiff_of(width: int, height: int) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 64}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 64


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("1.png", png_of(20_000, 20_000)),
        ("1.bmp", bmp_of(20_000, 20_000)),
        ("1.bmp", bmp_of(20_000, -20_000)),
        ("1.tiff", tiff_of(20_000, 20_000)),
        ("1.jpg", jpeg_of(20_000, 20_000)),
        ("1.png", jpeg_of(9000, 9000)),  # the content counts, not the suffix
        ("1.png", png_of(1 << 30, 1 << 30)),
    ],
    ids=["png", "bmp", "bmp-from-the-top", "tiff", "jpeg", "jpeg-called-png", "png-2^60"],
)
def test_a_huge_image_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes
) -> None:
    folder = folder_of(tmp_path / "a", ["0.png", "2.png"])
    (folder / name).write_bytes(data)
    decode = image_file.cv2.imdecode
    monkeypatch.setattr(image_file.cv2, "imdecode", lambda given, flags: _decoded(decode, given, flags, data))
    with open_source(StreamConfig(images=str(folder), fps=10, pace="fast")) as source:
        frames = list(source)
        assert source.undecodable == 1
        note = source.info.note
    assert numbers(frames) == [0, 1]
    assert note is not None
    assert note.startswith(f"image {name} is left out: it has over 67 million pixels")


def _decoded(decode: Any, given: Any, flags: int, refused: bytes) -> Any:
    assert given.tobytes() != refused, "a huge image reached the decoder"
    return decode(given, flags)


def test_an_image_of_8k_is_within_the_limit() -> None:
    assert image_file.MAX_IMAGE_PIXELS > 7680 * 4320


def test_a_jpeg_with_too_many_scans_is_left_out(tmp_path: Path) -> None:
    image = Image.fromarray(draw(1, 320, 180))
    image.save(tmp_path / "1.jpg", progressive=True)
    assert read_image(tmp_path / "1.jpg").shape == (180, 320, 3)
    data = (tmp_path / "1.jpg").read_bytes()
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "2.jpg").write_bytes(data[:-2] + 200 * last_scan + data[-2:])
    with pytest.raises(ImageError, match=r"it has 210 scans, at most 100; save it again"):
        read_image(tmp_path / "2.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_in_a_jpegs_exif_data_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a" / "1.jpg"
    path.parent.mkdir()
    Image.fromarray(draw(5, 320, 180)).save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    (frame,) = frames_of(path.parent)
    assert (frame.height, frame.width) == expected.shape[:2]
    assert np.abs(frame.to_rgb(frame.height, frame.width).astype(int) - expected).mean() < 4


def test_a_damaged_image_leaves_a_gap_and_is_counted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", [f"{i}.png" for i in range(5)])
    (folder / "1.png").write_bytes(b"\x89PNG, or so it says")
    (folder / "2.png").write_bytes(b"")
    config = StreamConfig(images=str(folder), fps=10, pace="fast")
    with open_source(config) as source:
        frames = list(source)
        assert source.undecodable == 2
    assert numbers(frames) == [0, 3, 4]
    assert frames[1].pts_ns == 3 * NS // 10


def test_a_loop_lists_the_folder_again_and_marks_a_discontinuity(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", ["1.png", "2.png"])
    with open_source(StreamConfig(images=str(folder), fps=10, pace="fast", loop=True)) as source:
        first = [next(source), next(source)]
        (folder / "1.png").unlink()
        second = [next(source), next(source)]
    assert numbers([*first, *second]) == [0, 1, 1, 1]
    assert [frame.discontinuity for frame in [*first, *second]] == [False, False, True, True]


def test_realtime_pace_waits_between_images(tmp_path: Path) -> None:
    frames = frames_of(folder_of(tmp_path / "a", ["1.png", "2.png", "3.png"]), pace="realtime")
    assert frames[-1].captured_ns - frames[0].captured_ns >= 0.19 * NS


def test_images_may_have_different_sizes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", ["1.png"])
    cv2.imwrite(str(folder / "2.png"), draw(7, 640, 360)[..., ::-1])
    assert [(frame.width, frame.height) for frame in frames_of(folder)] == [(320, 180), (640, 360)]


def test_a_folder_without_readable_images_is_reported_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no images in it; known suffixes are \.bmp"):
        frames_of(tmp_path / "empty")
    with pytest.raises(SourceError, match="No such file or directory; give the path of a folder"):
        frames_of(tmp_path / "absent")
    (tmp_path / "empty" / "a.jpg").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"none of its 1 images can be read; check a\.jpg"):
        frames_of(tmp_path / "empty")


# Images that are decoded at a smaller size, or not at all.


def photograph(width: int, height: int) -> U8:
    """Draw (height, width, 3) uint8 RGB with soft edges, as a lens gives, and the grain of a sensor."""
    grain = np.random.default_rng(0).normal(0, 3, (height, width, 3))
    return np.clip(cv2.GaussianBlur(draw(5, width, height), (0, 0), 3) + grain, 0, 255).astype(np.uint8)


KINDS: dict[str, dict[str, Any]] = {
    "colour": {},
    "odd": {"size": (637, 483)},
    "progressive": {"progressive": True},
    "4:4:4": {"subsampling": 0},
    "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
    "turned": {"orientation": 6},
    "mirrored": {"orientation": 5, "size": (636, 476)},
}
TURNED = PictureArea(rotate=90, flip="horizontal")
REGION = PictureArea(region=(0.1, 0.2, 0.9, 0.8))


def jpeg(mode: str = "RGB", size: tuple[int, int] = (640, 480), orientation: int = 1, **keys: Any) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.fromarray(photograph(*size)).convert(mode).save(file, "JPEG", quality=90, exif=exif, **keys)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shrink", [1.9, 2.0, 5.0, 8.0])
def test_a_jpeg_is_reduced_by_at_most_the_factor_by_which_it_is_shrunk(kind: str, shrink: float) -> None:
    data = jpeg(**KINDS[kind])
    exact, reduced = decode_reduced(data, 1.0), decode_reduced(data, shrink)
    factor = {1.9: 1, 2.0: 2, 5.0: 4, 8.0: 8}[shrink]
    factor = {"odd": 1, "mirrored": min(factor, 4)}.get(kind, factor)  # it divides the sides
    assert (reduced.width, reduced.height) == (exact.width, exact.height) == exact.pixels.shape[1::-1]
    assert reduced.pixels.shape[:2] == (exact.height // factor, exact.width // factor)
    assert reduced.is_reduced == (factor > 1)
    for area in (WHOLE, TURNED):
        found = []
        for pixels in (exact.pixels, reduced.pixels):
            out = np.zeros((int(exact.height / shrink), int(exact.width / shrink), 3), np.uint8)
            render_bgr(pixels, *out.shape[:2], "letterbox", out, area)
            found.append(out.astype(int))
        difference = np.abs(found[0] - found[1])
        assert difference.mean() < 1.0, area
        assert difference.max() < 40, area


def test_only_jpeg_files_are_reduced() -> None:
    ok, data = cv2.imencode(".png", photograph(320, 180))
    assert ok
    assert not decode_reduced(data.tobytes(), 8.0).is_reduced


def test_a_damaged_exif_header_does_not_prevent_reading() -> None:
    data = jpeg(orientation=6)
    damaged = data.replace(b"Exif\0\0MM", b"Exif\0\0XX").replace(b"Exif\0\0II", b"Exif\0\0XX")
    assert damaged != data
    assert decode_reduced(damaged, 4.0).pixels.size


def test_a_folder_is_reduced_for_its_largest_view_whatever_the_size_of_each_image(tmp_path: Path) -> None:
    sizes = [(640, 480), (640, 480), (1280, 960), (320, 240), (640, 200)]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(size=size))
    with ImageFolderSource(tmp_path, fps=10) as source:
        source.set_decoding(WantedDecoding("fast", 1.0))  # before the size is known
        frames = [next(source)]
        source.set_decoding(WantedDecoding("fast", 4.0))  # 160 x 120 pixels are needed
        frames += source
    assert [(frame.width, frame.height) for frame in frames] == sizes
    assert [frame.image.shape[1::-1] for frame in frames] == [
        (640, 480),
        (160, 120),
        (160, 120),
        (160, 120),
        (640, 200),
    ]
    assert [frame.decoding for frame in frames] == ["exact", "fast", "fast", "fast", "exact"]
    assert [frame.size_of(REGION) for frame in frames[:3]] == [(288, 512), (288, 512), (576, 1024)]


def test_images_that_sampling_does_not_need_are_not_decoded(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", [f"{number}.jpg" for number in range(50)])
    (folder / "31.jpg").write_bytes(b"no image")
    found = []
    for skip in (False, True):
        sampler, sink = ChunkSampler(5, 2), ListSink((2, 90, 160, 3))
        builder = ChunkBuilder(sampler, sink, height=90, width=160, resize="stretch")
        with ImageFolderSource(folder, fps=25) as source:
            if skip:
                source.set_frame_selector(sampler)
            frames = []
            for frame in source:
                frames.append(frame)
                builder.push(frame)
            assert source.undecodable == 1, "the header of every image is checked"
        found.append([(chunk.start_pts_ns, pixels.tobytes()) for chunk, pixels in sink.pop_all()])
        assert len(frames) == 49
        assert sum(frame.skipped for frame in frames) == (0 if not skip else pytest.approx(39, abs=2))
    assert found[0] == found[1]
    assert len(found[0]) == 5
