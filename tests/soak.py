"""Run a service under random faults for a given time: `make soak SECONDS=3600`. Not collected by pytest.

Each of eight cameras has a fault every 10 to 20 s, and every 2 minutes the server of all cameras is killed. As a
subscriber, the program counts recoveries and their times, faults that were not reported, false states, and predictions
that a healthy stream lost. For each process it records the slope of its memory, its descriptors and restarts. The exit
code is 1 where a requirement is not met; the slope is one of them only after 20 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from support.bundles import make_brightness_bundle
from support.clips import film
from support.processes import descriptors, rss_bytes
from support.rtsp_server import RtspServer
from support.service import Service

STREAMS = tuple(f"cam{i}" for i in range(8))
SIZE = {"width": 160, "height": 90, "gop": 25, "frames": 250}
FILMS = (film(light=200, **SIZE), film(light=40, **SIZE), film(light=120, width=320, height=180, fps=15, gop=15))
OPEN_S, READ_S = 2.0, 1.5
STEP_S = 0.2
QUIET_S = (10.0, 20.0)
KILL_SERVER_EVERY_S = 120.0
SERVER_DOWN_S = 3.0
SILENT_S = 2 * READ_S + 1.0
"""A fault that stops all frames for this long must have been reported."""
SETTLE_S = 2.0
"""For this long after its recovery a stream may still report the fault: windows across it, a late status."""
LATE_S = 10.0
CAMERA_LATE_S = 10.0
SAMPLE_S = 5.0
MAX_MIB_PER_H = 20.0
SLOPE_S = 1200.0
"""Shortest time of observation for a slope: over minutes it is mostly the growth at the start."""
MAX_NEW_DESCRIPTORS = 8
"""More than in the first sample: some connections are open in the last sample by chance."""
WARM_UP_S = 30.0
"""Memory is sampled from then on, when allocators, decoders and caches have reached their size."""


@dataclass(slots=True)
class Camera:
    """The fault of one stream, and the state that it reports."""

    fault: str | None = None
    previous: str = "none yet"
    began_s: float = 0.0
    until_s: float = 0.0
    next_s: float = 0.0
    fault_ended_s: float | None = None
    steady_since_s: float | None = None
    state: str = "connecting"
    noticed: bool = False
    last: tuple[int, float] | None = None
    counters: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """All counters of a run."""

    faults: Counter[str] = field(default_factory=Counter)
    recoveries_s: list[float] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    unnoticed: list[str] = field(default_factory=list)
    false_states: list[str] = field(default_factory=list)
    late_cameras: list[str] = field(default_factory=list)
    """True states: not live because the camera itself, which runs in this process, got no processor time."""
    lost: Counter[str] = field(default_factory=Counter)
    """Lost predictions, by the last fault of their stream."""
    predictions: int = 0
    corrupt_windows: int = 0


@dataclass(slots=True)
class Process:
    """Samples of memory and descriptors of one process."""

    name: str
    at_s: list[float] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)


class Soak:
    """Cause faults, receive events and take samples, in one loop."""

    def __init__(self, service: Service, socket: zmq.Socket[bytes], server: RtspServer, seed: int) -> None:
        self._service = service
        self._socket = socket
        self._server = server
        self._random = random.Random(seed)
        self._cameras = {name: Camera() for name in STREAMS}
        self._processes: dict[int, Process] = {}
        self._restart_server_s: float | None = None
        self.tally = Tally()

    def run(self, seconds: float) -> None:
        """Run for this many seconds."""
        began = time.monotonic()
        for camera in self._cameras.values():
            camera.fault_ended_s = began
        sample_s, kill_server_s = began + WARM_UP_S, began + KILL_SERVER_EVERY_S
        while (now := time.monotonic()) < began + seconds:
            if self._socket.poll(50):
                self._receive(json.loads(self._socket.recv_multipart()[1]))
            if now >= sample_s:
                sample_s = now + SAMPLE_S
                self._sample(now)
            if now >= kill_server_s:
                kill_server_s = now + KILL_SERVER_EVERY_S
                self._kill_server(now)
            if self._restart_server_s is not None and now >= self._restart_server_s:
                self._restart_server(now)
            if self._restart_server_s is None:
                for name, camera in self._cameras.items():
                    self._disturb(name, camera, now)

    @property
    def processes(self) -> list[Process]:
        """Processes with enough samples to be evaluated."""
        return [process for process in self._processes.values() if len(process.at_s) >= 3]

    @property
    def counters(self) -> dict[str, float]:
        """The streams' own counters, summed."""
        total: Counter[str] = Counter()
        for camera in self._cameras.values():
            total.update(
                {
                    key: value
                    for key, value in camera.counters.items()
                    if key not in ("width", "height", "fps", "wall_offset_s")
                }
            )
        return dict(total)

    def _disturb(self, name: str, camera: Camera, now: float) -> None:
        if camera.fault is not None:
            if now >= camera.until_s:
                self._heal(name, camera, now)
        elif camera.steady_since_s is not None and now >= camera.next_s:
            faults: dict[str, Callable[[], Any]] = {
                "eof": lambda: self._server.disconnect(name),
                "rst": lambda: self._server.disconnect(name, reset=True),
                "stall": lambda: self._server.fault(name, stalled=True),
                "freeze": lambda: self._server.fault(name, frozen=True),
                "blackhole": lambda: (self._server.fault(name, blackhole=True), self._server.disconnect(name)),
                "503": lambda: (self._server.fault(name, status=503), self._server.disconnect(name)),
                "loss": lambda: self._server.fault(name, drop=0.05),
                "corruption": lambda: self._server.fault(name, corrupt=0.05),
                "junk": lambda: self._server.fault(name, junk=3000),
                "switch": lambda: self._server.fault(name, film=self._random.choice(FILMS)),
                "jump": lambda: self._server.fault(name, jump_s=self._random.choice([-10.0, 40_000.0])),
                "flood": lambda: self._server.fault(name, rate=20.0),
            }
            camera.fault = self._random.choice(list(faults))
            self.tally.faults[camera.fault] += 1
            camera.began_s, camera.noticed, camera.steady_since_s = now, False, None
            camera.until_s = now + self._random.uniform(0.5, 8.0)
            faults[camera.fault]()

    def _heal(self, name: str, camera: Camera, now: float) -> None:
        silent = camera.fault in ("stall", "freeze", "blackhole", "503")
        if silent and now - camera.began_s > SILENT_S and not camera.noticed:
            self.tally.unnoticed.append(f"{name}: {camera.fault} for {now - camera.began_s:.1f} s")
        self._server.heal(name)
        camera.previous, camera.fault, camera.fault_ended_s = camera.fault or "", None, now

    def _kill_server(self, now: float) -> None:
        self.tally.faults["server killed"] += 1
        self._server.stop()
        self._restart_server_s = now + SERVER_DOWN_S
        for camera in self._cameras.values():
            camera.fault, camera.steady_since_s, camera.fault_ended_s = "server killed", None, None

    def _restart_server(self, now: float) -> None:
        self._restart_server_s = None
        self._server = RtspServer(dict.fromkeys(STREAMS, FILMS[0]), port=self._server.port)
        self._server.__enter__()
        for camera in self._cameras.values():
            camera.previous, camera.fault, camera.fault_ended_s = "server killed", None, now

    def stop_server(self) -> None:
        """Stop the server of all cameras."""
        self._server.stop()

    def _receive(self, event: dict[str, Any]) -> None:
        camera = self._cameras.get(event.get("stream", ""))
        if camera is None:
            return
        now = time.monotonic()
        steady = camera.steady_since_s is not None and now - camera.steady_since_s > SETTLE_S
        if event["type"] == "status":
            camera.state, camera.counters = event["state"], event.get("counters") or camera.counters
            camera.noticed |= event["state"] != "live"
            if event["state"] != "live" and steady:
                line = f"{event['stream']}: {event['state']} ({event['reason']})"
                is_late = now - self._server.mounts[event["stream"]].late_at < CAMERA_LATE_S
                (self.tally.late_cameras if is_late else self.tally.false_states).append(line)
        elif event["type"] == "prediction":
            self._predicted(event["stream"], camera, event["window"], now, steady)

    def _predicted(self, name: str, camera: Camera, window: dict[str, Any], now: float, steady: bool) -> None:
        self.tally.predictions += 1
        self.tally.corrupt_windows += window["corrupt"] > 0
        place = (window["segment"], window["start_s"])
        if steady and camera.last is not None:
            same = place[0] == camera.last[0]
            lost = max(0, round((place[1] - camera.last[1]) / STEP_S) - 1) if same else 1
            self.tally.lost.update({camera.previous: lost} if lost else {})
        camera.last = place
        if camera.fault is None and camera.fault_ended_s is not None and camera.state == "live":
            took_s = now - camera.fault_ended_s
            self.tally.recoveries_s.append(took_s)
            if took_s > LATE_S:
                self.tally.late.append(f"{name}: {took_s:.1f} s")
            camera.fault_ended_s, camera.steady_since_s = None, now
            camera.next_s = now + self._random.uniform(*QUIET_S)

    def _sample(self, now: float) -> None:
        for pid in [self._service.process.pid, *self._service.descendants()]:
            if pid not in self._processes:
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                self._processes[pid] = Process(f"{arguments[2].decode() if len(arguments) > 2 else '?'} {pid}")
            process = self._processes[pid]
            process.at_s.append(now)
            process.rss_mib.append(rss_bytes(pid) / 2**20)
            process.fds.append(descriptors(pid))


