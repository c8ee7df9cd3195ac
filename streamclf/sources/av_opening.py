"""Open a file or connection, choose and prepare its video stream, and read what the container declares."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from fractions import Fraction
from functools import partial
from typing import Any

import av
import av.error
import av.stream
from av.container import InputContainer
from av.video.stream import VideoStream

from streamclf.errors import SourceError
from streamclf.sources.failure_messages import Timeouts, source_error, timeout_message
from streamclf.sources.film_clock import FilmClock
from streamclf.sources.hw_decode import HardwareDevice, buffer_options, decoder_options, uses_hardware
from streamclf.sources.picture_limits import DECODER_OPTIONS, probing_options
from streamclf.sources.switching_decoder import SwitchingDecoder
from streamclf.units import NS

TOLERANT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""A title in another encoding is no reason to refuse a file. From PyAV 19 on the option is not needed."""
TEXT_CODECS = frozenset({"ansi", "bintext", "xbin", "idf"})
"""FFmpeg reads any text file as a film of a terminal, with these codecs."""
ASSUMED_FPS = 25
"""The rate of a film that declares none; FFmpeg assumes the same."""
RESTARTS = 0x200
"""libavformat's flag AVFMT_TS_DISCONT: time stamps of this format may begin again anywhere."""
GUESSED_TIMES = frozenset({"avi"})
"""Formats without presentation times. FFmpeg derives them from decoding order, often wrongly if there are B frames."""

DECLARING_FORMATS = frozenset({"mp4", "matroska", "flv", "mxf", "ivf"})
"""Formats that declare a duration, where FFmpeg reports it even if less is there. AVI is another one."""
TAGGED_DURATION = re.compile(r"([0-9]{1,4}):([0-9]{1,2}):([0-9]{1,2}(?:\.[0-9]{1,9})?)\s*\Z")
CUT_SHORT_NS = NS // 2
"""A film that ends earlier than declared by more than this is cut short."""


