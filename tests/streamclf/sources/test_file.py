"""Video files of all kinds: rotated, with a variable rate, tiny, truncated, or not a video at all."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import threading
import time
import weakref
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.packet import Packet
from PIL import Image, ImageCms
from support.clips import draw, read_number, set_display_matrix, write_audio, write_clip, write_flat

from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import Frame, open_source
from streamclf.sources.decoded_frame import OrientationTracker
from streamclf.sources.file import FileSource
from streamclf.units import NS
from streamclf.windows.chunks import read_chunks

MS = 1_000_000


def fast(path: Path, **keys: object) -> StreamConfig:
    return StreamConfig.model_validate({"url": str(path), "pace": "fast", **keys})


def frames_of(path: Path, **keys: object) -> list[Frame]:
    with open_source(fast(path, **keys)) as source:
        return list(source)


def number(frame: Frame) -> int:
    return read_number(frame.to_rgb(180, 320), frame.width, frame.height)


def test_frames_come_in_order_with_their_time_stamps(clip: Path) -> None:
    with open_source(fast(clip)) as source:
        assert not source.live
        frames = list(source)
        assert (source.info.codec, source.info.width, source.info.height, source.info.fps) == ("h264", 320, 180, 25.0)
    assert [frame.index for frame in frames] == list(range(50))
    assert [frame.pts_ns for frame in frames] == [i * 40 * MS for i in range(50)]
    assert [number(frame) for frame in frames] == list(range(50)), "a frame may be kept and rendered later"
    assert not any(frame.corrupt or frame.discontinuity for frame in frames)


def test_a_film_that_is_closed_early_leaves_no_decoder_for_the_garbage_collector(clip: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        with FileSource(clip) as source:
            next(source)
            decoder = weakref.ref(source._container)
        del source
        assert decoder() is None
    finally:
        gc.enable()


def test_a_rendered_frame_is_rgb(clip: Path) -> None:
    frame = frames_of(clip)[7]
    expected = draw(7, 320, 180)
    got = frame.to_rgb(180, 320)
    assert got.dtype == np.uint8
    error = np.abs(got.astype(int) - expected)[40:].mean(axis=(0, 1))
    assert error.max() < 25, f"channels {error}: mixed up?"
    assert np.abs(got.astype(int) - expected[..., ::-1])[40:].mean() > 2 * error.mean()


def test_rendering_fills_the_given_array_and_refuses_wrong_shapes(clip: Path) -> None:
    frame = frames_of(clip)[3]
    chunk = np.zeros((2, 90, 160, 3), np.uint8)
    assert frame.to_rgb(90, 160, out=chunk[1]) is not chunk
    assert (chunk[1] == frame.to_rgb(90, 160)).all()
    assert not chunk[0].any()
    with pytest.raises(ValueError, match=r"must be uint8 \(90, 160, 3\)"):
        frame.to_rgb(90, 160, out=chunk[0, :80])


def test_a_variable_frame_rate_is_sampled_by_time_stamps(tmp_path: Path) -> None:
    times = [0, 33, 66, 100, 250, 260, 270, 400, 433, 466, 500]
    path = write_clip(tmp_path / "vfr.mkv", times_ms=times)
    assert [frame.pts_ns // MS for frame in frames_of(path)] == times
    # 0, 100, 200 (nearest 250), 300 (270), 400, 500. Intervals of over 100 ms are no gaps: a picture lasts.
    assert sampled(path, fps=10) == [(1, 0), (1, 3), (1, 4), (1, 6), (1, 7), (1, 10)]


def sampled(path: Path, fps: float) -> list[tuple[int, int]]:
    """Return the segment and the frame number of each grid point."""
    with open_source(fast(path)) as source:
        chunks = list(read_chunks(source, fps=fps, frames_per_chunk=1, height=90, width=160, resize="stretch"))
    return [(meta.segment, read_number(pixels[0], 320, 180)) for meta, pixels in chunks]


def test_a_picture_of_a_film_lasts_until_the_next_one(tmp_path: Path) -> None:
    """Screen recordings have no new picture while nothing changes."""
    path = write_clip(tmp_path / "screen.mp4", times_ms=[0, 40, 80, 3000, 3040, 3080])
    expected = [0, *[2] * 29, 3, 5]
    assert sampled(path, fps=10) == [(1, number) for number in expected]
    held = [frame for frame in frames_of(path) if frame.repeated]
    assert {number(frame) for frame in held} == {2}
    assert [frame.index for frame in frames_of(path)] == list(range(len(held) + 6))


def test_a_time_lapse_shows_each_picture_for_its_time_and_the_last_one_too(tmp_path: Path) -> None:
    path = tmp_path / "lapse.mkv"
    write_clip(path, times_ms=[5000 * i for i in range(4)], fps=1)
    numbers = [picture for _, picture in sampled(path, fps=10)]
    assert numbers == [0] * 50 + [1] * 50 + [2] * 50 + [3] * 10, "the file says that the last picture lasts a second"


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_metadata_is_applied(tmp_path: Path, rotation: int) -> None:
    frame = frames_of(write_clip(tmp_path / "phone.mp4", frames=3, rotation=rotation))[2]
    turned = rotation % 180 != 0
    assert (frame.width, frame.height) == ((180, 320) if turned else (320, 180))
    upright = np.rot90(draw(2, 320, 180), rotation // 90)
    got = frame.to_rgb(frame.height, frame.width)
    assert np.abs(got.astype(int) - upright).mean() < 20
    assert np.abs(got.astype(int) - upright[::-1, ::-1]).mean() > 40


MATRICES = {
    "identity": ((1, 0, 0, 1), lambda image: image),
    "90": ((0, 1, -1, 0), lambda image: np.rot90(image, 3)),
    "180": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "270": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "horizontal": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "vertical": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "antitransposed": ((0, -1, -1, 0), lambda image: np.rot90(image, 2).transpose(1, 0, 2)),
    "zero": ((0, 0, 0, 0), lambda image: image),
}
"""The top left coefficients of a display matrix, and the picture that a player shows for it."""


@pytest.mark.parametrize("name", MATRICES)
def test_every_display_matrix_is_applied_mirrored_ones_too(tmp_path: Path, name: str) -> None:
    matrix, show = MATRICES[name]
    path = set_display_matrix(write_clip(tmp_path / "phone.mp4", frames=3), matrix)
    expected = show(draw(2, 320, 180))
    frame = frames_of(path)[2]
    assert (frame.height, frame.width) == expected.shape[:2]
    assert np.abs(frame.to_rgb(frame.height, frame.width).astype(int) - expected).mean() < 20


FLIPPED_SEI = bytes.fromhex("062f0320000980")
"""An H.264 SEI message, display orientation (type 47): flip vertically, from here on."""


def with_sei(source: Path, path: Path, *, key_frames: set[int]) -> Path:
    """Copy the H.264 video of `source`, with a message before these key frames that flips it."""
    with av.open(str(source)) as film, av.open(str(path), "w") as copy:
        stream = film.streams.video[0]
        out = copy.add_stream_from_template(stream)
        keys = -1
        for packet in film.demux(stream):
            if not packet.size:
                continue
            keys += packet.is_keyframe
            data = bytes(packet)
            if packet.is_keyframe and keys in key_frames:
                data = len(FLIPPED_SEI).to_bytes(4, "big") + FLIPPED_SEI + data
            copied = Packet(data)
            copied.pts, copied.dts, copied.time_base = packet.pts, packet.dts, packet.time_base
            copied.is_keyframe, copied.stream = packet.is_keyframe, out
            copy.mux(copied)
    return path


def flips_of(path: Path) -> list[bool]:
    """Return of each frame whether it is shown upside down."""
    frames = frames_of(path)
    upright = [draw(number, 320, 180).astype(int) for number in range(len(frames))]
    shown = [frame.to_rgb(180, 320) for frame in frames]
    return [
        bool(np.abs(image - there[::-1]).mean() < np.abs(image - there).mean())
        for image, there in zip(shown, upright, strict=True)
    ]


def test_the_orientation_of_an_sei_message_stays_until_another_one_arrives(tmp_path: Path) -> None:
    plain = write_clip(tmp_path / "plain.mp4", frames=20, gop=5)
    once = with_sei(plain, tmp_path / "once.mp4", key_frames={0})
    assert flips_of(once) == [True] * 20, "sent once, at the beginning"
    middle = with_sei(plain, tmp_path / "middle.mp4", key_frames={1})
    assert flips_of(middle) == [False] * 5 + [True] * 15
    repeated = with_sei(plain, tmp_path / "repeated.mp4", key_frames={1, 2})
    assert flips_of(repeated) == [False] * 5 + [True] * 10 + [False] * 5, "ended by leaving it out"


class _FrameOfExif:
    """A PyAV frame whose side data PyAV cannot list, as that of a JPEG with EXIF data under FFmpeg 8.1."""

    width, height, rotation, key_frame = 320, 180, -90, True


def test_side_data_that_pyav_does_not_know_does_not_end_a_film(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(frame: object) -> None:
        raise ValueError("31 is not a valid Type")

    monkeypatch.setattr("streamclf.sources.decoded_frame.SideDataContainer", refuse)
    shown = OrientationTracker("mjpeg").orient(cast("av.VideoFrame", _FrameOfExif()), Fraction(1))
    assert (shown.width, shown.height) == (180, 320)
    image = draw(3, 320, 180)
    assert (shown.orientation.apply(image) == np.rot90(image, 3)).all()


PIXELS = """
import sys, numpy as np
from streamclf.config.stream import StreamConfig
from streamclf.sources import open_source
for path in sys.argv[1:]:
    with open_source(StreamConfig.model_validate({"url": path, "pace": "fast"})) as source:
        np.save(path + ".npy", [frame.to_rgb(frame.height, frame.width) for frame in source])
