"""`streamclf watch`: show each stream's preview with its predictions, in windows or as a film."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from engines.arrays import U8
from streamclf.client.stream_views import ServiceView, StreamView
from streamclf.client.subscription import Subscription, subscribe
from streamclf.errors import UsageError
from streamclf.events.types import Action, Prediction, Received, Status
from streamclf.render.film_writer import FilmWriter, fit
from streamclf.render.overlay import OverlayState, draw
from streamclf.runtime.signals import stop_on_signals
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.outlet_report import OutletReport
from streamclf.units import duration_text

__all__ = ["OverlayState", "PreviewWall", "draw", "run_watch"]

MAX_WINDOWS = 16
_REFRESH_S = 1 / 25
_SETTLE_S = 1.0
"""Wait this long before a film begins: it keeps the size of its first image, which must show all streams."""
_QUIT_KEYS = (27, ord("q"))
_BLANK: U8 = np.full((360, 640, 3), 34, np.uint8)
_BACKGROUND_GREY = 20
_MAX_PIXELS = 4096 * 4096
_MAX_GRID_WIDTH = 1920


def run_watch(
    endpoint: str,
    *,
    streams: Collection[str] | None = None,
    record: Path | None = None,
    seconds: float | None = None,
) -> int:
    """Show or record previews until q, Esc, SIGINT, the last window is closed, or for `seconds`; return the exit code.

    Raises `UsageError` if there is no display to open windows on.
    """
    stop = StopRequest(seconds)
    windows = _Windows() if record is None else None
    with (
        stop_on_signals(stop.request),
        subscribe(endpoint, streams=streams) as events,
        FilmWriter(record) if record else nullcontext(None) as film,
    ):
        events.watch_previews(streams)
        screen: _Screen = windows or _Film(film)  # type: ignore[arg-type]
        wall = PreviewWall()
        began_s = time.monotonic()
        while not stop.is_set:
            _receive(events, wall, time.monotonic() + _REFRESH_S)
            if not screen.show(wall.images(), time.monotonic() - began_s):
                break
        if windows:
            windows.close()
        shown_for = duration_text(time.monotonic() - began_s)
        OutletReport("watch").notice(f"{film.frames} frames written to {record}" if film else f"shown for {shown_for}")
    return 0


class _Screen(Protocol):
    def show(self, images: Mapping[str, U8], time_s: float) -> bool:
        """Show one (H, W, 3) uint8 BGR image a stream; return False when the user wants to quit."""
        ...


@dataclass(slots=True)
class _Tile:
    """The latest preview of a stream, and the image drawn from it."""

    preview: U8 | None = None
    drawn: U8 | None = None
    """None when the preview or the stream has changed since the image was drawn."""


class PreviewWall:
    """Turn events and previews into one annotated image a stream. No input or output."""

    def __init__(self) -> None:
        self._service = ServiceView()
        self._tiles: dict[str, _Tile] = {}
        self._is_silent = False

    def apply(self, event: Received, now_s: float) -> None:
        """Update the wall with an event that arrived at monotonic `now_s`."""
        self._service.apply(event, now_s)
        if isinstance(event, Prediction | Action | Status) and (tile := self._tile(event.stream)):
            tile.drawn = None

    def add_preview(self, stream: str, jpeg: bytes) -> None:
        """Set the preview of a stream. Ignore one that cannot be decoded or has more than 16 million pixels."""
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
        if image is not None and image.size <= 3 * _MAX_PIXELS and (tile := self._tile(stream)):
            tile.preview, tile.drawn = np.asarray(image, np.uint8), None

    def check_silence(self, now_s: float) -> None:
        """Show all streams as offline while the service is silent: an old preview must not appear live."""
        is_silent = self._service.received_at_s is not None and self._service.is_silent(now_s)
        if is_silent != self._is_silent:
            self._is_silent = is_silent
            for tile in self._tiles.values():
                tile.drawn = None

    def images(self) -> dict[str, U8]:
        """Return one (H, W, 3) uint8 BGR image a stream, in alphabetical order of the streams."""
        return {stream: self._draw(stream, tile) for stream, tile in sorted(self._tiles.items())}

    def _tile(self, stream: str) -> _Tile | None:
        if self._service.find_or_add(stream) is None:
            return None
        return self._tiles.setdefault(stream, _Tile())

    def _draw(self, stream: str, tile: _Tile) -> U8:
        if tile.drawn is None:
            state = self._overlay_state(stream, self._service.streams[stream])
            tile.drawn = draw(_BLANK if tile.preview is None else tile.preview, state)
        return tile.drawn

    def _overlay_state(self, stream: str, view: StreamView) -> OverlayState:
        return OverlayState(
            stream=view.name or stream,
            state="offline" if self._is_silent else view.state,
            reason="the service is silent" if self._is_silent else view.reason,
            top=view.top,
            history=view.history,
            rate_per_s=None if view.predicted_at_s is None else view.rate_per_s(view.predicted_at_s),
            latency_ms=view.latency_ms,
            actions=tuple(view.active),
        )


def _receive(events: Subscription, wall: PreviewWall, end_s: float) -> None:
    """Apply the events that arrive until `end_s`, then the latest previews."""
    while (remaining_s := end_s - time.monotonic()) > 0:
        event = events.receive(remaining_s)
        if event is not None:
            wall.apply(event, time.monotonic())
    for stream, jpeg in events.previews.items():
        wall.add_preview(stream, jpeg)
    wall.check_silence(time.monotonic())


class _Windows:
    """Show each stream in an OpenCV window of its own, at most 16."""

    def __init__(self) -> None:
        _require_display()
        self._open: set[str] = set()
        self._closed: set[str] = set()

    def show(self, images: Mapping[str, U8], time_s: float) -> bool:
        for stream in list(images)[:MAX_WINDOWS]:
            if stream in self._open and cv2.getWindowProperty(stream, cv2.WND_PROP_VISIBLE) < 1:
                self._open.discard(stream)
                self._closed.add(stream)
            if stream in self._closed:
                continue
            with _translated_errors():
                if stream not in self._open:
                    cv2.namedWindow(stream, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                    cv2.resizeWindow(stream, images[stream].shape[1], images[stream].shape[0])
                    self._open.add(stream)
                cv2.imshow(stream, images[stream])
        with _translated_errors():
            key = cv2.waitKey(1) & 0xFF
        return key not in _QUIT_KEYS and not (self._closed and not self._open)

    def close(self) -> None:
        with _translated_errors():
            cv2.destroyAllWindows()


class _Film:
    """Record all streams side by side."""

    def __init__(self, writer: FilmWriter) -> None:
        self._writer = writer
        self._begin_s: float | None = None

    def show(self, images: Mapping[str, U8], time_s: float) -> bool:
        if self._begin_s is None and images:
            self._begin_s = time_s + _SETTLE_S
        if self._begin_s is not None and time_s >= self._begin_s:
            self._writer.write(tile_images(list(images.values())), time_s - self._begin_s)
        return True


def tile_images(images: list[U8]) -> U8:
    """Arrange (H, W, 3) uint8 BGR images in a grid that is about square and at most 1920 pixels wide.

    Each image is fitted into a cell of the first image's size. One image is returned as it is.
    """
    if len(images) == 1:
        return images[0]
    height, width = images[0].shape[:2]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    scale = min(1.0, _MAX_GRID_WIDTH / (columns * width))
    cell_h, cell_w = max(1, round(height * scale)), max(1, round(width * scale))
    grid = np.full((rows * cell_h, columns * cell_w, 3), _BACKGROUND_GREY, np.uint8)
    for index, image in enumerate(images):
        y, x = index // columns * cell_h, index % columns * cell_w
        grid[y : y + cell_h, x : x + cell_w] = fit(image, cell_h, cell_w)
    return grid


def _require_display() -> None:
    """Raise `UsageError` if there is no display. Qt would end the whole process instead."""
    if sys.platform != "linux" or os.environ.get("WAYLAND_DISPLAY"):
        return
    display = os.environ.get("DISPLAY", "")
    number = display.removeprefix(":").partition(".")[0]
    is_local = display.startswith(":") and number.isdigit()
    if not display or (is_local and not Path(f"/tmp/.X11-unix/X{number}").exists()):  # noqa: S108 - X11's own place
        raise UsageError(f"no display (DISPLAY={display!r}) to open a window on; --record out.mp4 works without one")


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except cv2.error as error:
        raise UsageError(
            f"OpenCV cannot open a window ({error.code}: is opencv-python-headless installed?); "
            "--record out.mp4 works without one"
        ) from error
