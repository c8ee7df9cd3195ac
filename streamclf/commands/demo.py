"""`streamclf demo`: the whole service on a camera, or on a film of its own, with nothing to configure."""

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
from rich.live import Live

from engines.cache import cache_root
from streamclf import __version__
from streamclf.builtin_models import DEFAULT_MODEL, find_bundle
from streamclf.client.subscription import subscribe
from streamclf.commands.demo_film import render_clip
from streamclf.config.service import PublishConfig, ServiceConfig, StreamConfig
from streamclf.errors import BusError, SourceError
from streamclf.events.positions import START
from streamclf.events.types import Prediction, Received, Status
from streamclf.render.terminal_table import LiveTable
from streamclf.runtime.child import LOG_VARIABLE
from streamclf.runtime.signals import stop_on_signals
from streamclf.sources import open_source
from streamclf.sources.camera import list_cameras
from streamclf.supervisor.shared_children import Ready
from streamclf.supervisor.supervisor import Supervisor

REFRESH_HZ = 8
LOOPBACK_ANY_PORT = "tcp://127.0.0.1:*"


def run_demo(*, camera: int | None, headless: bool, seconds: float | None, began: float) -> int:
    """Run the demo until Ctrl-C, or for `seconds`; the exit code.

    `camera=None` takes camera 0 where there is one. `began` is when the process started, on the monotonic clock.
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
        show = _Lines(sys.stdout, began) if headless or not sys.stdout.isatty() else _Screen(bundle.spec.id)
        os.environ.setdefault(LOG_VARIABLE, "warning")  # notices of child processes would tear the table
        watcher = _Watcher(show)
        supervisor = Supervisor(config, bundle, on_ready=watcher.start)
        watcher.on_nobody_reads = supervisor.request_stop
        with stop_on_signals(supervisor.request_stop), show:
            code = supervisor.run(seconds)
        watcher.join()
    print(watcher.summary(began), file=sys.stderr)
    return code


def _choose_source(camera: int | None) -> tuple[str, StreamConfig]:
    """The camera asked for, else the first one, else our film. Raises `SourceError` for one that is not there."""
    if camera is not None:
        _probe(camera)
        return f"camera{camera}", StreamConfig(camera=camera)
    if sys.platform.startswith("linux"):
        found = [known.index for known in list_cameras()]
    else:  # other systems list none: only opening one tells
        with contextlib.suppress(SourceError):
            _probe(0)
            return "camera0", StreamConfig(camera=0)
        found = []
    if found:
        return f"camera{found[0]}", StreamConfig(camera=found[0])
    return "film", StreamConfig(url=str(_film()), pace="realtime", loop=True)


def _probe(camera: int) -> None:
    with open_source(StreamConfig(camera=camera)) as source:
        next(source)


def _film() -> Path:
    """The rendered film, kept for the next time; where the cache cannot be written, in a temporary place."""
    try:
        folder = cache_root()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"demo-{__version__}.mp4"
        if not path.exists():
            render_clip(path)
    except OSError:
        path = Path(tempfile.mkdtemp(prefix="streamclf-")) / "demo.mp4"
        render_clip(path)
    return path


class _Screen:
    """The live table."""

    def __init__(self, model: str) -> None:
        self._board = LiveTable(f"[bold]streamclf demo[/]  {model}")
        self._live = Live(
            console=Console(), refresh_per_second=REFRESH_HZ, get_renderable=self._board.render, transient=False
        )

    def __enter__(self) -> _Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def ready(self, ready: Ready) -> None:
        self._board.footer = f"{ready.engine}  ·  streamclf watch {ready.events}  ·  Ctrl-C ends"

    def show(self, event: Received) -> None:
        self._board.apply(event)


class _Lines:
    """One line for each event: for logs, pipes and machines without a screen."""

    def __init__(self, out: TextIO, began: float) -> None:
        self._out = out
        self._began = began

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
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
        print(f"{time.monotonic() - self._began:7.2f} s  {text}", file=self._out, flush=True)


class _Watcher:
    """A subscriber like any other, in a thread beside the supervisor's loop."""

    def __init__(self, show: _Screen | _Lines) -> None:
        self.on_nobody_reads: Callable[[], None] = lambda: None
        self._show = show
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._first: float | None = None
        self._predictions = 0

    def start(self, ready: Ready) -> None:
        """Begin to show what the service publishes."""
        self._show.ready(ready)
        self._thread = threading.Thread(target=self._run, args=(ready,), name="demo-subscriber", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread:
            self._thread.join(2.0)

    def summary(self, began: float) -> str:
        """How it went, in one line."""
        if self._first is None:
            return "no prediction was made"
        return f"{self._predictions} predictions, the first {self._first - began:.2f} s after the start"

    def _run(self, ready: Ready) -> None:
        try:
            self._follow(ready)
        except BrokenPipeError:  # `| head` has seen enough
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the interpreter's last flush
            self.on_nobody_reads()

    def _follow(self, ready: Ready) -> None:
        with contextlib.suppress(BusError), subscribe(ready.events, replay=True, after=START) as events:
            for event in events:
                if self._stop.is_set():
                    return
                if isinstance(event, Prediction):
                    self._predictions += 1
                    self._first = self._first or time.monotonic()
                self._show.show(event)
