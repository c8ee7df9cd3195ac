"""Try what a service will open: read frames of its sources, and connect to hosts, all at the same time."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from streamclf.config.picture_area import PictureArea
from streamclf.config.source import SourceConfig
from streamclf.errors import SourceError, StreamclfError
from streamclf.sources import Source, open_source

CONNECT_S: Final = 3.0
MARGIN_S: Final = 10.0
"""Added to twice the time-outs of a source: resolving a host name has no time-out of its own."""
PARALLEL: Final = 16
_RATE_FRAMES: Final = 12
_RATE_S: Final = 1.0
"""Frames, and seconds, from which the rate of a live source is measured that does not declare it."""

Probe = tuple[str, float, Callable[[], str]]
"""(the key that it checks, longest time in seconds, a function that returns what it found or raises an error)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The properties of the pictures that a source sends. `fps` is None if it is unknown."""

    codec: str
    width: int
    height: int
    fps: float | None
    parts: Sequence[tuple[int, int]] = ()
    """(width, height) of each area that `read_picture` was called with."""

    def __str__(self) -> str:
        rate = "" if self.fps is None else f", {self.fps:.3g} frames/s"
        return f"{self.codec}, {self.width}x{self.height}{rate}"


def longest_s(source: SourceConfig) -> float:
    """Return the seconds after which a probe of `source` counts as failed."""
    return 2 * (source.open_timeout_s + source.read_timeout_s) + MARGIN_S


def read_picture(config: SourceConfig, areas: Sequence[PictureArea] = ()) -> Picture:
    """Read the first frame of a source, and measure the rate of a live one.

    Raises `SourceError`, also for a region in `areas` that is too small.
    """
    with open_source(config) as source:
        frame = next(source, None)
        if frame is None:
            raise SourceError("holds no frame; check the file")
        parts = [frame.size_of(area) for area in areas]
        fps = source.info.fps
        if fps is None and source.live:
            fps = _measure_rate(source, frame.pts_ns)
        return Picture(
            codec=source.info.codec,
            width=frame.width,
            height=frame.height,
            fps=fps,
            parts=[(width, height) for height, width in parts],
        )


def _measure_rate(source: Source, first_ns: int) -> float | None:
    """Return frames per second by the time stamps of the next frames; None if too few arrive."""
    frames, last_ns, end_s = 0, first_ns, time.monotonic() + _RATE_S
    with contextlib.suppress(SourceError):  # the source works: its first frame has arrived
        for frame in islice(source, _RATE_FRAMES):
            frames, last_ns = frames + 1, frame.pts_ns
            if time.monotonic() > end_s:
                break
    return frames * 1e9 / (last_ns - first_ns) if last_ns > first_ns else None


def reach(host: str, port: int) -> str:
    """Open a TCP connection for a moment. Raises `SourceError`."""
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except TimeoutError:
        raise SourceError(
            f"{host}:{port}: no answer within {CONNECT_S:g} s; check the address and the network"
        ) from None
    except socket.gaierror:
        raise SourceError(f"{host}: no such host; check the name and the DNS server") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SourceError(f"{host}:{port}: {reason}; check address and port") from None
    return f"{host}:{port} accepts connections"


def run_probes(probes: Sequence[Probe]) -> list[tuple[str, str, str]]:
    """Run the probes at the same time; return (place, what was found, error) of each, in their order.

    The threads are daemons: a library that never returns must not keep the command from ending.
    """
    waiting: queue.SimpleQueue[tuple[int, Probe]] = queue.SimpleQueue()
    for numbered in enumerate(probes):
        waiting.put(numbered)
    results: queue.SimpleQueue[tuple[int, str, str]] = queue.SimpleQueue()

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                number, (_, _, probe) = waiting.get_nowait()
                try:
                    results.put((number, probe(), ""))
                except StreamclfError as error:
                    results.put((number, "", str(error)))

    for _ in range(min(PARALLEL, len(probes))):
        threading.Thread(target=work, name="probe", daemon=True).start()
    rounds = -(-len(probes) // PARALLEL)
    end_s = time.monotonic() + rounds * max((longest for _, longest, _ in probes), default=0.0)
    found: dict[int, tuple[str, str]] = {}
    with contextlib.suppress(queue.Empty):
        while len(found) < len(probes):
            number, text, error = results.get(timeout=max(0.0, end_s - time.monotonic()))
            found[number] = (text, error)
    late = ("", "no answer in time; check that it delivers")
    return [(place, *found.get(number, late)) for number, (place, _, _) in enumerate(probes)]