def open_container(
    url: str,
    shown: str,
    *,
    options: dict[str, str],
    format_name: str | None,
    timeouts: Timeouts | None,
    device: HardwareDevice | None,
) -> InputContainer:
    """Open `url`, for a decoder on `device`. Raises `SourceError`, whose message calls the source `shown`."""
    # A stalled read expires twice, because the first time it only returns the packet that was held back.
    timeout = None if timeouts is None else (timeouts.open_s, timeouts.read_s / 2)
    began = time.monotonic()
    try:
        opened: InputContainer = av.open(
            url,
            "r",
            format=format_name,
            options=options | probing_options(format_name),
            timeout=timeout,
            **TOLERANT,
            **decoder_options(device),
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        waited_s, over_tls = time.monotonic() - began, url.lower().startswith("rtsps:")
        raise source_error(error, shown, timeouts, opening=True, waited_s=waited_s, over_tls=over_tls) from None
    if timeouts is not None and time.monotonic() - began >= timeouts.open_s:
        # FFmpeg reports no error when its probing times out: it would now wait for the first packet as well.
        opened.close()
        raise SourceError(f"{shown}: {timeout_message(timeouts, opening=True)}")
    return opened


def choose_stream(container: InputContainer, shown: str) -> VideoStream:
    """Return the largest video stream. Raises `SourceError` if there is none that can be decoded."""
    # FFmpeg counts the cover image of a music file as video.
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        found = {"cover picture" if stream.type == "video" else f"{stream.type}" for stream in container.streams}
        kinds = ", ".join(sorted(found)) or "nothing"
        raise SourceError(f"{shown}: holds {kinds}, no video; give a source with a video stream")
    known = [stream for stream in streams if _has_decoder(stream)]
    if not known:
        raise SourceError(
            f"{shown}: FFmpeg has no decoder for the codec of its video; convert it to H.264, or check that it is whole"
        )
    stream = max(known, key=_rank)
    if stream.codec_context.name in TEXT_CODECS:
        raise SourceError(f"{shown}: a text file, not a video that FFmpeg can read; check the path")
    return stream


def prepare_stream(
    container: InputContainer, stream: VideoStream, *, low_delay: bool, device: HardwareDevice | None = None
) -> SwitchingDecoder:
    """Read only `stream`, and return its decoder. `low_delay`: return each frame once its data is there."""
    for other in container.streams:
        if other.index != stream.index:
            with suppress(AttributeError):  # PyAV before 17 reads and ignores them
                other.discard = av.stream.Discard.all
    context = stream.codec_context
    # Every frame thread of a decoder holds one frame back.
    context.thread_type = "NONE" if low_delay or uses_hardware(context) else "AUTO"
    options = {**DECODER_OPTIONS, **buffer_options(device)}
    if low_delay:
        context.thread_count = 1
        options["flags"] = "low_delay"  # by name: the Python spelling differs between PyAV's versions
    elif context.name == "h264":
        # FFmpeg finds out how far frames are reordered while it opens a file, where it must not decode. Otherwise the
        # decoder returns the first frames too early if the stream does not declare the depth; strict, it takes the
        # largest depth that the level allows.
        options["strict"] = "strict"
    return SwitchingDecoder(context, options, partial(_copy_decoder, context), context.name)


def _copy_decoder(context: Any) -> Any:
    """Return another decoder of the video that `context` decodes."""
    other: Any = av.CodecContext.create(context.codec, "r")
    other.extradata = context.extradata
    other.width, other.height = context.width, context.height
    other.thread_type, other.thread_count = context.thread_type, context.thread_count
    return other


def film_clock(container: InputContainer, stream: VideoStream) -> FilmClock:
    """Return the clock of a film, with what its container declares."""
    rate = stream.average_rate
    interval_ns = round(NS / rate) if rate and ASSUMED_FPS / 1000 < rate < 1000 else NS // ASSUMED_FPS
    duration = container.duration  # microseconds
    return FilmClock(
        codec=stream.codec_context.name,
        interval_ns=interval_ns,
        declared_ns=None if duration is None or duration <= 0 else duration * 1000,
        restarts=bool(int(container.format.flags) & RESTARTS),
        guessed=container.format.name in GUESSED_TIMES,
    )


def declared_ns(
    container: InputContainer, stream: VideoStream, declared_by_file_ns: int | None = None
) -> tuple[int, int] | None:
    """Return the declared duration of the video, and how much less of it is no sign that the file was cut short.

    None for formats that declare none: FFmpeg then estimates a duration from the data that is there.
    `declared_by_file_ns`: a duration that the file declares and FFmpeg does not report.
    """
    names = set(container.format.name.split(","))
    if "avi" in names:  # FFmpeg reduces the duration of a file that is too short, but not the number of frames
        frames_ns = round(stream.frames * NS / stream.average_rate) if stream.average_rate else 0
        return (frames_ns, CUT_SHORT_NS) if frames_ns else None
    if declared_by_file_ns is None and not names & DECLARING_FORMATS:
        return None
    if (tagged_ns := _tagged_ns(stream)) is not None:
        return tagged_ns, CUT_SHORT_NS
    if stream.duration is not None:
        return to_ns(stream.duration, stream.time_base), CUT_SHORT_NS
    whole_ns = declared_by_file_ns or (container.duration or 0) * 1000
    if whole_ns <= 0:
        return None
    is_alone = len(container.streams) == 1  # other streams may be longer than the video
    return whole_ns, CUT_SHORT_NS if is_alone else max(4 * CUT_SHORT_NS, whole_ns // 10)


def to_ns(value: int, time_base: Fraction | None) -> int:
    """Return a time stamp in nanoseconds."""
    if time_base is None:
        return 0
    return (2 * value * NS * time_base.numerator + time_base.denominator) // (2 * time_base.denominator)


def _rank(stream: VideoStream) -> tuple[bool, int, int]:
    """Return whether it is more than a still, its pixels, and the bit rate that an HLS playlist declares.

    An animated AVIF image also has its first picture as a stream of one frame. A playlist's pixels are not known yet.
    """
    rate = stream.metadata.get("variant_bitrate", "")
    pixels = stream.codec_context.width * stream.codec_context.height
    return stream.frames != 1, pixels, int(rate) if rate.isascii() and rate.isdigit() and len(rate) < 20 else 0


def _tagged_ns(stream: VideoStream) -> int | None:
    """Return the duration that a Matroska file has as a tag of this stream, such as "00:01:02.040000000"."""
    for name in ("DURATION", "DURATION-eng"):
        found = TAGGED_DURATION.match(stream.metadata.get(name, ""))
        if found is not None:
            hours, minutes, seconds = found.groups()
            return round(((int(hours) * 60 + int(minutes)) * 60 + Fraction(seconds)) * NS)
    return None


def _has_decoder(stream: Any) -> bool:
    return stream.codec_context is not None  # PyAV has no context where FFmpeg has no decoder


def _is_cover(stream: VideoStream) -> bool:
    disposition = getattr(stream, "disposition", None)  # PyAV 15 and later
    return disposition is not None and bool(disposition & disposition.attached_pic)
