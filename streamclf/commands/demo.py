"""Run `streamclf demo`: the whole service on a camera, or on a rendered film, without any configuration."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.text import Text

from engines.cache import cache_root
from engines.printable import printable
from streamclf import __version__
from streamclf.builtin_models import DEFAULT_MODEL, find_bundle
from streamclf.client.subscription import subscribe
from streamclf.commands.demo_film import render_film
from streamclf.config.service import PublishConfig, ServiceConfig, StreamConfig
from streamclf.errors import BusError, OutputError, SourceError
from streamclf.events.positions import START
from streamclf.events.types import Prediction, Received, Status
from streamclf.render.live_screen import live_screen
from streamclf.render.terminal_table import LiveTable
from streamclf.runtime.logs import LEVEL_VARIABLE, configure_logging
from streamclf.runtime.signals import stop_on_signals
from streamclf.sources import open_source
from streamclf.sources.camera import list_cameras
from streamclf.supervisor.shared_children import Ready
from streamclf.supervisor.supervisor import Supervisor

LOOPBACK_ANY_PORT = "tcp://127.0.0.1:*"


def run_demo(*, camera: int | None, headless: bool, seconds: float | None, began: float) -> int:
    """Run the demo until Ctrl-C, or for `seconds`; return the exit code.

    `camera=None` takes the first camera, or the rendered film if there is none. `began` is when the process started,
    CLOCK_MONOTONIC in seconds. Raises `SourceError` if the given camera cannot be opened.
    """
    bundle = find_bundle(DEFAULT_MODEL)
    stream, source = _choose_source(camera)
    with tempfile.TemporaryDirectory(prefix="streamclf-demo-") as folder:
        config = ServiceConfig(
            streams={stream: source},
            publish=PublishConfig(
                events=LOOPBACK_ANY_PORT, replay=LOOPBACK_ANY_PORT, journal=Path(folder) / "events.db", keep="1h"
            ),
        )
        view = _LineView(sys.stdout, began) if headless or not sys.stdout.isatty() else _TableView(bundle.spec.id)
        os.environ.setdefault(LEVEL_VARIABLE, "warning")  # log lines of child processes would break the table
        configure_logging("demo")
        subscriber = _SubscriberThread(view)
        supervisor = Supervisor(config, bundle, on_ready=subscriber.start)
        subscriber.on_closed_output = supervisor.request_stop
        with stop_on_signals(supervisor.request_stop), view:
            code = supervisor.run(seconds)
        subscriber.join()
    print(subscriber.summary(began), file=sys.stderr)
    return code


def _choose_source(camera: int | None) -> tuple[str, StreamConfig]:
    """Choose the given camera, else the first one, else the rendered film; return the stream's name and its source.

    Raises `SourceError` if the given camera cannot be opened.
    """
    if camera is not None:
        _check_camera(camera)
        return f"camera{camera}", StreamConfig(camera=camera)
    if sys.platform.startswith("linux"):
        found = [known.index for known in list_cameras()]
    else:  # other systems do not list cameras: try to open one
        with contextlib.suppress(SourceError):
            _check_camera(0)
            return "camera0", StreamConfig(camera=0)
        found = []
    if found:
        return f"camera{found[0]}", StreamConfig(camera=found[0])
    return "film", StreamConfig(url=str(_demo_film()), pace="realtime", loop=True)


def _check_camera(camera: int) -> None:
    """Read one frame. Raises `SourceError`."""
    with open_source(StreamConfig(camera=camera)) as source:
        next(source)


def _demo_film() -> Path:
    """Return the path of the rendered film: in the cache, or a temporary directory if the cache is not writable."""
    try:
        folder = cache_root()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"demo-{__version__}.mp4"
        if not path.exists():
            render_film(path)
    except OSError:
        path = Path(tempfile.mkdtemp(prefix="streamclf-")) / "demo.mp4"
        render_film(path)
    return path


class _TableView:
    """Show a live table of the streams."""

    def __init__(self, model: str) -> None:
        self._table = LiveTable("streamclf demo", model)
        self._screen = live_screen(self._table, Console())

    def __enter__(self) -> _TableView:
        self._screen.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._screen.__exit__(None, None, None)

    def ready(self, ready: Ready) -> None:
        self._table.footer = (Text(f"streamclf watch {ready.events}"), Text(printable(ready.engine)))

    def show(self, event: Received) -> None:
        self._table.apply(event)


class _LineView:
    """Print a line for each event: for logs, pipes and machines without a screen."""

    def __init__(self, out: TextIO, began: float) -> None:
        self._out = out
        self._began = began

    def __enter__(self) -> _LineView:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError, OutputError):
            self._out.flush()

    def ready(self, ready: Ready) -> None:
        self._write(f"ready     {ready.engine}; events on {ready.events}")

    def show(self, event: Received) -> None:
        if isinstance(event, Prediction):
            label, probability = event.top[0]
            latency = event.latency_ms.capture_to_publish
            late = f"{latency:6.1f} ms" if latency is not None else ""
            self._write(f"{event.stream:<9} {label:<12} {probability:.2f} {late}")
        elif isinstance(event, Status):
            self._write(f"{event.stream:<9} {event.state} {event.reason or ''}".rstrip())

    def _write(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:7.2f} s  {printable(text)}", file=self._out, flush=True)


class _SubscriberThread:
    """Subscribe to the service in a thread, because the supervisor's loop has the main thread."""

    def __init__(self, view: _TableView | _LineView) -> None:
        self.on_closed_output: Callable[[], None] = lambda: None
        self._view = view
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._first_s: float | None = None
        self._predictions = 0

    def start(self, ready: Ready) -> None:
        """Begin to show the events of the service."""
        self._view.ready(ready)
        self._thread = threading.Thread(target=self._run, args=(ready,), name="demo-subscriber", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Stop the thread and wait for its end, for at most 2 s."""
        self._stop.set()
        if self._thread:
            self._thread.join(2.0)

    def summary(self, began: float) -> str:
        """Return one line with the number of predictions and the time to the first one."""
        if self._first_s is None:
            return "no prediction was made"
        return f"{self._predictions} predictions, the first {self._first_s - began:.2f} s after the start"

    def _run(self, ready: Ready) -> None:
        try:
            self._follow(ready)
        except (BrokenPipeError, OutputError):  # the reader of the pipe has ended, like `| head`
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the interpreter's last flush
            self.on_closed_output()

    def _follow(self, ready: Ready) -> None:
        with contextlib.suppress(BusError), subscribe(ready.events, replay=True, after=START) as events:
            for event in events:
                if self._stop.is_set():
                    return
                if isinstance(event, Prediction):
                    self._predictions += 1
                    self._first_s = self._first_s or time.monotonic()
                self._view.show(event)
