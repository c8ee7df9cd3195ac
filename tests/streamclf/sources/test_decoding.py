"""Exact and fast decoding: how it is chosen, and the switch between the two while a video is read."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import X264, film, write_clip
from support.rtsp_server import RtspServer

from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.service import parse_config
from streamclf.config.source_settings import DecodeMode
from streamclf.config.stream import StreamConfig
from streamclf.errors import ConfigError
from streamclf.sources import open_source, switching_decoder
from streamclf.sources.av_container import AvContainer
from streamclf.sources.decoding import (
    DECODERS,
    EXACT,
    MIN_SHRINK,
    WantedDecoding,
    film_decoding,
    resolve,
    shrink_factor,
)
from streamclf.sources.resize import FrameRenderer, Resize, visible_boxes

FAST = WantedDecoding("fast", 4.0)
QUALITY = {"crf": "35"}
"""Coarse enough that the loop filter changes every picture."""
PYRAMID = {"preset": "veryfast", "bf": "3", "x264-params": "b-pyramid=normal:b-adapt=0:scenecut=0:threads=1"}
OPEN = {**PYRAMID, "x264-params": f"{PYRAMID['x264-params']}:open-gop=1"}
REFRESH = {"preset": "veryfast", "bf": "0", "x264-params": "intra-refresh=1:threads=1:scenecut=0"}
HEVC = {
    "preset": "superfast",
    "x265-params": "log-level=none:pools=none:frame-threads=1:bframes=3:b-adapt=0:repeat-headers=1",
}
VIDEOS: dict[str, tuple[str, dict[str, str], str]] = {
    "no-b-frames": ("libx264", X264, "mp4"),
    "b-frames": ("libx264", PYRAMID, "mp4"),
    "open-gop": ("libx264", OPEN, "ts"),
    "intra-refresh": ("libx264", REFRESH, "mp4"),
    "hevc-open-gop": ("libx265", HEVC, "mp4"),
    "motion-jpeg": ("mjpeg", {}, "mkv"),
}

modes = st.sampled_from(["auto", "exact", "fast"])
codecs = st.sampled_from(["h264", "hevc", "mjpeg", "vp9", "mpeg4", "no such codec", ""])
sides = st.integers(1, 4096)


def decoded(path: Path, plan: dict[int, WantedDecoding], *, live: bool) -> list[tuple[int | None, str, Any]]:
    """Return (time, decoding, planes) of each frame; `plan` gives the decoding wanted before a frame's number."""
    if live:
        source: Any = AvContainer(str(path), shown="film", options={}, low_delay=True)
        frames = source.frames()
    else:
        source = frames = open_source(StreamConfig(url=str(path), pace="fast"))
    seen: list[tuple[int | None, str, Any]] = []
    source.set_decoding(plan.get(0, EXACT))
    for frame in frames:
        picture = (frame.oriented if live else frame.image).frame
        seen.append((frame.pts_ns, frame.decoding, picture.to_ndarray(format="yuv420p")))
        if len(seen) in plan:
            source.set_decoding(plan[len(seen)])
    source.close()
    return seen


@pytest.mark.parametrize("live", [False, True], ids=["film", "live"])
@pytest.mark.parametrize("name", VIDEOS)
def test_a_switch_loses_no_frame_and_damages_none(tmp_path: Path, name: str, live: bool) -> None:
    """Each frame is, to the byte, that of a decoder that decoded this way from the beginning."""
    codec, options, suffix = VIDEOS[name]
    options = {**options, **QUALITY}
    path = write_clip(tmp_path / f"film.{suffix}", frames=100, height=176, gop=20, codec=codec, options=options)
    exact, fast = (decoded(path, {0: wanted}, live=live) for wanted in (EXACT, FAST))
    assert {how for _, how, _ in exact} == {"exact"}
    assert {how for _, how, _ in fast} == {"fast"}
    assert not all(np.array_equal(one[2], other[2]) for one, other in zip(exact, fast, strict=True))
    plan = {15: FAST, 50: EXACT} if codec == "mjpeg" else {15: FAST, 45: EXACT, 47: FAST, 50: EXACT}  # all key frames
    switched = decoded(path, plan, live=live)
    assert [at for at, _, _ in switched] == [at for at, _, _ in exact]
    ways = [how for _, how, _ in switched]
    begin = ways.index("fast")
    end = ways.index("exact", begin)
    assert 15 <= begin < end
    assert set(ways[:begin] + ways[end:]) == {"exact"}, "it switches to fast and back, once each"
    for number, (_, how, planes) in enumerate(switched):
        expected = (exact if how == "exact" else fast)[number][2]
        assert np.array_equal(planes, expected), number


