"""Session descriptions: the video track in them, or the reason why there is none that we can read."""

from __future__ import annotations

import base64

import pytest

from streamclf.sources.rtsp.fallback import UnsupportedStreamError
from streamclf.sources.rtsp.message import MalformedMessageError
from streamclf.sources.rtsp.sdp import parse_sdp

SPS, PPS = b"\x67\x42\x00\x1e\xab", b"\x68\xce\x3c\x80"


SETS = ",".join(base64.b64encode(part).decode() for part in (SPS, PPS))


def sdp(*lines: str) -> bytes:
    return "\r\n".join(["v=0", "s=x", *lines, ""]).encode()


def test_the_first_readable_video_track_is_chosen() -> None:
    presentation = parse_sdp(
        sdp(
            "a=control:*",
            "m=audio 0 RTP/AVP 0", "a=control:audio",
            "m=video 0 RTP/AVP 26", "a=control:jpeg",
            "m=video 0 RTP/AVP 97 96",
            "a=rtpmap:97 rtx/90000", "a=rtpmap:96 h264/90000", "a=framerate:12.5", "a=control:trackID=2",
            f"a=fmtp:96 packetization-mode=1; sprop-parameter-sets={SETS} ;profile-level-id=42001e",
        )
    )  # fmt: skip
    track = presentation.track
    assert (presentation.control, track.control, track.codec, track.fps) == ("*", "trackID=2", "H264", 12.5)
    assert (track.payload_types, track.clock_hz, track.parameter_sets) == ({96}, 90_000, (SPS, PPS))


def test_an_h265_description_with_invalid_values_uses_defaults() -> None:
    vps = base64.b64encode(b"\x40\x01vps").decode().rstrip("=")
    presentation = parse_sdp(
        sdp(
            "m=video 0 RTP/AVP 98", "a=rtpmap:98 H265/9e9", "a=framerate:nan", f"a=fmtp:98 sprop-vps={vps};sprop-sps=&&"
        )
    )
    assert (presentation.track.codec, presentation.track.clock_hz, presentation.track.fps) == ("H265", 90_000, None)
    assert presentation.track.parameter_sets == (b"\x40\x01vps",)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["m=video 0 RTP/AVP 26"], "JPEG, not H.264 or H.265"),
        (["m=video 0 RTP/AVP 96", "a=rtpmap:96 MP4V-ES/90000"], "MP4V-ES, not"),
        (["m=video 0 RTP/AVP 96", "a=rtpmap:96 \x1b[31mH\u2028/1"], "31mH, not"),
        (["m=video 0 RTP/SAVP 96", "a=rtpmap:96 H264/90000"], "encrypted"),
        (["m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/90000", "a=crypto:1 AES"], "encrypted"),
        (["m=video 0 udp 96", "a=rtpmap:96 H264/90000"], "media over UDP, not RTP"),
        (["m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/9", "a=fmtp:96 packetization-mode=2"], "out of order"),
        (["m=video 0 RTP/AVP 96", "a=rtpmap:96 H265/9", "a=fmtp:96 sprop-max-don-diff=2"], "out of order"),
        (["m=video"], "not RTP"),
        ([], "without media"),
    ],
)
def test_an_unsupported_description_is_reported_in_printable_text(lines: list[str], why: str) -> None:
    with pytest.raises(UnsupportedStreamError, match=why) as caught:
        parse_sdp(sdp(*lines))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/9", "a=control:a b"], "invalid control URL"),
        (["x" * 70_000], "at most 65536 are read"),
    ],
)
def test_a_description_beyond_the_limits_is_refused_and_not_left_to_ffmpeg(lines: list[str], why: str) -> None:
    with pytest.raises(MalformedMessageError, match=why):
        parse_sdp(sdp(*lines))
