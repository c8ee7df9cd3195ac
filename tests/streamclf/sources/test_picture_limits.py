"""A few bytes that declare huge pictures are refused before their memory is allocated, in files and in streams."""

from __future__ import annotations

import io
import os
import struct
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support.picture_bomb import START, bomb, parameter_sets, picture

from streamclf.errors import SourceError, SourceRefusedError
from streamclf.runtime.memory_limit import private_bytes
from streamclf.sources.decoding import WantedDecoding
from streamclf.sources.file import FileSource
from streamclf.sources.picture_limits import MAX_PIXELS, PictureLimit, check_size
from streamclf.sources.rtsp.access_units import AccessUnit
from streamclf.sources.rtsp.decoder import RtspDecoder
from streamclf.sources.rtsp.media import TrackReceiver
from streamclf.sources.rtsp.sdp import VideoTrack

TRACK = VideoTrack(codec="H264", payload_types=frozenset({96}))
ROOM_BYTES = 150 << 20
TOO_MANY_PIXELS = r"8192x8192 pixels, at most 35\.7 million"


class Witness:
    """Measure how much the private memory of this process grows at most."""

    def __enter__(self) -> Witness:
        self._before = private_bytes(os.getpid()) or 0
        self._most = self._before
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._ended.wait(0.005):
            self._most = max(self._most, private_bytes(os.getpid()) or 0)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(60)

    @property
    def grown(self) -> int:
        """Bytes."""
        return self._most - self._before


def remux(raw: bytes, path: Path, container: str) -> Path:
    """Write raw H.264 as a file of another format, without decoding it."""
    with (
        av.open(io.BytesIO(raw), "r", format="h264", options={"codec_whitelist": "none"}) as source,
        av.open(str(path), "w", format=container) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux() if packet.size):
            packet.pts = packet.dts = number * 40_000
            packet.stream = stream
            out.mux(packet)
    return path


@pytest.mark.parametrize("container", ["h264", "mpegts", "mp4", "matroska", "flv", "avi"])
def test_a_file_whose_pictures_are_too_large_is_refused_at_once(tmp_path: Path, container: str) -> None:
    path = tmp_path / "bomb"
    if container == "h264":
        path.write_bytes(bomb(8192, 8192, 40))
    else:
        remux(bomb(8192, 8192, 40), path, container)
    with Witness() as memory, pytest.raises(SourceRefusedError, match=TOO_MANY_PIXELS), FileSource(path) as source:
        list(source)
    assert memory.grown < ROOM_BYTES


@pytest.mark.parametrize("container", ["h264", "mpegts"])
def test_pictures_that_become_too_large_are_refused(tmp_path: Path, container: str) -> None:
    path = tmp_path / "bomb"
    raw = bomb(640, 480, 64) + bomb(8192, 8192, 40)
    if container == "h264":
        path.write_bytes(raw)
    else:
        remux(raw, path, container)
    with Witness() as memory, pytest.raises(SourceRefusedError, match=TOO_MANY_PIXELS), FileSource(path) as source:
        list(source)
    assert memory.grown < ROOM_BYTES


@pytest.mark.parametrize(
    ("width", "deep", "message"), [(8192, False, TOO_MANY_PIXELS), (5888, True, r"5888x5888 .* may need 3\.7 GB")]
)
def test_an_rtsp_camera_cannot_make_the_decoder_take_gigabytes(width: int, deep: bool, message: str) -> None:
    decoder = RtspDecoder(TrackReceiver(TRACK, reorder_s=0.0), TRACK, shown="cam", held_after_s=1.0)
    sets = b"".join(START + unit for unit in parameter_sets(width, width, deep=deep))
    units = (
        AccessUnit(data=(b"" if i else sets) + START + picture(i), timestamp=3600 * i, damaged=False, waited_s=0.0)
        for i in range(40)
    )
    with Witness() as memory, pytest.raises(SourceRefusedError, match=f"cam: {message}"):
        list(map(decoder.decoded, units))
    assert memory.grown < 2 * ROOM_BYTES + 6 * width * width * deep


def test_a_huge_jpeg_image_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "film.mjpeg"
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = (16_000).to_bytes(2, "big") * 2
    path.write_bytes(bytes(data) * 8)
    with Witness() as memory, pytest.raises(SourceRefusedError, match="16000x16000 pixels"), FileSource(path) as source:
        list(source)
    assert memory.grown < ROOM_BYTES


def test_a_huge_jpeg_image_is_refused_although_its_decoder_reduces_it(tmp_path: Path) -> None:
    """FFmpeg applies its own limit to the reduced picture."""
    path, buffer = tmp_path / "film.mjpeg", io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc0")
    huge = data[: at + 5] + (8_000).to_bytes(2, "big") * 2 + data[at + 9 :]
    path.write_bytes(bytes(data) * 3 + bytes(huge) * 3)
    with FileSource(path) as source:
        source.set_decoding(WantedDecoding("fast", 4.0))
        with pytest.raises(SourceRefusedError, match="8000x8000 pixels"):
            list(source)


def test_pictures_of_8k_are_accepted() -> None:
    for width, height in ((7680, 4320), (8192, 4320), (4320, 7680), (8192, 4352)):
        assert width * height <= MAX_PIXELS
        check_size(width, height, "cam")


def test_the_shape_of_pixels_is_known_although_nothing_is_decoded_while_a_file_is_opened(tmp_path: Path) -> None:
    """MPEG-TS has no field for it: the decoder reads it in the video."""
    path = tmp_path / "wide.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((240, 320, 3), np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    with FileSource(path) as source:
        frame = next(source)
    assert (frame.width, frame.height) == (640, 240)


def test_a_pixel_format_that_is_not_known_yet_is_not_read() -> None:
    """PyAV 17 and earlier end the process with a segmentation fault there."""

    class Context:
        name, width, height, format = "h264", 320, 180, None

        @property
        def pix_fmt(self) -> str:
            raise AssertionError("read")

    PictureLimit("film.mp4").check(Context())


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p10le", "yuvj422p", "gray", "rgb24", "yuv410p", "nv12"])
def test_a_decoder_that_has_no_size_yet_is_accepted(pixel_format: str) -> None:
    context = av.CodecContext.create("h264", "r")
    context.width, context.height, context.pix_fmt = 0, 0, pixel_format
    PictureLimit("film").check(context)


def test_a_vp8_picture_that_is_too_large_is_an_undecodable_packet(tmp_path: Path) -> None:
    """A decoder of VP8, VP9, WebP or TIFF has no size after it has refused one."""
    raw = io.BytesIO()
    try:
        with av.open(raw, "w", format="webm") as out:
            stream = out.add_stream("libvpx", rate=5, width=64, height=48)
            for _ in range(3):
                out.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
            out.mux(stream.encode(None))
    except av.codec.codec.UnknownCodecError:
        pytest.skip("this FFmpeg has no VP8 encoder")
    start, size = b"\x9d\x01\x2a", struct.pack("<HH", 64, 48)  # a key frame's header, RFC 6386, section 9.1
    assert start + size in raw.getvalue()
    path = tmp_path / "bomb.webm"
    path.write_bytes(raw.getvalue().replace(start + size, start + struct.pack("<HH", 16383, 16383)))
    with (
        Witness() as memory,
        pytest.raises(SourceError, match="no frame could be decoded"),
        FileSource(path) as source,
    ):
        list(source)
    assert memory.grown < ROOM_BYTES