@pytest.mark.parametrize("demuxer", ["rtp", "ffmpeg"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_camera_is_switched_at_a_key_frame(demuxer: str, codec: str) -> None:
    with RtspServer({"cam": film(frames=60, gop=10, codec=codec)}) as server:
        server.fault("cam", rate=4.0)
        config = StreamConfig.model_validate({"url": server.url("cam"), "demuxer": demuxer})
        with open_source(config) as source:
            source.set_decoding(FAST)
            ways = []
            for frame, _ in zip(source, range(45), strict=False):
                ways.append((frame.pts_ns, frame.decoding))
                if len(ways) == 15:
                    source.set_decoding(EXACT)
            assert source.info.decoding == "exact"
    kinds = [kind for _, kind in ways]
    change = kinds.index("exact")
    assert kinds == ["fast"] * change + ["exact"] * (45 - change)
    assert 15 <= change <= 25
    times = np.array([at for at, _ in ways], float)
    assert set(np.diff(times / 1e6).round()) == {40}, "no frame is missing"


def test_a_second_decoder_that_returns_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first decoder goes on, and the next key frame is another chance."""
    path = write_clip(tmp_path / "film.mp4", frames=100, gop=10, options={**X264, **QUALITY})
    exact = decoded(path, {}, live=True)
    monkeypatch.setattr(switching_decoder, "MAX_OVERLAP", 3)

    class Silent:
        options: dict[str, str]
        reorder_depth = 0

        def decode(self, packet: object) -> list[Any]:
            return []

    container = AvContainer(str(path), shown="film", options={}, low_delay=True)
    real, silent = container._decoder._make, [Silent(), Silent(), Silent()]
    container._decoder._make = lambda: silent.pop() if silent else real()
    seen = []
    for frame in container.frames():
        seen.append((frame.pts_ns, frame.decoding))
        container.set_decoding(FAST)
    container.close()
    assert [at for at, _ in seen] == [at for at, _, _ in exact]
    assert [how for _, how in seen] == ["exact"] * 40 + ["fast"] * 60


def test_a_second_decoder_that_fails_is_given_up(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "film.mp4", frames=40, gop=10)
    container = AvContainer(str(path), shown="film", options={}, low_delay=True)

    class Broken:
        options: dict[str, str]
        reorder_depth = 0

        def decode(self, packet: object) -> list[Any]:
            raise av.error.InvalidDataError(1, "broken")

    container._decoder._make = Broken
    seen = []
    for frame in container.frames():
        seen.append(frame.decoding)
        container.set_decoding(FAST)
    container.close()
    assert seen == ["exact"] * 40


def test_a_picture_too_large_for_two_decoders_keeps_its_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching_decoder, "MAX_PIXELS", 320 * 180 - 1)
    path = write_clip(tmp_path / "film.mp4", frames=40, gop=10)
    assert {how for _, how, _ in decoded(path, {5: FAST}, live=True)} == {"exact"}
    assert {how for _, how, _ in decoded(path, {0: FAST}, live=True)} == {"fast"}


def test_a_codec_without_a_fast_way_is_decoded_exactly(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "film.mkv", frames=10, codec="mpeg4", options={"b": "100000"})
    plain, fast = decoded(path, {}, live=False), decoded(path, {0: FAST}, live=False)
    assert {how for _, how, _ in fast} == {"exact"}
    assert all(np.array_equal(one[2], other[2]) for one, other in zip(plain, fast, strict=True))


def test_a_device_ignores_the_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switching_decoder, "uses_hardware", lambda context: True)
    path = write_clip(tmp_path / "film.mp4", frames=10, gop=5)
    assert {how for _, how, _ in decoded(path, {0: FAST}, live=False)} == {"exact"}


@pytest.mark.parametrize("live", [False, True], ids=["film", "live"])
def test_a_reduced_picture_is_the_whole_one_for_its_consumers(tmp_path: Path, live: bool) -> None:
    """Motion JPEG is decoded at a quarter of its size, unless that is less than a view, or does not divide the size."""
    turned = PictureArea(rotate=90)
    for (width, height), shrink, is_reduced in (
        ((640, 480), 4.0, True), ((640, 480), 3.9, False), ((644, 480), 8.0, False),
    ):  # fmt: skip
        path = write_clip(tmp_path / "film.mkv", frames=6, codec="mjpeg", width=width, height=height)
        rendered, render = [], FrameRenderer()
        for wanted in (EXACT, WantedDecoding("fast", shrink)):
            with contextlib.closing(AvContainer(str(path), shown="film", options={}, low_delay=live)) as container:
                container.set_decoding(wanted)
                frame = list(container.frames())[-1]
                picture: Any = frame.oriented
                assert (frame.width, frame.height) == (width, height)
                assert (container.info.width, container.info.height) == (width, height)
                out = np.empty((160, 120, 3), np.uint8)
                render(picture, 160, 120, "letterbox", out, turned)
                rendered.append(out.astype(int))
        assert frame.decoding == container.info.decoding == ("fast" if is_reduced else "exact")
        assert picture.frame.width == (width // 4 if is_reduced else width)
        assert np.abs(rendered[0] - rendered[1]).mean() < 3
        assert np.array_equal(*rendered) != is_reduced


def test_pictures_that_become_smaller_are_decoded_whole(tmp_path: Path) -> None:
    """A camera that is set to another size sends it without a new connection."""
    data = b""
    for size in ((640, 480), (158, 118)):
        path = write_clip(tmp_path / "film.mjpeg", frames=4, codec="mjpeg", width=size[0], height=size[1])
        data += path.read_bytes()
    (tmp_path / "film.mjpeg").write_bytes(data)
    container = AvContainer(str(tmp_path / "film.mjpeg"), shown="film", options={}, low_delay=True)
    container.set_decoding(FAST)
    with contextlib.closing(container):
        seen = [(frame.decoding, frame.oriented.frame.width) for frame in container.frames() if frame.oriented]
    assert seen[:4] == [("exact", 640), *[("fast", 160)] * 3], "a size is known once a picture is decoded"
    assert seen[5:] == [("exact", 158)] * 3


@given(modes, codecs, st.floats(0, 100), st.booleans())
def test_resolve(mode: DecodeMode, codec: str, shrink: float, is_watched: bool) -> None:
    chosen = resolve(mode, codec=codec, shrink=shrink, is_watched=is_watched)
    if mode == "exact" or codec not in DECODERS:
        assert chosen == "exact"
    elif mode == "fast":
        assert chosen == "fast"
    else:
        assert (chosen == "fast") == (shrink >= MIN_SHRINK and not is_watched)
        if chosen == "fast":
            assert resolve(mode, codec=codec, shrink=shrink + 1) == "fast", "a smaller view never needs more"


@given(sides, sides, st.integers(8, 512), st.integers(8, 512), st.sampled_from(["stretch", "letterbox"]))
def test_shrink_is_that_of_the_visible_part(rows: int, columns: int, height: int, width: int, resize: Resize) -> None:
    seen, placed = visible_boxes((rows, columns), (height, width), resize)
    factor = shrink_factor((rows, columns), (height, width), resize)
    assert factor == pytest.approx(min(seen.height / placed.height, seen.width / placed.width))


def test_shrink_of_usual_views() -> None:
    assert shrink_factor((720, 1280), (224, 224), "letterbox") == pytest.approx(1280 / 224, rel=0.01)
    assert shrink_factor((720, 1280), (224, 224), "crop") == pytest.approx(720 / 224, rel=0.01)
    assert shrink_factor((720, 1280), (144, 192), "stretch") == 5
    assert shrink_factor((72, 96), (144, 192), "stretch") == 0.5


def test_films_follow_their_models_and_area() -> None:
    views: list[tuple[int, int, Resize]] = [(144, 192, "stretch"), (224, 224, "crop")]
    assert film_decoding("auto", "h264", (1280, 720), views, WHOLE).decoding == "fast"
    assert film_decoding("auto", "h264", (640, 360), views, WHOLE).decoding == "exact"
    part = PictureArea(region=(0.4, 0.4, 0.6, 0.6))
    assert film_decoding("auto", "h264", (1280, 720), views, part).decoding == "exact"
    assert film_decoding("fast", "h264", (640, 360), views, WHOLE).decoding == "fast"
    assert film_decoding("fast", "h264", (0, 0), views, WHOLE).decoding == "fast"
    assert film_decoding("exact", "h264", (1280, 720), views, WHOLE) == EXACT
    assert film_decoding("auto", "vp9", (1280, 720), views, WHOLE) == EXACT
    half = PictureArea(region=(0.0, 0.0, 1.0, 0.9))
    assert film_decoding("auto", "mjpeg", (1280, 720), views[:1], WHOLE) == WantedDecoding("fast", 5.0)
    assert film_decoding("auto", "mjpeg", (1280, 720), views[:1], half) == WantedDecoding("fast", 1.0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"decode": "cuda"}, "decode=cuda: cuda is a device; write decode_device: cuda"),
        ({"decode": "cpu"}, "decode=cpu: cpu is a device; write decode_device: cpu"),
        ({"decode": "turbo"}, "decode=turbo: must be 'auto', 'exact' or 'fast'"),
        ({"decode_device": "fast"}, "decode_device=fast: must be 'auto', 'cpu', 'cuda'"),
    ],
)
def test_an_unknown_value_is_refused_with_the_list(tmp_path: Path, keys: dict[str, str], message: str) -> None:
    for raw in ({"streams": {"a": {"url": "a.mp4", **keys}}}, {"defaults": keys, "streams": {"a": {"url": "a.mp4"}}}):
        with pytest.raises(ConfigError) as caught:
            parse_config(raw, base=tmp_path, origin="x")
        assert message in str(caught.value)
