"""Run `streamclf demo`: the whole service on one source, without any configuration."""

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

from engines.printable import printable
from streamclf.builtin_models import DEFAULT_MODEL, find_bundle
from streamclf.client.subscription import subscribe
from streamclf.commands.demo_page import DemoPage, has_screen, page_is_installed
from streamclf.commands.demo_source import DemoSource, choose_source
from streamclf.config.outlets import OutletsConfig
from streamclf.config.publish import PublishConfig
from streamclf.config.service import ServiceConfig
from streamclf.config.views import UNNAMED
from streamclf.errors import BusError, OutputError, UsageError
from streamclf.events.positions import START
from streamclf.events.types import Prediction, Received, Status
from streamclf.render.live_screen import live_screen
from streamclf.render.terminal_table import LiveTable
from streamclf.runtime.logs import LEVEL_VARIABLE, configure_logging
from streamclf.runtime.signals import stop_on_signals
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.hub_process import Ready
from streamclf.supervisor.supervisor import Supervisor

LOOPBACK_ANY_PORT = "tcp://127.0.0.1:*"


def run_demo(
    source_text: str | None, *, headless: bool, with_page: bool | None, seconds: float | None, began: float
) -> int:
    """Run the demo until Ctrl-C, or for `seconds`; return the exit code.

    `source_text` is the number of a camera, a URL or the path of a film. None takes the first camera, or the rendered
    film if there is none. `with_page=None` serves the page if its libraries are installed. `began` is when the process
    started, CLOCK_MONOTONIC in seconds. Raises `UsageError` or `SourceError` if the given source cannot be used.
    """
    if with_page and not page_is_installed():
        raise UsageError("--page: its libraries are missing; install them with: pip install '.[web]' in a clone")
    bundle = find_bundle(DEFAULT_MODEL)
    source = choose_source(source_text)
    is_plain = headless or not sys.stdout.isatty()
    page = DemoPage() if (page_is_installed() if with_page is None else with_page) else None
    with tempfile.TemporaryDirectory(prefix="streamclf-demo-") as folder:
        config = ServiceConfig(
            streams={source.stream: source.config},
            publish=PublishConfig(
                events=LOOPBACK_ANY_PORT, replay=LOOPBACK_ANY_PORT, journal=Path(folder) / "events.db", keep="1h"
            ),
            outlets=page.outlets if page else OutletsConfig(),
        )
        view = _LineView(sys.stdout, began) if is_plain else _TableView(bundle.spec.id)
        os.environ.setdefault(LEVEL_VARIABLE, "warning")  # log lines of child processes would break the table
        configure_logging("demo")
        subscriber = _SubscriberThread(view, source, page, opens_browser=not is_plain and has_screen())
        supervisor = Supervisor(CheckedConfig(config, {UNNAMED: bundle}), on_ready=subscriber.start)
        subscriber.on_closed_output = supervisor.request_stop
        with stop_on_signals(supervisor.request_stop), view:
            code = supervisor.run(seconds)
        subscriber.join()
    print(f"streamclf demo: {subscriber.summary(began)}", file=sys.stderr)
    print(_next_steps(source), file=sys.stderr)
    return code


def _next_steps(source: DemoSource) -> str:
    what = "this source" if source.init_arguments else "your own cameras"
    return "\n  ".join((f"to run a service on {what}:", *source.service_commands))


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

    def ready(self, ready: Ready, page: str | None, service: str) -> None:
        self._table.footer = (Text(f"streamclf watch {ready.events}"), Text(printable(ready.engine)))
        lines = [("page", page)] if page else []
        self._table.notes = tuple(
            Text.assemble((f"{name}  ", "bold"), text) for name, text in [*lines, ("as a service", service)]
        )

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

    def ready(self, ready: Ready, page: str | None, service: str) -> None:
        self._write(f"ready     {ready.engine}; events on {ready.events}")
        if page:
            self._write(f"page      {page}")
        self._write(f"service   {service}")

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

    def __init__(
        self, view: _TableView | _LineView, source: DemoSource, page: DemoPage | None, *, opens_browser: bool
    ) -> None:
        self.on_closed_output: Callable[[], None] = lambda: None
        self._view, self._source, self._page, self._opens_browser = view, source, page, opens_browser
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._first_s: float | None = None
        self._predictions = 0

    def start(self, ready: Ready) -> None:
        """Begin to show the events of the service."""
        address = self._page.address if self._page else None
        self._view.ready(ready, address, self._source.service_commands[0])
        if self._page and self._opens_browser:
            self._page.open_when_ready(self._stop)
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
        count = f"{self._predictions} prediction" + ("" if self._predictions == 1 else "s")
        return f"{count}, the first {self._first_s - began:.2f} s after the start"

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
