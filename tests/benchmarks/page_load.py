"""Measure what browsers cost a service: predictions per second, latency and processor time, with and without them.

    PYTHONPATH=tests python -m benchmarks.page_load --streams 50 --browsers 3 --seconds 20

Runs a service with small films that loop, and its page. Phases with and without browsers alternate in one run. On a
small machine Chromium takes the processor time of the service. `--readers` replaces the browsers by programs that
receive and confirm the same messages, and draw nothing: the difference is then what the page itself costs the service.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.browser import start_chromium
from support.bundles import make_brightness_bundle
from support.clips import write_clip
from support.service import Service
from websockets.sync.client import connect

import streamclf
from streamclf.bench.service.process_usage import descendants


def measure(endpoint: str, pids: dict[str, list[int]], seconds: float) -> dict[str, float]:
    """Return predictions per second, latency in ms, and the processor time of each group of processes in cores."""
    before = {name: cpu_s(group) for name, group in pids.items()}
    began_s = time.monotonic()
    latencies: list[float] = []
    with streamclf.subscribe(endpoint, types=["prediction"]) as events:
        while time.monotonic() - began_s < seconds:
            event = events.receive(0.5)
            if isinstance(event, streamclf.Prediction):
                latencies.append(event.latency_ms.capture_to_publish or 0.0)
    took_s = time.monotonic() - began_s
    found = {
        "predictions/s": len(latencies) / took_s,
        "p50 ms": statistics.median(latencies),
        "p99 ms": sorted(latencies)[int(0.99 * len(latencies))],
    }
    return found | {f"cores {name}": (cpu_s(group) - before[name]) / took_s for name, group in pids.items()}


def cpu_s(pids: list[int]) -> float:
    """Return the processor time of the processes so far, in seconds."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / 100


@contextmanager
def open_pages(base: str, count: int) -> Iterator[list[Any]]:
    """Open the wall in this many browsers."""
    with ExitStack() as stack:
        browser = stack.enter_context(start_chromium())
        pages = [browser.new_context(viewport={"width": 1920, "height": 1080}).new_page() for _ in range(count)]
        for page in pages:
            page.goto(f"{base}/live")
            page.locator(".tile[data-state=live]").nth(0).wait_for()
        time.sleep(3)
        yield pages


class Readers:
    """Receive and confirm pictures as the page does, without drawing them."""

    def __init__(self, base: str, count: int, streams: list[str]) -> None:
        self.pictures = 0
        self._url, self._streams, self._ends = base.replace("http", "ws") + "/ws", streams, False
        self._threads = [threading.Thread(target=self._read, daemon=True) for _ in range(count)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        time.sleep(3)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        for thread in self._threads:
            thread.join(5)

    def _read(self) -> None:
        with connect(self._url, compression=None) as socket:
            socket.send(json.dumps({"seen": self._streams}))
            while not self._ends:
                data = socket.recv()
                if isinstance(data, str):
                    socket.send('{"states":1}')
                else:
                    self.pictures += 1
                    socket.send(json.dumps({"drawn": [data[1 : 1 + data[0]].decode()]}))


def drawn(pages: list[Any]) -> int:
    """Return the number of pictures that all pages have drawn."""
    script = "[...document.querySelectorAll('canvas.picture')].reduce((n, c) => n + Number(c.dataset.pictures ?? 0), 0)"
    return sum(page.evaluate(script) for page in pages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--browsers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--fps", type=int, default=5)
    parser.add_argument("--readers", action="store_true", help="receive and confirm, but draw nothing")
    parser.add_argument("--shot", type=Path, help="save a picture of the wall in this .png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_brightness_bundle(folder / "model", fps=float(options.fps))
        for number in range(5):
            write_clip(folder / f"{number}.mp4", frames=100, fps=options.fps, width=320, height=180, first=number * 977)
        streams = {f"camera-{n:02}": {"url": f"{n % 5}.mp4", "loop": True} for n in range(options.streams)}
        config = {
            "model": "model",
            "engine": {"threads": 1},
            "streams": streams,
            "publish": {"events": "tcp://127.0.0.1:5955", "replay": "tcp://127.0.0.1:5956"},
            "outlets": {"web": {"port": 8795}},
        }
        (folder / "service.yaml").write_text(json.dumps(config))
        base = "http://127.0.0.1:8795"
        with Service("run", "service.yaml", cwd=folder) as service:
            wait_live(base, options.streams)
            page_pids = service.children("streamclf.subscribers")
            pids = {"service": [p for p in descendants(service.process.pid) if p not in page_pids], "page": page_pids}
            for _ in range(options.rounds):
                print("no browser ", row(measure(service.endpoint, pids, options.seconds)), flush=True)
                if options.readers:
                    with Readers(base, options.browsers, list(streams)) as readers:
                        count = readers.pictures
                        found = measure(service.endpoint, pids, options.seconds)
                        shown = (readers.pictures - count) / options.seconds / options.browsers
                        print(
                            f"{options.browsers} readers  ", row(found), f"{shown:.0f} pictures/s in each", flush=True
                        )
                    continue
                with open_pages(base, options.browsers) as pages:
                    before = drawn(pages)
                    found = measure(service.endpoint, pids, options.seconds)
                    shown = (drawn(pages) - before) / options.seconds / options.browsers
                    print(f"{options.browsers} browsers", row(found), f"{shown:.0f} pictures/s in each", flush=True)
                    if options.shot:
                        pages[0].screenshot(path=options.shot)


def wait_live(base: str, count: int) -> None:
    """Wait until all streams are live."""
    end_s = time.monotonic() + 180
    live = 0
    while live < count and time.monotonic() < end_s:
        time.sleep(1)
        try:
            with urllib.request.urlopen(f"{base}/api/streams", timeout=5) as answer:
                live = sum(each["state"] == "live" and bool(each["top"]) for each in json.load(answer))
        except OSError:
            continue
    assert live == count, f"{live} of {count} streams are live"
    time.sleep(3)


def row(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in found.items())


if __name__ == "__main__":
    main()