def slope_mib_per_h(process: Process) -> float:
    """Return the slope of the least squares line through its resident memory."""
    return statistics.linear_regression(process.at_s, process.rss_mib).slope * 3600


def leaks(process: Process) -> list[str]:
    """Return what grows in this process and would not last for months of operation."""
    found = []
    slope, more = slope_mib_per_h(process), process.fds[-1] - process.fds[0]
    if process.at_s[-1] - process.at_s[0] >= SLOPE_S and slope > MAX_MIB_PER_H:
        found.append(f"{process.name}: {slope:.1f} MiB an hour")
    if more > MAX_NEW_DESCRIPTORS:
        found.append(f"{process.name}: {more} descriptors more")
    return found


def report(soak: Soak, seconds: float, seed: int) -> dict[str, Any]:
    """Return all figures of a run as JSON values."""
    tally = soak.tally
    recoveries = sorted(tally.recoveries_s)
    return {
        "seconds": seconds,
        "seed": seed,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load": os.getloadavg()[0],
        "faults": dict(tally.faults),
        "recoveries": len(recoveries),
        "recovery_p50_s": round(statistics.median(recoveries), 2) if recoveries else None,
        "recovery_max_s": round(recoveries[-1], 2) if recoveries else None,
        "late": tally.late,
        "unnoticed": tally.unnoticed,
        "false_states": tally.false_states,
        "states_of_late_cameras": len(tally.late_cameras),
        "predictions": tally.predictions,
        "lost_by_healthy_streams": dict(tally.lost),
        "windows_with_corrupt_frames": tally.corrupt_windows,
        "counters": soak.counters,
        "leaks": [leak for process in soak.processes for leak in leaks(process)],
        "processes": [
            {
                "name": process.name,
                "rss_first_mib": round(process.rss_mib[0], 1),
                "rss_last_mib": round(process.rss_mib[-1], 1),
                "slope_mib_per_h": round(slope_mib_per_h(process), 1),
                "descriptors_first": process.fds[0],
                "descriptors_last": process.fds[-1],
                "observed_s": round(process.at_s[-1] - process.at_s[0]),
            }
            for process in soak.processes
        ],
    }


