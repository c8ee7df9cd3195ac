"""`streamclf watch`: each stream's picture with what the model says of it, in a window or into a film."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from engines.arrays import U8
from streamclf.client.subscription import Subscription, subscribe
from streamclf.errors import UsageError
from streamclf.events.types import Action, Prediction, Received, Status
from streamclf.render.film_writer import FilmWriter, fitted
from streamclf.render.overlay import OverlayState, draw
from streamclf.runtime.signals import stop_on_signals
from streamclf.runtime.stop_request import StopRequest

__all__ = ["OverlayState", "PreviewWall", "draw", "run_watch"]

MAX_WINDOWS = 16
_FRAME_S = 1 / 25
_RATE_S = 5.0
_HISTORY = 600
_SILENT_S = 4.0
_SETTLE_S = 1.0
"""A film keeps the size of its first picture: by then all streams and their pictures have been heard of."""
_KEYS_QUIT = (27, ord("q"))
_BLANK: U8 = np.full((360, 640, 3), 34, np.uint8)
_MAX_PIXELS = 4096 * 4096


def run_watch(
    endpoint: str,
    *,
    streams: Collection[str] | None = None,
    record: Path | None = None,
    seconds: float | None = None,
) -> int:
    """Show (or record) until q, Esc, the last window's close, SIGINT, or for `seconds`; the exit code.

    Raises `UsageError` where there is no display to show windows on.
    """
    stop = StopRequest(seconds)
    screen = _Windows() if record is None else None
    with (
        stop_on_signals(stop.request),
        subscribe(endpoint, streams=streams) as events,
        FilmWriter(record) if record else nullcontext(None) as film,
    ):
        events.watch_previews(streams)
        shown: _Shown = screen or _Film(film)  # type: ignore[arg-type]
        board = PreviewWall()
        began = time.monotonic()
        while not stop.is_set:
            _gather(events, board, time.monotonic() + _FRAME_S)
            if not shown.show(board.pictures(), time.monotonic() - began):
                break
        if screen:
            screen.close()
        if film:
            print(f"streamclf watch: {film.frames} pictures written to {record}", file=sys.stderr)
    return 0


class _Shown(Protocol):
    def show(self, pictures: Mapping[str, U8], time_s: float) -> bool: ...


@dataclass(slots=True)
class _View:
    """One stream as last heard of."""

    picture: U8 | None = None
    state: str = "connecting"
    reason: str | None = None
    top: tuple[tuple[str, float], ...] = ()
    latency_ms: float | None = None
    history: deque[tuple[str, float]] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    actions: dict[str, None] = field(default_factory=dict)
    changed: bool = True
    drawn: U8 | None = None


class PreviewWall:
    """Takes events and previews, gives annotated pictures. No input or output."""

    def __init__(self) -> None:
        self._views: dict[str, _View] = {}
        self._heard_at = time.monotonic()
        self._service_gone = False

    def take(self, event: Received, now_s: float) -> None:
        """Note one event that came at monotonic `now_s`."""
        self._heard_at = now_s
        if not isinstance(event, Prediction | Action | Status):
            return
        view = self._view(event.stream)
        match event:
            case Prediction():
                view.top, view.latency_ms = event.top, event.latency_ms.capture_to_publish
                view.history.append(event.top[0])
                view.arrivals.append(now_s)
                view.state = "live"  # the status that says so may have come before we did
            case Action():
                if event.phase == "end":
                    view.actions.pop(event.label, None)
                else:
                    view.actions[event.label] = None
            case Status():
                view.state, view.reason = event.state, event.reason
        view.changed = True

    def take_preview(self, stream: str, jpeg: bytes) -> None:
        """Note a picture; one that cannot be decoded or is absurdly large is left out."""
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
        if picture is not None and picture.size <= 3 * _MAX_PIXELS:
            view = self._view(stream)
            view.picture, view.changed = np.asarray(picture, np.uint8), True

    def note_silence(self, now_s: float) -> None:
        """A service that says nothing for seconds is gone, and the pictures must not look alive."""
        gone = now_s - self._heard_at > _SILENT_S
        if gone != self._service_gone:
            self._service_gone = gone
            for view in self._views.values():
                view.changed = True

    def pictures(self) -> dict[str, U8]:
        """(H, W, 3) uint8 BGR for each stream, in the streams' alphabetical order."""
        return {stream: self._drawn(stream, view) for stream, view in sorted(self._views.items())}

    def _view(self, stream: str) -> _View:
        return self._views.setdefault(stream, _View())

    def _drawn(self, stream: str, view: _View) -> U8:
        if view.drawn is None or view.changed:
            view.changed = False
            view.drawn = draw(_BLANK if view.picture is None else view.picture, self._state(stream, view))
        return view.drawn

    def _state(self, stream: str, view: _View) -> OverlayState:
        span = view.arrivals[-1] - view.arrivals[0] if len(view.arrivals) > 1 else 0.0
        while view.arrivals and view.arrivals[-1] - view.arrivals[0] > _RATE_S:
            view.arrivals.popleft()
        return OverlayState(
            stream=stream,
            state="offline" if self._service_gone else view.state,
            reason="the service is silent" if self._service_gone else view.reason,
            top=view.top,
            history=view.history,
            rate_per_s=(len(view.arrivals) - 1) / span if span > 0 else None,
            latency_ms=view.latency_ms,
            actions=tuple(view.actions),
        )


