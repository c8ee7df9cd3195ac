"""One measured run: cameras, the whole service and a subscriber, each as in real life."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from engines.bundle import Bundle
from streamclf.bench.cameras.camera_process import CamerasJob
from streamclf.bench.cameras.film import FilmSpec
from streamclf.bench.cameras.rtsp_server import HOST
from streamclf.bench.helper_process import HelperProcess
from streamclf.bench.service.latency import ReceivedPrediction
from streamclf.bench.service.process_usage import UsageSampler, process_cpu_s
from streamclf.client.subscription import Subscription, subscribe
from streamclf.config.service import EngineConfig
from streamclf.errors import BenchError
from streamclf.events.positions import START
from streamclf.events.types import Heartbeat, Prediction, Received, Status
from streamclf.runtime.profiling import VARIABLE, read_stages

READY_S: Final = 1800.0
"""Building an engine for a device may take so long, once."""
CAMERAS_S: Final = 30.0
FIRST_S: Final = 30.0
"""Beyond one window, until each stream has had its first prediction; then the measurement begins all the same."""
WARM_UP_S: Final = 3.0
SAMPLE_S: Final = 0.5
DROP_COUNTERS: Final = ("dropped_stale", "dropped_partial", "dropped_corrupt", "undecodable", "held", "link_dropped")
"""What a status counts of pictures and events that were lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLoad:
    """What is to be measured."""

    bundle: Bundle
    engine: EngineConfig
    streams: int
    film: FilmSpec
    hop: int
    seconds: float


@dataclass(slots=True, kw_only=True)
class ServiceRun:
    """What was seen; all counts and times are of the measured seconds alone, `heard` and `played` of all."""

    engine: str
    seconds: float = 0.0
    began_ns: int = 0
    ended_ns: int = 0
    meter: UsageSampler
    stages: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(nanoseconds, items), of all processes."""
    heard: dict[str, list[ReceivedPrediction]] = field(default_factory=lambda: defaultdict(list))
    """Predictions, by stream."""
    lost_first: set[str] = field(default_factory=set)
    """Streams whose first windows were given up."""
    played: dict[str, list[dict[str, list[int]]]] = field(default_factory=dict)
    """What the cameras sent, by stream and connection."""
    drops: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    """Statuses other than live."""
    cameras_cpu_s: float = 0.0
    own_cpu_s: float = 0.0


def measure_service(load: ServiceLoad, film: Path, folder: Path) -> ServiceRun:
    """Measure once. Raises `BenchError` where the service or its cameras cannot be started, or end."""
    stages = folder / "stages"
    stages.mkdir()
    with ExitStack() as stack:
        job = CamerasJob(film=film, cameras=load.streams)
        log = folder / "cameras.log"
        cameras = stack.enter_context(
            HelperProcess("streamclf.bench.cameras.camera_process", job.model_dump_json().encode(), log=log)
        )
        config = folder / "service.yaml"
        config.write_text(json.dumps(_config(load, cameras.hear(CAMERAS_S)["port"], folder)))
        env = {VARIABLE: str(stages), "STREAMCLF_LOG": "warning"}
        log = folder / "service.log"
        service = stack.enter_context(
            HelperProcess("streamclf.bench.service.service_process", str(config).encode(), log=log, env=env)
        )
        ready = service.hear(READY_S)
        events = stack.enter_context(subscribe(ready["events"], replay=True, after=START))
        cameras.tell(b"begin")
        run = ServiceRun(engine=ready["engine"], meter=UsageSampler(service.pid))
        _Watch(load, run, service, events).measure(stages, cameras)
        run.played = cameras.finish(CAMERAS_S)["played"]
    return run


def _config(load: ServiceLoad, port: int, folder: Path) -> dict[str, Any]:
    # CameraServer answer nobody before the engine is there, and their film is so short that it would count as frozen.
    stream = {"hop": load.hop, "open_timeout_s": 120.0, "frozen_s": 3600.0}
    return {
        "model": str(load.bundle.path),
        "engine": load.engine.model_dump(),
        "streams": {f"cam{i}": {"url": f"rtsp://{HOST}:{port}/cam{i}", **stream} for i in range(load.streams)},
        "publish": {
            "events": "tcp://127.0.0.1:*",
            "replay": "tcp://127.0.0.1:*",
            "journal": str(folder / "journal.db"),
            "keep": "1h",
        },
    }


class _Watch:
    """The subscriber, and everything that is read while it waits."""

    def __init__(self, load: ServiceLoad, run: ServiceRun, service: HelperProcess, events: Subscription) -> None:
        self._load, self._run, self._service, self._events = load, run, service, events
        self._lost: dict[str, dict[str, int]] = defaultdict(dict)
        """By stream: the newest totals of its drops."""

    def measure(self, stages: Path, cameras: HelperProcess) -> None:
        """Wait until all goes, then look on for `load.seconds`."""
        spec, run = self._load.bundle.spec, self._run
        window_s = spec.frames_per_chunk * spec.chunks / spec.fps
        deadline = time.monotonic() + window_s + FIRST_S
        self._listen(deadline, enough=lambda: len(run.heard) == self._load.streams)
        if not run.heard:
            raise BenchError(f"no prediction within {window_s + FIRST_S:.0f} s{self._service.last_words()}")
        self._listen(time.monotonic() + min(WARM_UP_S, self._load.seconds))

        before, lost = _summed(stages), self._totals()
        run.states.clear()
        run.cameras_cpu_s, run.own_cpu_s = -process_cpu_s(cameras.pid), -time.process_time()
        run.meter.sample()
        run.began_ns = time.monotonic_ns()
        end = time.monotonic() + self._load.seconds
        while time.monotonic() < end:
            self._listen(min(end, time.monotonic() + SAMPLE_S))
            run.meter.sample()
        run.ended_ns = time.monotonic_ns()
        run.cameras_cpu_s += process_cpu_s(cameras.pid)
        run.own_cpu_s += time.process_time()
        after = _summed(stages)
        run.seconds = (run.ended_ns - run.began_ns) / 1e9
        run.stages = {stage: (now[0] - before[stage][0], now[1] - before[stage][1]) for stage, now in after.items()}
        run.drops = self._totals() - lost

    def _listen(self, until: float, enough: Callable[[], bool] = lambda: False) -> None:
        while (left := until - time.monotonic()) > 0 and not enough():
            if not self._service.running:
                raise BenchError(f"the service ended{self._service.last_words()}")
            event = self._events.receive(min(left, SAMPLE_S))
            if event is not None:
                self._take(event, time.monotonic_ns())

    def _take(self, event: Received, at_ns: int) -> None:
        if isinstance(event, Prediction):
            window = event.window
            if event.dropped and event.stream not in self._run.heard:
                self._run.lost_first.add(event.stream)
            self._run.heard[event.stream].append(
                ReceivedPrediction(segment=window.segment, start_s=window.start_s, end_s=window.end_s, at_ns=at_ns)
            )
            self._lost[event.stream].update(event.dropped)
        elif isinstance(event, Status):
            self._run.states[event.state] += event.state != "live"
            self._lost[event.stream].update({key: int(event.counters.get(key, 0)) for key in DROP_COUNTERS})
        elif isinstance(event, Heartbeat):
            self._lost[""]["not_durable"] = event.not_durable

    def _totals(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for causes in self._lost.values():
            total.update(causes)
        return total


def _summed(stages: Path) -> dict[str, tuple[int, int]]:
    total: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for counts in read_stages(stages).values():
        for stage, (nanoseconds, items) in counts.items():
            total[stage] = (total[stage][0] + nanoseconds, total[stage][1] + items)
    return dict(total)