"""


def test_a_colour_profile_does_not_end_the_process(tmp_path: Path) -> None:
    """PyAV frees the name of a PNG's profile when it frees the listed side data, and FFmpeg frees it again."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    drawn = [draw(i, 320, 180) for i in range(3)]
    images = [Image.fromarray(image) for image in drawn]
    for name in ("image.png", "image.jpg"):
        images[0].save(tmp_path / name, icc_profile=profile)
    images[0].save(tmp_path / "animated.png", icc_profile=profile, save_all=True, append_images=images[1:])
    for name, matrix in {"film.mov": (1, 0, 0, 1), "turned.mov": (0, 1, -1, 0), "zero.mov": (0, 0, 0, 0)}.items():
        set_display_matrix(_write_png_film(tmp_path / name, images, profile), matrix)
    expected = {
        "image.png": drawn[:1],
        "image.jpg": drawn[:1],
        "animated.png": drawn,
        "film.mov": drawn,
        "turned.mov": [np.rot90(image, 3) for image in drawn],
        "zero.mov": drawn,
    }
    # A process of its own: a segmentation fault would end all tests.
    subprocess.run([sys.executable, "-c", PIXELS, *(str(tmp_path / name) for name in expected)], timeout=60, check=True)
    for name, pixels in expected.items():
        shown = np.load(tmp_path / f"{name}.npy")
        assert shown.shape == np.shape(pixels), name
        assert np.abs(shown.astype(int) - pixels).mean() < 2, name