def _gather(events: Subscription, board: PreviewWall, until_s: float) -> None:
    while (remaining := until_s - time.monotonic()) > 0:
        event = events.receive(remaining)
        if event is not None:
            board.take(event, time.monotonic())
    for stream, jpeg in events.previews.items():
        board.take_preview(stream, jpeg)
    board.note_silence(time.monotonic())


class _Windows:
    """One OpenCV window a stream."""

    def __init__(self) -> None:
        _require_display()
        self._open: set[str] = set()
        self._closed: set[str] = set()

    def show(self, pictures: Mapping[str, U8], time_s: float) -> bool:
        for stream in list(pictures)[:MAX_WINDOWS]:
            if stream in self._open and cv2.getWindowProperty(stream, cv2.WND_PROP_VISIBLE) < 1:
                self._open.discard(stream)
                self._closed.add(stream)
            if stream in self._closed:
                continue
            with _translated():
                if stream not in self._open:
                    cv2.namedWindow(stream, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                    cv2.resizeWindow(stream, pictures[stream].shape[1], pictures[stream].shape[0])
                    self._open.add(stream)
                cv2.imshow(stream, pictures[stream])
        with _translated():
            key = cv2.waitKey(1) & 0xFF
        return key not in _KEYS_QUIT and not (self._closed and not self._open)

    def close(self) -> None:
        with _translated():
            cv2.destroyAllWindows()


class _Film:
    """All streams side by side."""

    def __init__(self, writer: FilmWriter) -> None:
        self._writer = writer
        self._begin_s: float | None = None

    def show(self, pictures: Mapping[str, U8], time_s: float) -> bool:
        if self._begin_s is None and pictures:
            self._begin_s = time_s + _SETTLE_S
        if self._begin_s is not None and time_s >= self._begin_s:
            self._writer.write(tiled(list(pictures.values())), time_s - self._begin_s)
        return True


def tiled(pictures: list[U8]) -> U8:
    """Pictures in a grid that is about square, each fitted into a cell of the first one's size."""
    if len(pictures) == 1:
        return pictures[0]
    height, width = pictures[0].shape[:2]
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    scale = min(1.0, 1920 / (columns * width))
    cell_h, cell_w = max(1, round(height * scale)), max(1, round(width * scale))
    grid = np.full((rows * cell_h, columns * cell_w, 3), 20, np.uint8)
    for index, picture in enumerate(pictures):
        y, x = index // columns * cell_h, index % columns * cell_w
        grid[y : y + cell_h, x : x + cell_w] = fitted(picture, cell_h, cell_w)
    return grid


def _require_display() -> None:
    """Qt ends the whole process when it finds no display, so this is looked up before."""
    if sys.platform != "linux" or os.environ.get("WAYLAND_DISPLAY"):
        return
    display = os.environ.get("DISPLAY", "")
    number = display.removeprefix(":").partition(".")[0]
    local = display.startswith(":") and number.isdigit()
    if not display or (local and not Path(f"/tmp/.X11-unix/X{number}").exists()):  # noqa: S108 - X11's own place
        raise UsageError(f"no display (DISPLAY={display!r}) to open a window on; --record out.mp4 works without one")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except cv2.error as error:
        raise UsageError(
            f"OpenCV cannot open a window ({error.code}: is opencv-python-headless installed?); "
            "--record out.mp4 works without one"
        ) from error
