"""Make the pictures of a film: one frame of it as a small JPEG, plain and with label and probability drawn on it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av
import av.error
import numpy as np

from engines.arrays import U8
from streamclf.clips.film_info import FilmInfo, Pictures
from streamclf.clips.names import DRAWN, STILL, UNFINISHED
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.errors import ClipError, SourceError
from streamclf.events.views import SEPARATOR, Area
from streamclf.sources.decoded_frame import OrientationTracker, plausible_aspect
from streamclf.sources.picture_limits import DECODER_OPTIONS, PictureLimit, probing_options
from streamclf.sources.picture_part import part_of
from streamclf.sources.resize import FrameRenderer, OrientedFrame

if TYPE_CHECKING:
    from streamclf.render.overlay import OverlayState

LONGEST_SIDE: Final = 1280
"""Largest width and height of a picture in pixels."""
MAX_PICTURE_BYTES: Final = 300_000
"""A picture should fit into a notification: many services refuse more."""
MAX_DECODED: Final = 1500
"""Frames that are decoded at most to get one: a minute at 25 frames per second between two key frames."""
_QUALITIES: Final = (85, 70, 50, 30)
_SMALLEST_SIDE: Final = 320

log = logging.getLogger(__name__)


def make_pictures(
    film: Path, info: FilmInfo, picture: PictureArea = WHOLE, areas: Callable[[], Mapping[str, Area]] = dict
) -> Pictures:
    """Write the pictures of a complete film beside it: the frame of its most probable moment, plain and drawn.

    `picture` says how they show the film: rotated, mirrored and masked. `areas` returns the rectangle of each region in
    shares of this picture, "" for that of a region without a name. Return the paths of the pictures. Raises `ClipError`
    if there is no picture; if only drawing fails, there is no drawn one.
    """
    best = info.best
    at_s = info.actions[0].started_s if best is None else best.at_s
    shown_s = min(max(0.0, at_s - info.start_s), info.end_s - info.start_s)
    bgr = frame_at(film, shown_s, WHOLE if info.encoded else picture)
    probability = info.peak if best is None else best.probability
    write_picture(film.with_name(f"{info.name.stem}{STILL}"), encode_picture(bgr))
    state = drawn_state(info, at_s, probability, areas())
    try:
        write_picture(film.with_name(f"{info.name.stem}{DRAWN}"), draw_picture(bgr, state))
    except (ClipError, ValueError) as error:
        log.warning("%s: no picture with label and probability: %s", info.name.film, error)
        return Pictures(info.name.still, None)
    return Pictures(info.name.still, info.name.drawn)


def drawn_state(info: FilmInfo, at_s: float, probability: float, areas: Mapping[str, Area]) -> OverlayState:
    """Return what is drawn on the picture at media time `at_s`: the actions that run, in the views of the stream."""
    from streamclf.render.overlay import OverlayState
    from streamclf.render.overlay_views import OverlayView

    first = info.actions[0]
    before = [each for each in info.points if each.at_s <= at_s]
    running = [each for each in info.actions if each.started_s <= at_s <= (each.ended_s or at_s)]
    kinds = list(dict.fromkeys([first.kind, *(each.kind for each in running)]))
    latest = {each.kind: each.probability for each in before} | {first.kind: probability}
    peaks = {each.kind: each.peak for each in info.actions}
    views = [
        OverlayView(
            name=SEPARATOR.join(view.names),
            region=view.region,
            present=[(kind.label, latest.get(kind, peaks[kind])) for kind in kinds if kind.view == view],
            history=[(each.label, each.probability) for each in before if each.kind.view == view],
            actions=[each.label for each in running if each.kind.view == view],
            area=areas.get(view.region or ""),
        )
        for view in dict.fromkeys(kind.view for kind in kinds)
    ]
    is_plain = len(views) == 1 and not views[0].name and views[0].area is None
    return OverlayState(
        stream=info.name.stream,
        top=((info.label, probability),),
        history=[(each.label, each.probability) for each in before],
        actions=[each.label for each in running],
        views=() if is_plain else views,
    )


def frame_at(film: Path, at_s: float, picture: PictureArea = WHOLE) -> U8:
    """Decode the frame that the film shows at `at_s`, counted from its beginning; the nearest one, if it shows none.

    Returns (H, W, 3) uint8 BGR in display orientation, with at most 1280 pixels a side. Decoding begins at the key
    frame before. Raises `ClipError` if the film cannot be decoded.
    """
    best: OrientedFrame | None = None
    try:
        with contextlib.closing(_frames_from(film, at_s)) as frames:
            for time_s, frame in frames:
                if best is not None and time_s > at_s:
                    break
                best = frame
    except (av.error.FFmpegError, OSError, ValueError, IndexError, SourceError) as error:
        if best is None:
            raise ClipError(f"{film}: no picture can be decoded ({_reason(error)})") from error
    if best is None:
        raise ClipError(f"{film}: no picture can be decoded")
    part = part_of(best.width, best.height, picture)
    height, width = picture_size(part.height, part.width)
    rgb = np.empty((height, width, 3), np.uint8)
    FrameRenderer()(best, height, width, "stretch", rgb, picture)
    return np.ascontiguousarray(rgb[..., ::-1])


def picture_size(height: int, width: int, longest: int = LONGEST_SIDE) -> tuple[int, int]:
    """Return the (height, width) of the picture of a frame, which is never larger than the frame."""
    side = max(height, width)
    if side <= longest:
        return height, width
    return max(1, round(height * longest / side)), max(1, round(width * longest / side))


def encode_picture(bgr: U8, max_bytes: int = MAX_PICTURE_BYTES) -> bytes:
    """Encode (H, W, 3) uint8 BGR as a JPEG of at most `max_bytes`: with less quality, then smaller.

    Raises `ClipError` if even 320 pixels need more.
    """
    import cv2

    while True:
        for quality in _QUALITIES:
            ok, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if ok and jpeg.size <= max_bytes:
                return jpeg.tobytes()
        height, width = bgr.shape[:2]
        if max(height, width) <= _SMALLEST_SIDE:
            raise ClipError(f"a picture of {width}x{height} needs more than {max_bytes} bytes; raise the limit")
        size = picture_size(height, width, max(_SMALLEST_SIDE, max(height, width) * 2 // 3))
        bgr = np.asarray(cv2.resize(bgr, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def draw_picture(bgr: U8, state: OverlayState, max_bytes: int = MAX_PICTURE_BYTES) -> bytes:
    """Draw label and probability over (H, W, 3) uint8 BGR; return the JPEG."""
    from streamclf.render.overlay import draw

    return encode_picture(draw(bgr, state), max_bytes)


def write_picture(path: Path, jpeg: bytes) -> None:
    """Write a picture under a hidden name first, so that no part of it is ever visible. Raises `ClipError`."""
    hidden = path.with_name(f".{path.name}{UNFINISHED}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC  # it may be a link that somebody made
    try:
        hidden.unlink(missing_ok=True)
        with os.fdopen(os.open(hidden, flags, 0o644), "wb") as file:
            file.write(jpeg)
        hidden.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(hidden)  # noqa: PTH108
        raise ClipError(f"{path}: {error.strerror}; the picture is lost") from error


def _frames_from(film: Path, at_s: float) -> Generator[tuple[float, OrientedFrame], None, None]:
    """Decode from the key frame at or before `at_s` on: each frame and its time from the film's beginning."""
    shown = film.name
    with av.open(str(film), "r", format="mp4", options=probing_options("mp4")) as container:
        stream: Any = container.streams.video[0]
        context = stream.codec_context
        context.thread_type, context.options = "NONE", dict(DECODER_OPTIONS)
        begin, time_base = stream.start_time or 0, stream.time_base or Fraction(1, 1000)
        container.seek(begin + int(max(0.0, at_s) / time_base), stream=stream, backward=True)
        limit, tracker = PictureLimit(shown), OrientationTracker(context.name)
        aspect = plausible_aspect(stream.sample_aspect_ratio)
        decoded = 0
        for packet in container.demux(stream):
            frames = packet.decode()
            limit.check(context)
            for frame in frames:
                if frame.pts is not None:
                    yield float((frame.pts - begin) * time_base), tracker.orient(frame, aspect)
                decoded += 1
            if decoded >= MAX_DECODED:
                return


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or type(error).__name__)