def _write_png_film(path: Path, images: list[Image.Image], profile: bytes) -> Path:
    """Write a film of PNG images with a colour profile."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "rgb24"
        for i, image in enumerate(images):
            image.save(file := io.BytesIO(), "PNG", icc_profile=profile)
            packet = Packet(file.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, Fraction(1, 10)
            container.mux(packet)
    return path


def test_the_pixel_aspect_is_applied(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "anamorphic.mkv", frames=3, width=160, height=180, pixel_aspect=Fraction(2))
    frame = frames_of(path)[0]
    assert (frame.width, frame.height) == (320, 180)
    boxed = frame.to_rgb(320, 320, "letterbox")
    assert not boxed[:70].any()
    assert not boxed[-70:].any()
    assert boxed[75:245].any(axis=(1, 2)).all()


def test_resize_policies_stretch_pad_and_crop(clip: Path) -> None:
    frame = frames_of(clip)[5]
    assert read_number(frame.to_rgb(224, 224, "stretch"), 320, 180) == 5
    boxed = frame.to_rgb(224, 224, "letterbox")
    assert not boxed[:49].any()
    assert not boxed[175:].any()
    assert read_number(boxed[49:175]) == 5
    cropped = frame.to_rgb(90, 90, "crop")
    middle = frame.to_rgb(90, 160, "stretch")[:, 35:125]
    assert (cropped == middle).all()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (1, 64), (7680, 4320)])
def test_sizes_from_one_pixel_to_8k(tmp_path: Path, width: int, height: int) -> None:
    path = write_flat(tmp_path / "flat.avi", (200, 40, 90), width=width, height=height, frames=1)
    for resize in ("stretch", "letterbox"):
        for frame in frames_of(path):
            rgb = frame.to_rgb(64, 64, resize)  # type: ignore[arg-type]
            assert np.abs(rgb.max(axis=(0, 1)).astype(int) - (200, 40, 90)).max() <= 3


def test_an_image_too_elongated_to_crop_is_refused(tmp_path: Path) -> None:
    frame = frames_of(write_flat(tmp_path / "line.avi", (9, 9, 9), width=1280, height=2))[0]
    with pytest.raises(SourceError, match=r"1280x2 is too elongated to crop to 64x64 .* stretch or letterbox"):
        frame.to_rgb(64, 64, "crop")


def test_a_file_of_three_frames_gives_three_frames(tmp_path: Path) -> None:
    assert [number(frame) for frame in frames_of(write_clip(tmp_path / "short.mp4", frames=3))] == [0, 1, 2]


def test_the_still_beside_an_animation_is_not_taken_for_the_film(tmp_path: Path) -> None:
    """An animated AVIF image has the still first, in the size of the animation."""
    path = tmp_path / "both.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=10, width=320, height=180) for _ in range(2)]
        for stream, frames in zip(streams, (1, 5), strict=True):
            for each in range(frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(each, 320, 180), "rgb24")))
            container.mux(stream.encode(None))
    assert [number(frame) for frame in frames_of(path)] == [0, 1, 2, 3, 4]


def test_a_loop_begins_again_with_a_discontinuity(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "loop.mp4", frames=5)
    seen = []
    with open_source(fast(path, loop=True)) as source:
        for frame in source:
            seen.append((frame.index, number(frame), frame.pts_ns // MS, frame.discontinuity))
            if len(seen) == 12:
                break
    assert seen == [(i, i % 5, i % 5 * 40, i in (5, 10)) for i in range(12)]


def test_realtime_pace_holds_frames_back_and_a_stop_ends_the_wait(clip: Path) -> None:
    stop = threading.Event()
    config = StreamConfig(url=str(clip), pace="realtime")
    with open_source(config, stop=stop) as source:
        first = next(source)
        frames = [first, *(next(source) for _ in range(12))]
        assert frames[-1].captured_ns - first.captured_ns >= 12 * 40 * MS - 2 * MS
        assert all(frame.captured_ns <= time.monotonic_ns() for frame in frames)
        stop.set()
        assert len(list(source)) <= 1


def test_media_time_begins_at_zero_in_a_file_that_starts_late(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "late.ts", frames=10)
    assert [frame.pts_ns // MS for frame in frames_of(path)] == [i * 40 for i in range(10)]


def test_a_truncated_file_gives_the_frames_it_has(tmp_path: Path, clip: Path) -> None:
    whole = write_clip(tmp_path / "whole.mkv").read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) // 2])
    assert 5 < len(frames_of(cut)) < 50


def test_damage_in_a_file_marks_frames_corrupt_but_does_not_end_it(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "whole.ts", gop=10).read_bytes())
    for place in range(len(data) // 3, len(data) // 3 + 1500, 11):
        data[place] ^= 0x55
    path = tmp_path / "damaged.ts"
    path.write_bytes(data)
    frames = frames_of(path)
    assert any(frame.corrupt for frame in frames)
    assert not frames[-1].corrupt
    assert number(frames[-1]) == 49


def no_such_file(path: Path) -> Path:
    return path / "missing.mp4"


def a_directory(path: Path) -> Path:
    return path


def a_text(path: Path) -> Path:
    (path / "text.mp4").write_text("not a film\n" * 500)
    return path / "text.mp4"


def a_plain_text(path: Path) -> Path:
    (path / "notes.txt").write_text("not a film\n" * 500)
    return path / "notes.txt"


def nothing(path: Path) -> Path:
    (path / "empty.mp4").touch()
    return path / "empty.mp4"


def audio(path: Path) -> Path:
    return write_audio(path / "sound.m4a")


def audio_with_a_cover(path: Path) -> Path:
    with av.open(str(audio(path))) as sound, av.open(str(path / "song.mp3"), "w") as song:
        track, cover = song.add_stream("mp3", rate=48000), song.add_stream("png")
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        song.mux(cover.encode(av.VideoFrame.from_ndarray(draw(0, 64, 48), "rgb24")))
        for frame in sound.decode(audio=0):
            song.mux(track.encode(frame))
        song.mux(track.encode(None))
    return path / "song.mp3"


def a_pipe(path: Path) -> Path:
    os.mkfifo(path / "pipe.mp4")
    return path / "pipe.mp4"


def a_playlist_to_elsewhere(path: Path) -> Path:
    (path / "list.mp4").write_text("ffconcat version 1.0\nfile http://127.0.0.1:1/x.mp4\n")
    return path / "list.mp4"


def only_a_header(path: Path) -> Path:
    whole = write_clip(path / "whole.mkv").read_bytes()
    (path / "header.mkv").write_bytes(whole[:900])
    return path / "header.mkv"


def unknown_codec(path: Path) -> Path:
    whole = write_clip(path / "whole.mp4").read_bytes()
    (path / "unknown.mp4").write_bytes(whole.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    return path / "unknown.mp4"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (unknown_codec, "FFmpeg has no decoder for the codec of its video; convert it"),
        (no_such_file, "no such file; check the path"),
        (a_directory, "a directory; give the path of one video file"),
        (a_text, "not a video that FFmpeg can read"),
        (a_plain_text, "a text file, not a video"),
        (nothing, "an empty file"),
        (audio, "holds audio, no video"),
        (audio_with_a_cover, "holds audio, cover picture, no video"),
        (a_pipe, "not a regular file"),
        (a_playlist_to_elsewhere, "cannot be read|not allowed|not a video"),
        (only_a_header, "no frame could be decoded|not a video"),
    ],
)
def test_a_path_that_is_not_a_video_is_reported_in_one_line(tmp_path: Path, make: object, message: str) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    with pytest.raises(SourceError, match=message) as caught:
        frames_of(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert caught.value.__cause__ is None


def test_a_file_without_read_permission_is_reported(tmp_path: Path, clip: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = tmp_path / "secret.mp4"
    path.write_bytes(clip.read_bytes())
    path.chmod(0)
    with pytest.raises(SourceError, match="cannot be read"):
        frames_of(path)


def test_read_chunks_returns_all_chunks_of_a_file(clip: Path) -> None:
    with open_source(fast(clip)) as source:
        chunks = list(read_chunks(source, fps=10, frames_per_chunk=4, height=90, width=160, resize="stretch"))
    assert [meta.index for meta, _ in chunks] == list(range(5))
    # every 100 ms: frames 0, 2 (80 ms, as near as 120), 5, 7, 10, ...
    numbers = [read_number(image, 320, 180) for _, pixels in chunks for image in pixels]
    assert numbers == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37, 40, 42, 45, 47]
    assert chunks[-1][0].end_pts_ns == 2 * NS


KEPT_FRAMES = """
import gc, sys, av
from streamclf.config.stream import StreamConfig
from streamclf.sources import open_source
with open_source(StreamConfig.model_validate({"url": sys.argv[1], "loop": True, "pace": "fast"})) as source:
    for _ in range(400):
        next(source)
    print(sum(isinstance(each, av.VideoFrame) for each in gc.get_objects()))
"""


def test_frames_of_a_film_in_a_loop_are_freed_without_a_full_collection(tmp_path: Path) -> None:
    """PyAV's `side_data` and its frame refer to each other, and would stay until the garbage collector runs."""
    path = write_clip(tmp_path / "film.mp4", frames=20, gop=10)
    command = [sys.executable, "-c", KEPT_FRAMES, str(path)]  # a process of its own: other tests keep frames, too
    kept = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert int(kept) < 15
