"""`streamclf metrics`: what Prometheus asks for, from the events of a service.

Counters of predictions, actions and latencies begin when this process begins, which Prometheus expects of a restart;
so there is no position to keep. Frames, chunks and drops are passed on as the streams count them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from streamclf import __version__
from streamclf.client.subscription import Subscription, subscribe
from streamclf.events.types import Action, Heartbeat, Lost, Prediction, Received, State, Status
from streamclf.runtime.signals import stop_on_signals
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.delivery import print_notice
from streamclf.subscribers.metrics.health import HealthCheck
from streamclf.subscribers.metrics.http_server import Reply, Server, read_token

MAX_STREAMS: Final = 1024
MAX_LABELS: Final = 256
OTHER: Final = "other"
STATES: Final[tuple[State, ...]] = get_args(State)
_NAME = "metrics"
_TURN_S = 0.25
_CAPTURE_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_COMPUTE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_DROPS: Final = ("dropped_", "link_dropped")
_COUNTED: Final = frozenset({"frames", "chunks", "sampled", "skipped", "corrupt", "undecodable", "reconnects"})
"""What a status counts up, and becomes a counter of its name; all else in it is a value."""


def run_metrics(
    endpoint: str,
    *,
    host: str = "127.0.0.1",
    port: int = 9108,
    token_file: Path | None = None,
    stalled_after_s: float = 60.0,
    seconds: float | None = None,
) -> int:
    """Serve `/metrics` and `/healthz` until SIGINT or SIGTERM; the exit code.

    Beyond loopback a token is required, in `token_file`. `/healthz` answers 503 while the service is silent, or when a
    stream has been anything but live for `stalled_after_s`. Raises `UsageError`, or `BusError` for a port in use.
    """
    stop = StopRequest(seconds)
    token = None if token_file is None else read_token(token_file)
    board = MetricsCollector(stalled_after_s)
    with (
        stop_on_signals(stop.request),
        Server(host, port, board.pages(), token) as server,
        subscribe(endpoint, replay=True) as events,
    ):
        print_notice(_NAME, f"http://{server.address}/metrics and /healthz of {endpoint}")
        while not stop.is_set:
            event = events.receive(_TURN_S)
            if event is not None:
                board.take(event)
            board.note(events)
    return 0


class MetricsCollector:
    """All numbers, and the judgement over them. `take` and `note` from one thread, the pages from any."""

    def __init__(self, stalled_after_s: float) -> None:
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._streams: set[str] = set()
        self._labels: set[str] = set()
        self._vigil = HealthCheck(stalled_after_s)
        self._told = _Told()
        self._registry.register(self._told)
        self._make_metrics(self._registry)

    def _make_metrics(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"streamclf_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"streamclf_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"streamclf_{name}_seconds", text, labels, buckets=buckets, registry=registry)

        self._predictions = counter("predictions", "Windows classified, by most probable label.", "stream", "label")
        self._actions = counter("actions", "Starts and ends of actions.", "stream", "label", "phase")
        self._active = gauge("action_active", "1 while the action goes on.", "stream", "label")
        self._predicted_at = gauge("last_prediction_timestamp_seconds", "When the last one was published.", "stream")
        self._capture = histogram("capture_to_publish", "Newest frame to journal.", _CAPTURE_BUCKETS_S, "stream")
        self._encode = histogram("encode", "One batch of chunks through the encoder.", _COMPUTE_BUCKETS_S)
        self._classify = histogram("classify", "One batch of windows through the head.", _COMPUTE_BUCKETS_S)
        self._lost = counter("events_lost", "Ranges of events gone from the journal before they were read.")
        self._missed = gauge("events_missed", "Gaps in the live events since the start, filled from the journal.")
        self._refused = gauge("events_refused", "Messages since the start that were not events.")
        self._folded = counter("folded", "Events counted as 'other': too many streams or labels.")
        gauge("info", "This exporter.", "version").labels(__version__).set(1)

    def pages(self) -> dict[str, Reply]:
        """What the server serves, by path."""
        return {"/metrics": self._metrics_page, "/healthz": self._health_page}

    def take(self, event: Received) -> None:
        """Count one event."""
        with self._lock:
            match event:
                case Heartbeat():
                    self._vigil.beat(time.monotonic())
                    self._told.heartbeat = event
                case Lost():
                    self._lost.inc()
                case Prediction():
                    self._take_prediction(event)
                case Action():
                    self._take_action(event)
                case Status():
                    self._vigil.status(event, time.monotonic())
                    if event.stream in self._told.statuses or len(self._told.statuses) < MAX_STREAMS:
                        self._told.statuses[event.stream] = event

    def note(self, events: Subscription) -> None:
        """Take over what the subscription counts."""
        self._missed.set(events.missed)
        self._refused.set(events.refused)

    def _take_prediction(self, event: Prediction) -> None:
        stream, label = self._known(event.stream, event.top[0][0])
        self._predictions.labels(stream, label).inc()
        self._predicted_at.labels(stream).set(event.time.timestamp())
        if stream == event.stream:
            self._told.given_up[stream] = event.dropped
            if event.gated:
                self._told.gated[stream] = event.gated
        latency = event.latency_ms
        for milliseconds, histogram in (
            (latency.capture_to_publish, self._capture.labels(stream)),
            (latency.encode, self._encode),
            (latency.classify, self._classify),
        ):
            if milliseconds is not None:
                histogram.observe(milliseconds / 1000)

    def _take_action(self, event: Action) -> None:
        stream, label = self._known(event.stream, event.label)
        self._active.labels(stream, label).set(event.phase != "end")
        if event.phase != "update":
            self._actions.labels(stream, label, event.phase).inc()

    def _known(self, stream: str, label: str) -> tuple[str, str]:
        """Names that may become series: each lives as long as this process, so there is an end to them."""
        names = []
        for name, known, limit in ((stream, self._streams, MAX_STREAMS), (label, self._labels, MAX_LABELS)):
            if name not in known and len(known) >= limit:
                self._folded.inc()
                names.append(OTHER)
            else:
                known.add(name)
                names.append(name)
        return names[0], names[1]

    def _metrics_page(self) -> tuple[int, str, bytes]:
        with self._lock:
            self._told.is_up = not self._vigil.is_silent(time.monotonic())
            return 200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(self._registry)

    def _health_page(self) -> tuple[int, str, bytes]:
        with self._lock:
            return self._vigil.page(time.monotonic())


class _Told(Collector):
    """What streams and heartbeats say of themselves, passed on as it is."""

    def __init__(self) -> None:
        self.statuses: dict[str, Status] = {}
        self.given_up: dict[str, dict[str, int]] = {}
        """By the classifier, as its predictions say: stream, cause, number."""
        self.gated: dict[str, int] = {}
        self.heartbeat: Heartbeat | None = None
        self.is_up = False

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise collect to find out."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Called while the board's lock is held."""
        yield GaugeMetricFamily("streamclf_up", "1 while the service's heartbeats come.", value=float(self.is_up))
        if beat := self.heartbeat:
            yield GaugeMetricFamily("streamclf_journal_head", "The newest event's offset.", value=beat.head)
            yield GaugeMetricFamily("streamclf_journal_oldest", "The oldest event's offset.", value=beat.oldest)
            yield CounterMetricFamily(
                "streamclf_not_durable", "Events published that the disk did not take.", value=beat.not_durable
            )
        yield from self._streams()

    def _streams(self) -> Iterator[Metric]:
        state = GaugeMetricFamily("streamclf_stream_state", "1 for the state it is in.", labels=("stream", "state"))
        drops = CounterMetricFamily("streamclf_dropped", "Never classified, by cause.", labels=("stream", "cause"))
        value = GaugeMetricFamily("streamclf_stream_value", "What else it says.", labels=("stream", "name"))
        counted = {
            name: CounterMetricFamily(f"streamclf_{name}", f"{name.capitalize()} of a stream.", labels=("stream",))
            for name in sorted(_COUNTED)
        }
        link_dropped = dict(self.heartbeat.dropped) if self.heartbeat else {}
        for stream, status in self.statuses.items():
            for each in STATES:
                state.add_metric((stream, each), float(status.state == each))
            if status.hop is not None:
                value.add_metric((stream, "hop"), status.hop)
            for name, number in status.counters.items():
                if name.startswith(_DROPS):
                    if name != "link_dropped":
                        drops.add_metric((stream, name.removeprefix("dropped_")), number)
                    else:
                        link_dropped.setdefault(stream, int(number))
                elif name in _COUNTED:
                    counted[name].add_metric((stream,), number)
                else:
                    value.add_metric((stream, name), number)
        for stream, causes in self.given_up.items():
            for cause, number in causes.items():
                drops.add_metric((stream, cause), number)
        for stream, dropped in link_dropped.items():
            drops.add_metric((stream, "link"), dropped)
        gated = CounterMetricFamily("streamclf_gated", "Chunks not encoded: nothing moved.", labels=("stream",))
        for stream, number in self.gated.items():
            gated.add_metric((stream,), number)
        yield from (state, drops, value, gated, *counted.values())
