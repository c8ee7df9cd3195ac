"""Run a service with the bench's cameras and a subscriber for some seconds, and record what happens."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
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
from streamclf.bench.service.process_usage import SUPERVISOR_MODULE, UsageSampler, process_cpu_s
from streamclf.client.subscription import Subscription, subscribe
from streamclf.config.engine import EngineConfig
from streamclf.config.source_settings import DecodeMode
from streamclf.errors import BenchError
from streamclf.events.positions import START
from streamclf.events.types import Heartbeat, Prediction, Received, Status
from streamclf.runtime.profiling import VARIABLE, read_stages

READY_TIMEOUT_S: Final = 1800.0
"""Building an engine for a device can take this long, once."""
CAMERAS_TIMEOUT_S: Final = 30.0
FIRST_PREDICTION_S: Final = 30.0
"""Beyond one window: time for each stream's first prediction. The measurement begins then in any case."""
WARM_UP_S: Final = 3.0
SAMPLE_S: Final = 0.5
DROP_COUNTERS: Final = ("dropped_stale", "dropped_partial", "dropped_corrupt", "undecodable", "held", "link_dropped")
"""Counters in a status event of frames, chunks and events that were lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLoad:
    """The load of one run: model, engine and cameras; `hop` in chunks, `seconds` of measured time."""

    bundle: Bundle
    further: Mapping[str, Bundle] = field(default_factory=dict)
    """Further models on every stream, by name. Figures are those of `bundle` where nothing else is said."""
    engine: EngineConfig
    streams: int
    film: FilmSpec
    hop: int
    seconds: float
    decode: DecodeMode = "auto"


@dataclass(slots=True, kw_only=True)
class ServiceRun:
    """The records of a run. `received` and `sent` cover the whole run, all others only the measured seconds."""

    engine: str
    usage: UsageSampler
    seconds: float = 0.0
    began_ns: int = 0
    ended_ns: int = 0
    stages: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(nanoseconds, items) by stage, summed over all processes."""
    received: dict[str, list[ReceivedPrediction]] = field(default_factory=lambda: defaultdict(list))
    """Predictions by stream."""
    received_further: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """The times (monotonic nanoseconds) of the predictions of each further model, of all streams."""
    lost_first: set[str] = field(default_factory=set)
    """Streams that lack predictions of their first windows, because the service dropped them."""
    sent: dict[str, list[dict[str, list[int]]]] = field(default_factory=dict)
    """The `SentFrames` of the cameras, by stream and connection."""
    drops: Counter[str] = field(default_factory=Counter)
    """Lost frames, chunks and events, by cause."""
    states: Counter[str] = field(default_factory=Counter)
    """Status events with a state other than live, by state."""
    cameras_cpu_s: float = 0.0
    own_cpu_s: float = 0.0


def measure_service(load: ServiceLoad, film: Path, folder: Path) -> ServiceRun:
    """Run `load` once, with the cameras' film from the file `film` and temporary files in `folder`.

    Raises `BenchError` if the service or its cameras cannot be started, or end.
    """
    stages = folder / "stages"
    stages.mkdir()
    with ExitStack() as stack:
        job = CamerasJob(film=film, cameras=load.streams)
        cameras = stack.enter_context(
            HelperProcess(
                "streamclf.bench.cameras.camera_process", job.model_dump_json().encode(), log=folder / "cameras.log"
            )
        )
        config = folder / "service.yaml"
        config.write_text(json.dumps(_service_config(load, cameras.receive(CAMERAS_TIMEOUT_S)["port"], folder)))
        env = {VARIABLE: str(stages), "STREAMCLF_LOG": "warning"}
        service = stack.enter_context(
            HelperProcess(SUPERVISOR_MODULE, str(config).encode(), log=folder / "service.log", env=env)
        )
        ready = service.receive(READY_TIMEOUT_S)
        events = stack.enter_context(subscribe(ready["events"], replay=True, after=START))
        cameras.send_line(b"begin")
        run = ServiceRun(engine=ready["engine"], usage=UsageSampler(service.pid))
        _Recorder(load, run, service, events).record(stages, cameras)
        run.sent = cameras.finish(CAMERAS_TIMEOUT_S)["sent"]
    return run


