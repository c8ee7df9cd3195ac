"""Parse a server's session description (SDP, RFC 8866): the video track that we can read, or why there is none."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from streamclf.errors import SourceError
from streamclf.sources.rtsp.fallback import UnsupportedStreamError
from streamclf.sources.rtsp.message import MalformedMessageError

MAX_SDP_BYTES = 64 << 10
MAX_LINES = 1024
MAX_MEDIA = 32
MAX_CONTROL_CHARS = 2048
MAX_PARAMETER_SETS = 16
MAX_PARAMETER_SET_BYTES = 4096
CODECS = {"H264": "H264", "H265": "H265", "HEVC": "H265"}
STATIC_CODECS = {26: "JPEG", 31: "H261", 32: "MPEG-1/2", 33: "MPEG-TS", 34: "H263"}
CLOCKS_HZ = (1_000, 10_000_000)
VIDEO_CLOCK_HZ = 90_000
MAX_FPS = 1000.0
SPROPS = ("sprop-vps", "sprop-sps", "sprop-pps", "sprop-parameter-sets")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoTrack:
    """A video track. `parameter_sets`: NAL units that its packets may omit. `fps`: None if the SDP does not say."""

    codec: str
    payload_types: frozenset[int]
    clock_hz: int = VIDEO_CLOCK_HZ
    control: str = ""
    parameter_sets: tuple[bytes, ...] = ()
    fps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Presentation:
    """A track, and the control URL of the whole presentation (empty if the SDP does not say)."""

    track: VideoTrack
    control: str


@dataclass(slots=True, kw_only=True)
class _SdpSection:
    """The lines that belong to one `m=` line, or the lines before the first one."""

    kind: str = ""
    protocol: str = ""
    payload_types: tuple[int, ...] = ()
    attributes: list[tuple[str, str]] = field(default_factory=list)

    def of(self, name: str) -> str:
        return next((value for key, value in self.attributes if key == name), "")

    def numbered(self, name: str, payload_type: int) -> str:
        """Return the value of `a=name:96 value` for this payload type."""
        for key, value in self.attributes:
            number, _, rest = value.partition(" ")
            if key == name and number.strip() == str(payload_type):
                return rest.strip()
        return ""


def parse_sdp(body: bytes) -> Presentation:
    """Parse an SDP and return its first video track that we can read.

    Raises `UnsupportedStreamError` if FFmpeg may be able to read one, `SourceError` if there is no video, and
    `MalformedMessageError` if the SDP exceeds a limit or holds a value that we must not use.
    """
    if len(body) > MAX_SDP_BYTES:
        raise MalformedMessageError(f"a description of {len(body)} bytes; at most {MAX_SDP_BYTES} are read")
    session, *media = _sections(body.decode("utf-8", "replace"))
    videos = [section for section in media if section.kind == "video"]
    if not videos:
        kinds = ", ".join(sorted({section.kind for section in media if section.kind.isalpha()})) or "nothing"
        if kinds == "nothing":
            raise UnsupportedStreamError("a description without media")
        raise SourceError(f"holds {kinds[:80]}, no video; give a source with a video stream")
    reasons: list[str] = []
    for section in videos:
        track = _track(section)
        if isinstance(track, VideoTrack):
            return Presentation(track=track, control=_control(session))
        reasons.append(track)
    raise UnsupportedStreamError(reasons[0])


def _sections(text: str) -> list[_SdpSection]:
    sections = [_SdpSection()]
    for line in text.splitlines()[:MAX_LINES]:
        kind, _, value = line.strip().partition("=")
        if kind == "m":
            if len(sections) > MAX_MEDIA:
                break
            sections.append(_media(value))
        elif kind == "a":
            name, _, rest = value.partition(":")
            sections[-1].attributes.append((name.strip().lower(), rest.strip()))
    return sections


def _media(value: str) -> _SdpSection:
    kind, *rest = value.split()[:64] or [""]
    protocol = rest[1] if len(rest) > 1 else ""
    numbers = tuple(int(number) for number in rest[2:] if number.isascii() and number.isdigit() and len(number) <= 3)
    return _SdpSection(kind=kind.lower(), protocol=protocol.upper(), payload_types=numbers)


def _track(section: _SdpSection) -> VideoTrack | str:
    """Return the track, or why we cannot read it."""
    encrypted = section.of("crypto") or section.of("key-mgmt") or "SAVP" in section.protocol
    if encrypted:
        return "encrypted media (SRTP)"
    if not section.protocol.startswith("RTP/AVP"):
        return f"media over {_word(section.protocol)}, not RTP"
    names: list[str] = []
    for payload_type in section.payload_types:
        name, _, clock = section.numbered("rtpmap", payload_type).partition("/")
        codec = CODECS.get(name.strip().upper())
        if codec is None:
            names.append(name or STATIC_CODECS.get(payload_type, f"payload type {payload_type}"))
            continue
        fmtp = _pairs(section.numbered("fmtp", payload_type))
        if (reason := _unusual(codec, fmtp)) is not None:
            return reason
        return VideoTrack(
            codec=codec,
            payload_types=frozenset({payload_type}),
            clock_hz=_clock_hz(clock),
            control=_control(section),
            parameter_sets=_parameter_sets(fmtp),
            fps=_fps(section.of("framerate")),
        )
    return f"{_word(names[0]) if names else 'video of no codec'}, not H.264 or H.265"


def _pairs(fmtp: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in fmtp.split(";")[:64])
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _unusual(codec: str, fmtp: dict[str, str]) -> str | None:
    """Return the name of a packetization that we do not support, since cameras do not use it; None for others."""
    if codec == "H264" and fmtp.get("packetization-mode", "0") not in ("", "0", "1"):
        return "H.264 with its slices out of order (packetization-mode 2)"
    if fmtp.get("sprop-max-don-diff", "0") not in ("", "0") or fmtp.get("tx-mode", "SRST").upper() != "SRST":
        return "H.265 with its slices out of order or in several streams"
    return None


def _parameter_sets(fmtp: dict[str, str]) -> tuple[bytes, ...]:
    sets = (nal for key in SPROPS for nal in _decoded(fmtp.get(key, "")))
    return tuple(islice(sets, MAX_PARAMETER_SETS))


def _decoded(text: str) -> Iterator[bytes]:
    for part in text.split(",")[:MAX_PARAMETER_SETS]:
        try:
            nal = base64.b64decode(part + "=" * (-len(part) % 4), validate=True)
        except (binascii.Error, ValueError):
            continue  # the packets usually contain them as well
        if 2 < len(nal) <= MAX_PARAMETER_SET_BYTES:
            yield nal


def _clock_hz(text: str) -> int:
    digits = text.split("/")[0].strip()
    hz = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else VIDEO_CLOCK_HZ
    return hz if CLOCKS_HZ[0] <= hz <= CLOCKS_HZ[1] else VIDEO_CLOCK_HZ


def _fps(text: str) -> float | None:
    try:
        fps = float(text)
    except ValueError:
        return None
    return fps if 0 < fps < MAX_FPS else None


def _control(section: _SdpSection) -> str:
    """Return the control URL. It becomes part of a request's first line, so it must not be able to end that line."""
    control = section.of("control")
    if len(control) > MAX_CONTROL_CHARS or not all("!" <= char <= "~" for char in control):
        raise MalformedMessageError("an invalid control URL")
    return control


def _word(text: str) -> str:
    """Make a word that a server sent safe for our own messages."""
    return "".join(char for char in text[:32] if char.isascii() and (char.isalnum() or char in "-_./ ")) or "?"