def table(figures: dict[str, Any]) -> str:
    """Format the figures as a table for people."""
    rows = [f"{key:28} {value}" for key, value in figures.items() if key != "processes"]
    rows.append(f"{'process':30} {'RSS MiB':>15} {'MiB/h':>8} {'descriptors':>12} {'s':>6}")
    for process in figures["processes"]:
        rss = f"{process['rss_first_mib']} -> {process['rss_last_mib']}"
        fds = f"{process['descriptors_first']} -> {process['descriptors_last']}"
        rows.append(
            f"{process['name']:30} {rss:>15} {process['slope_mib_per_h']:>8} {fds:>12} {process['observed_s']:>6}"
        )
    return "\n".join(rows)


def main() -> int:
    """Run the service, print a table to stderr and JSON to stdout; return 1 where a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name, zmq.Context() as context:
        folder = Path(name)
        make_brightness_bundle(folder / "brightness")
        server = RtspServer(dict.fromkeys(STREAMS, FILMS[0]))
        server.__enter__()
        timeouts = {"open_timeout_s": OPEN_S, "read_timeout_s": READ_S}
        streams = {stream: {"url": server.url(stream), **timeouts} for stream in STREAMS}
        publish = {"events": "tcp://127.0.0.1:*", "replay": "tcp://127.0.0.1:*"}
        (folder / "s.yaml").write_text(json.dumps({"model": "brightness", "streams": streams, "publish": publish}))
        with Service("run", "s.yaml", cwd=folder) as service, context.socket(zmq.SUB) as socket:
            socket.linger, socket.rcvhwm = 0, 0
            socket.subscribe(b"status/")
            socket.subscribe(b"prediction/")
            socket.connect(service.endpoint)
            soak = Soak(service, socket, server, arguments.seed)
            soak.run(arguments.seconds)
            figures = report(soak, arguments.seconds, arguments.seed)
            figures["tracebacks"] = sum("Traceback" in line for line in service.lines)
            figures["opened_again_for_delay"] = sum("opening the stream again" in line for line in service.lines)
            figures["restarts"] = sum("starting it again" in line for line in service.lines)
            service.interrupt()
            figures["exit_code"] = service.wait()
            soak.stop_server()
    print(table(figures), file=sys.stderr)
    print(json.dumps(figures))
    requirements = ("late", "unnoticed", "false_states", "leaks", "tracebacks", "restarts", "exit_code")
    broken = [key for key in requirements if figures[key]]
    print(f"not met: {', '.join(broken)}" if broken else "all requirements met", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
