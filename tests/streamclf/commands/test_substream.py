"""A camera whose picture is much larger than the model's: `check --connect` and `init` name its second stream."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.clips import film
from support.rtsp_server import RtspServer

from streamclf.cli import _main
from streamclf.commands.probes import Picture
from streamclf.commands.substream import ModelPicture, decoding_share, describe_substream, find_second_stream

SMALL_MODEL = (192, 144)


def describe(width: int, height: int, *seen: ModelPicture, url: str = "rtsp://h/1") -> str | None:
    picture = Picture(codec="h264", width=width, height=height, fps=25.0)
    return describe_substream(url, picture, seen or (ModelPicture(part=(width, height), model=SMALL_MODEL),))


def test_the_share_is_computed_from_the_sizes() -> None:
    text = describe(1920, 1080)
    assert text is not None
    assert "75 times the pixels of the model's (192x144)" in text
    assert "with 640x360 for example, would cost 22 % of the decoding" in text
    assert decoding_share((1920, 1080), (1920, 1080)) == 1
    assert decoding_share((3840, 2160), (640, 360)) < decoding_share((1280, 720), (640, 360)) < 1


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((640, 360), ()),  # usually the second stream already
        ((360, 640), ()),
        ((1280, 720), (ModelPicture(part=(1280, 720), model=(640, 480)),)),  # 3 times the pixels
        ((1920, 1080), (ModelPicture(part=(240, 200), model=SMALL_MODEL),)),  # a region that a smaller picture blurs
        (
            (1920, 1080),
            (ModelPicture(part=(1920, 1080), model=SMALL_MODEL), ModelPicture(part=(240, 200), model=(160, 144))),
        ),
    ],
)
def test_no_second_stream_is_recommended_where_it_would_not_do(
    size: tuple[int, int], seen: tuple[ModelPicture, ...]
) -> None:
    assert describe(*size, *seen) is None


def test_the_second_stream_is_large_enough_for_every_region_and_model() -> None:
    text = describe(3840, 2160, ModelPicture(part=(960, 1080), model=(224, 224)))
    assert text is not None
    assert text.startswith("the part that a model sees has 21 times")
    assert "with 896x504" in text  # the part then has 224x252


@pytest.mark.parametrize("url", ["https://example.org/live.m3u8", "film.mp4", "file:///film.mp4", "udp://10.0.0.5:1"])
def test_other_sources_have_no_second_stream(url: str) -> None:
    assert describe(1920, 1080, url=url) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/Streaming/Channels/101", "/Streaming/Channels/102"),
        ("/Streaming/Channels/1601?transportmode=unicast", "/Streaming/Channels/1602?transportmode=unicast"),
        ("/h264/ch1/main/av_stream", "/h264/ch1/sub/av_stream"),
        ("/cam/realmonitor?channel=1&subtype=0", "/cam/realmonitor?channel=1&subtype=1"),
        ("/h264Preview_01_main", "/h264Preview_01_sub"),
        ("/stream1", "/stream2"),
        ("/unicast/c2/s0/live", "/unicast/c2/s1/live"),
        ("/media/video1", "/media/video2"),
        ("/videoMain", "/videoSub"),
        ("/user=me&channel=1&stream=0.sdp", "/user=me&channel=1&stream=1.sdp"),
        ("/Streaming/Channels/102", None),
        ("/stream11", None),
        ("/cam/realmonitor?channel=1&subtype=01", None),
        ("", None),
    ],
)
def test_the_second_stream_of_known_vendors(first: str, second: str | None) -> None:
    base = "rtsp://me:stream1%2Fstream1@10.0.0.5:554"
    assert find_second_stream(base + first) == (None if second is None else base + second)


def test_check_and_init_recommend_it_without_the_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with RtspServer({"stream1": film(width=960, height=720, frames=20)}, auth=("me", "hunter22")) as server:
        url = server.url("stream1")
        text = (
            "publish: {events: 'tcp://127.0.0.1:*', replay: 'tcp://127.0.0.1:*'}\n"
            f"streams: {{yard: {{url: '{url}'}}, part: {{url: '{url}', region: [0, 0, 0.25, 0.25]}}}}\n"
        )
        Path("s.yaml").write_text(text)
        assert _main(["check", "--connect", "s.yaml"]) == 0
        notes = [line for line in capsys.readouterr().out.splitlines() if "substream" in line]
        assert len(notes) == 1, notes
        assert notes[0].startswith("note: streams.yard: the picture has 25 times the pixels of the model's (192x144)")
        assert notes[0].endswith(f"its address is probably rtsp://***@127.0.0.1:{server.port}/stream2")
        assert _main(["init", "new.yaml", "--url", f"yard={url}", "--yes"]) == 0
    printed = capsys.readouterr().out
    assert notes[0].replace("streams.yard", "yard") in printed.splitlines()
    written = Path("new.yaml").read_text()
    address = f"rtsp://me:${{YARD_PASSWORD}}@127.0.0.1:{server.port}/stream2"
    assert [
        line for line in written.splitlines() if address in line and line.startswith("  # the picture has 25 times")
    ]
    assert "hunter22" not in printed + written + "".join(notes)
