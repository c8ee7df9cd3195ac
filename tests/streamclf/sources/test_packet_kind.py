"""Packets that no other packet is predicted from, as encoders write them and with arbitrary bytes."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import film, write_clip

from streamclf.sources.packet_kind import ALONE, DISPOSABLE, KEY, NEEDED, PacketClassifier, PacketKind

START = b"\0\0\0\1"
BFRAMES = (("preset", "ultrafast"), ("bf", "2"), ("x264-params", "b-pyramid=none:b-adapt=0:scenecut=0:threads=1"))
DELIMITER, SEI, SPS, PPS = b"\x09\xf0", b"\x06\x01\x01\x00\x80", b"\x67\x42\x00\x1e", b"\x68\xce"
IDR, SLICE, DISPOSABLE_SLICE = b"\x65\x88\x84", b"\x41\x9a\x21", b"\x01\x9e\x21"


def annex_b(*nals: bytes) -> bytes:
    return b"".join(START + nal for nal in nals)


def prefixed(*nals: bytes) -> bytes:
    return b"".join(len(nal).to_bytes(4, "big") + nal for nal in nals)


def hevc(kind: int, *, temporal_id: int = 0, layer: int = 0, body: bytes = b"\x80\x11") -> bytes:
    return bytes([kind << 1 | layer >> 5, (layer & 31) << 3 | temporal_id + 1]) + body


def hevc_sps(sub_layers: int) -> bytes:
    return hevc(33, body=bytes([(sub_layers - 1) << 1, 1]))


@pytest.mark.parametrize(
    ("nals", "expected"),
    [
        ((DELIMITER, SPS, PPS, IDR), KEY),
        ((SLICE,), NEEDED),
        ((DISPOSABLE_SLICE,), DISPOSABLE),
        ((DELIMITER, SEI, DISPOSABLE_SLICE, DISPOSABLE_SLICE), DISPOSABLE),
        ((PPS, DISPOSABLE_SLICE), NEEDED),  # later frames need the parameters
        (
            (b"\x6e\x00", DISPOSABLE_SLICE),
            DISPOSABLE,
        ),  # the prefix of scalable video, which ordinary decoders ignore
        ((b"\x02\x9e",), NEEDED),  # data partitions
        ((b"\x0b", DISPOSABLE_SLICE), NEEDED),  # the end of a stream
        ((DELIMITER,), NEEDED),
        ((), NEEDED),
    ],
)
def test_h264_packets_are_classified_by_nal_type_and_ref_idc(nals: tuple[bytes, ...], expected: PacketKind) -> None:
    assert PacketClassifier("h264").classify(annex_b(*nals)) == expected
    assert PacketClassifier("h264", b"\x01\x42\x00\x1e\xff\xe1").classify(memoryview(prefixed(*nals))) == expected


def test_h265_packets_are_disposable_only_in_the_highest_sub_layer() -> None:
    """A picture of a lower sub-layer may be a reference for a higher one, despite its type "non-reference"."""
    classifier = PacketClassifier("hevc")
    assert classifier.classify(annex_b(hevc(0))) == NEEDED, "the number of sub-layers is unknown"
    assert classifier.classify(annex_b(hevc_sps(1), hevc(34), hevc(19))) == KEY
    assert classifier.classify(annex_b(hevc(0))) == DISPOSABLE
    assert classifier.classify(annex_b(hevc(39), hevc(0))) == DISPOSABLE
    assert classifier.classify(annex_b(hevc(34), hevc(0))) == NEEDED
    assert classifier.classify(annex_b(hevc(1))) == NEEDED
    assert classifier.classify(annex_b(hevc(8))) == NEEDED, "a leading picture may not be decodable at all"
    assert classifier.classify(annex_b(hevc(0, layer=1))) == NEEDED
    classifier.classify(annex_b(hevc_sps(3)))
    assert classifier.classify(annex_b(hevc(0))) == NEEDED
    assert classifier.classify(annex_b(hevc(2, temporal_id=2))) == DISPOSABLE


def test_a_slice_far_behind_the_packet_start_counts_as_needed() -> None:
    assert PacketClassifier("h264").classify(annex_b(b"\x06" + b"\x01" * 5000, DISPOSABLE_SLICE)) == NEEDED


@pytest.mark.parametrize(
    ("codec", "data", "expected"),
    [
        ("mpeg4", "000001b600", KEY),
        ("mpeg4", "000001b640", NEEDED),
        ("mpeg4", "000001b6bf", DISPOSABLE),
        ("mpeg4", "000001b6ff", NEEDED),  # a sprite
        ("mpeg4", "000001b0f5000001b680", NEEDED),  # later pictures need the parameters
        ("mpeg4", "000001b64000000001b680", NEEDED),  # DivX packs a P picture and the next B picture
        ("mpeg2video", "000001000008", KEY),
        ("mpeg2video", "00000100ffd0", NEEDED),
        ("mpeg1video", "00000100ffd8", DISPOSABLE),
        ("mpeg2video", "000001b800080000000001000018", NEEDED),
        ("mpeg2video", "00000100ff", NEEDED),  # cut off
        ("mjpeg", "ffd8", ALONE),
        ("vp9", "000001b680", NEEDED),
    ],
)
def test_packets_of_other_codecs(codec: str, data: str, expected: PacketKind) -> None:
    assert PacketClassifier(codec).classify(bytes.fromhex(data)) == expected


@given(data=st.binary(max_size=200), extradata=st.one_of(st.none(), st.binary(max_size=40)))
def test_any_bytes_are_classified_without_error(data: bytes, extradata: bytes | None) -> None:
    for codec in ("h264", "hevc", "mpeg2video", "mpeg4"):
        assert isinstance(PacketClassifier(codec, extradata).classify(data), PacketKind)
        assert isinstance(PacketClassifier(codec, b"\1" + (extradata or b"")).classify(memoryview(data)), PacketKind)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_b_frames_of_encoded_files_are_disposable(tmp_path: Path, codec: str, suffix: str) -> None:
    options = dict(BFRAMES)
    if codec == "libx265":
        options = {"preset": "ultrafast", "x265-params": "log-level=none:bframes=2:b-adapt=0:b-pyramid=0:keyint=60"}
    path = write_clip(tmp_path / f"film.{suffix}", frames=31, gop=60, codec=codec, options=options)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        classifier = PacketClassifier(context.name, context.extradata)
        found = [classifier.classify(memoryview(packet)) for packet in container.demux(video=0) if packet.size]
    assert found[0] == KEY
    assert found[1:] == [NEEDED, DISPOSABLE, DISPOSABLE] * 10


def test_a_stream_without_b_frames_has_no_disposable_packets() -> None:
    classifier = PacketClassifier("h264")
    found = [classifier.classify(annex_b(*unit)) for unit in film(frames=50).units]
    assert [i for i, kind in enumerate(found) if kind.key] == [0, 25]
    assert not any(kind.disposable for kind in found)