def _service_config(load: ServiceLoad, port: int, folder: Path) -> dict[str, Any]:
    # The cameras answer only once the engine is ready: hence the long time-out. Their short film repeats, which would
    # count as a frozen stream: hence `frozen_s`.
    stream = {"hop": load.hop, "decode": load.decode, "open_timeout_s": 120.0, "frozen_s": 3600.0}
    return {
        "model": str(load.bundle.path),
        "models": {name: str(bundle.path) for name, bundle in load.further.items()},
        "engine": load.engine.model_dump(),
        "streams": {f"cam{i}": {"url": f"rtsp://{HOST}:{port}/cam{i}", **stream} for i in range(load.streams)},
        "publish": {
            "events": "tcp://127.0.0.1:*",
            "replay": "tcp://127.0.0.1:*",
            "journal": str(folder / "journal.db"),
            "keep": "1h",
        },
    }


class _Recorder:
    """Receive the service's events, and sample its processes meanwhile."""

    def __init__(self, load: ServiceLoad, run: ServiceRun, service: HelperProcess, events: Subscription) -> None:
        self._load, self._run, self._service, self._events = load, run, service, events
        self._drops: dict[str, dict[str, int]] = defaultdict(dict)
        """By stream: the newest totals of its drop counters."""

    def record(self, stages: Path, cameras: HelperProcess) -> None:
        """Wait until all streams give predictions, warm up, then record for `load.seconds`."""
        spec, run = self._load.bundle.spec, self._run
        window_s = spec.frames_per_chunk * spec.chunks / spec.fps
        deadline = time.monotonic() + window_s + FIRST_PREDICTION_S
        self._receive_until(deadline, is_enough=lambda: len(run.received) == self._load.streams)
        if not run.received:
            raise BenchError(f"no prediction within {window_s + FIRST_PREDICTION_S:.0f} s{self._service.log_tail()}")
        self._receive_until(time.monotonic() + min(WARM_UP_S, self._load.seconds))

        stages_before, drops_before = _sum_stages(stages), self._total_drops()
        run.states.clear()
        run.cameras_cpu_s, run.own_cpu_s = -process_cpu_s(cameras.pid), -time.process_time()
        run.usage.sample()
        run.began_ns = time.monotonic_ns()
        end = time.monotonic() + self._load.seconds
        while time.monotonic() < end:
            self._receive_until(min(end, time.monotonic() + SAMPLE_S))
            run.usage.sample()
        run.ended_ns = time.monotonic_ns()
        run.usage.sample_memory()
        run.cameras_cpu_s += process_cpu_s(cameras.pid)
        run.own_cpu_s += time.process_time()
        run.seconds = (run.ended_ns - run.began_ns) / 1e9
        run.stages = {
            stage: (now[0] - stages_before[stage][0], now[1] - stages_before[stage][1])
            for stage, now in _sum_stages(stages).items()
        }
        run.drops = self._total_drops() - drops_before

    def _receive_until(self, until: float, is_enough: Callable[[], bool] = lambda: False) -> None:
        while (left := until - time.monotonic()) > 0 and not is_enough():
            if not self._service.running:
                raise BenchError(f"the service ended{self._service.log_tail()}")
            event = self._events.receive(min(left, SAMPLE_S))
            if event is not None:
                self._add(event, time.monotonic_ns())

    def _add(self, event: Received, received_ns: int) -> None:
        if isinstance(event, Prediction) and event.model_name is not None:
            self._run.received_further[event.model_name].append(received_ns)
            self._drops[f"{event.stream}/{event.model_name}"].update(event.dropped)
        elif isinstance(event, Prediction):
            window = event.window
            if event.dropped and event.stream not in self._run.received:
                self._run.lost_first.add(event.stream)
            self._run.received[event.stream].append(
                ReceivedPrediction(
                    segment=window.segment,
                    start_s=window.start_s,
                    end_s=window.end_s,
                    received_ns=received_ns,
                    fast=event.decode == "fast",
                )
            )
            self._drops[event.stream].update(event.dropped)
        elif isinstance(event, Status):
            self._run.states[event.state] += event.state != "live"
            self._drops[event.stream].update({key: int(event.counters.get(key, 0)) for key in DROP_COUNTERS})
        elif isinstance(event, Heartbeat):
            self._drops[""]["not_durable"] = event.not_durable

    def _total_drops(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for causes in self._drops.values():
            total.update(causes)
        return total


def _sum_stages(folder: Path) -> dict[str, tuple[int, int]]:
    total: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for counts in read_stages(folder).values():
        for stage, (nanoseconds, items) in counts.items():
            total[stage] = (total[stage][0] + nanoseconds, total[stage][1] + items)
    return dict(total)
