"""`streamclf watch`: show the previews of all streams with their predictions, in a window or as a film."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from engines.arrays import U8
from streamclf.client.stream_views import ServiceView, StreamState, ViewState
from streamclf.client.subscription import Subscription, subscribe
from streamclf.errors import BusError
from streamclf.events.types import Action, Heartbeat, Prediction, Received, Status
from streamclf.events.views import SEPARATOR, UNNAMED, ViewKey
from streamclf.render.film_writer import FilmWriter
from streamclf.render.grid import tile_images
from streamclf.render.overlay import OverlayState, draw
from streamclf.render.overlay_views import OverlayView
from streamclf.render.preview_window import PreviewWindow
from streamclf.runtime.signals import stop_on_signals
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.chosen_streams import refuse_unknown_streams
from streamclf.subscribers.outlet_report import OutletReport
from streamclf.units import duration_text

_REFRESH_S = 1 / 25
_SETTLE_S = 1.0
"""Wait this long before a film begins: it keeps the size of its first image, which must show all streams."""
_SNAPSHOT_S = 2.0
_BLANK: U8 = np.full((360, 640, 3), 34, np.uint8)
_MAX_PIXELS = 4096 * 4096


def run_watch(
    endpoint: str,
    *,
    streams: Collection[str] | None = None,
    record: Path | None = None,
    seconds: float | None = None,
) -> int:
    """Show or record previews until q, Esc, SIGINT, the window is closed, or for `seconds`; return the exit code.

    Raises `UsageError` if there is no screen to open a window on.
    """
    remedy = f"streamclf watch {endpoint} --record out.mp4 works without one, and streamclf web {endpoint} shows a page"
    window = PreviewWindow(f"streamclf watch {endpoint}", remedy=remedy) if record is None else None
    stop = StopRequest(seconds)
    with (
        stop_on_signals(stop.request),
        subscribe(endpoint, streams=streams) as events,
        FilmWriter(record) if record else nullcontext(None) as writer,
    ):
        events.watch_previews(streams)
        wall = PreviewWall()
        _apply_snapshot(events, wall)
        film = _Film(writer) if writer else None
        began_s = time.monotonic()
        while not stop.is_set:
            _receive(events, wall, time.monotonic() + _REFRESH_S)
            images = list(wall.images().values())
            if film:
                film.add(images, time.monotonic() - began_s)
            if window and not window.show(images, f"waiting for pictures from {endpoint}"):
                break
        if window:
            window.close()
        count = len(wall.images())
        streams_text = f"{count} {'stream' if count == 1 else 'streams'}"
        shown = f"{streams_text} shown for {duration_text(time.monotonic() - began_s)}"
        OutletReport("watch").notice(f"{writer.frames} frames written to {record}" if writer else shown)
    return 0


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

    def _overlay_state(self, stream: str, view: StreamState) -> OverlayState:
        parts = view.ordered_views()
        is_plain = all(key == UNNAMED and view.area_of(None) is None for key, _ in parts)
        latest = view.latest
        return OverlayState(
            stream=view.name or stream,
            state="offline" if self._is_silent else view.state,
            reason="the service is silent" if self._is_silent else view.reason,
            top=latest.top,
            present=latest.present if latest.prediction and latest.prediction.labels is not None else None,
            history=latest.history,
            rate_per_s=None if view.predicted_at_s is None else view.rate_per_s(view.predicted_at_s),
            latency_ms=view.latency_ms,
            actions=tuple(latest.active),
            views=() if is_plain else [_overlay_view(view, key, part) for key, part in parts],
        )


def _overlay_view(view: StreamState, key: ViewKey, part: ViewState) -> OverlayView:
    return OverlayView(
        name=SEPARATOR.join(key.names),
        region=key.region,
        present=part.present,
        history=part.history,
        actions=tuple(part.active),
        area=view.area_of(key.region),
    )


def _apply_snapshot(events: Subscription, wall: PreviewWall) -> None:
    """Begin with the present state of the service, if it answers: a stream sends its next status after some seconds."""
    with suppress(BusError):
        for event in events.snapshot(_SNAPSHOT_S).events:
            wall.apply(event, time.monotonic())


def _receive(events: Subscription, wall: PreviewWall, end_s: float) -> None:
    """Apply the events that arrive until `end_s`, then the latest previews."""
    while (remaining_s := end_s - time.monotonic()) > 0:
        event = events.receive(remaining_s)
        if isinstance(event, Heartbeat):
            refuse_unknown_streams(events.streams, event)
        if event is not None:
            wall.apply(event, time.monotonic())
    for stream, jpeg in events.previews.items():
        wall.add_preview(stream, jpeg)
    wall.check_silence(time.monotonic())


class _Film:
    """Record all streams side by side, a second after the first image."""

    def __init__(self, writer: FilmWriter) -> None:
        self._writer = writer
        self._begin_s: float | None = None

    def add(self, images: Sequence[U8], time_s: float) -> None:
        """Add the images at `time_s`."""
        if self._begin_s is None and images:
            self._begin_s = time_s + _SETTLE_S
        if self._begin_s is not None and time_s >= self._begin_s:
            self._writer.write(tile_images(images), time_s - self._begin_s)
