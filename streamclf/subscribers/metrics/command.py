"""`streamclf metrics`: serve Prometheus metrics and `/healthz`, made from the events of a service.

A view of a stream has its names in the labels `region` and `model`. Counters of predictions, actions and latencies
begin at zero with this process, as Prometheus expects of a restart, so no position is stored. Frames, chunks and drops
are passed on as the streams count them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from streamclf import __version__
from streamclf.client.stream_views import ServiceView
from streamclf.client.subscription import Subscription
from streamclf.config.outlet_options import MetricsConfig
from streamclf.events.fleet_heartbeat import FleetHeartbeat
from streamclf.events.kinds import State
from streamclf.events.outlet_status import OutletState
from streamclf.events.positions import Position
from streamclf.events.types import MAX_LISTED_STREAMS, Action, Heartbeat, Lost, Prediction, Received
from streamclf.net.secret_files import read_token
from streamclf.subscribers.delivery import DeliveryLoop, Item
from streamclf.subscribers.metrics.health import HealthCheck
from streamclf.subscribers.metrics.http_server import PageFunction, PageServer
from streamclf.subscribers.outlet_run import OutletRun

MAX_STREAMS: Final = MAX_LISTED_STREAMS
MAX_VIEWS: Final = 4 * MAX_STREAMS
MAX_LABELS: Final = 256
VIEW: Final = ("stream", "region", "model")
"""Names of the labels of a series of one view. For Prometheus, an empty label is the same as an absent one, so the
series of a stream without named regions and models are those of earlier versions."""
OTHER: Final = "other"
"""The label or stream under which events above these limits are counted."""
STATES: Final[tuple[State, ...]] = get_args(State)
OUTLET_STATES: Final[tuple[OutletState, ...]] = get_args(OutletState)
_NAME = "metrics"
_Name = TypeVar("_Name", str, tuple[str, str, str])
_MAX_BATCH = 1000
_CAPTURE_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_COMPUTE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_LINK_DROPPED: Final = "link_dropped"
_DROPPED_PREFIX: Final = "dropped_"
_COUNTERS: Final = frozenset({"frames", "chunks", "sampled", "skipped", "corrupt", "undecodable", "reconnects"})
"""The counters of a status that only grow; each becomes a Prometheus counter. All other numbers become gauges."""


def serve_metrics(config: MetricsConfig, run: OutletRun) -> None:
    """Serve `/metrics` and `/healthz` until the run ends.

    An address beyond loopback requires a token. `/healthz` answers 503 while the service is silent, or when a stream
    has not been live for `stalled_after` seconds. Raises `UsageError`, and `BusError` for a port in use.
    """
    token = config.token if config.token_file is None else read_token(config.token_file)
    collector = MetricsCollector(config.stalled_after)
    with (
        PageServer(config.host, config.port, collector.pages(), token) as server,
        run.subscribe(streams=config.streams, types=None, after=run.begin) as events,
    ):
        run.report.notice(f"http://{server.address}/metrics and /healthz of {events.endpoint}")
        outlet = _MetricsOutlet(collector, events)
        DeliveryLoop(events, outlet, None, max_batch=_MAX_BATCH, linger_s=0.0, report=run.report).run(run.stop)


class _MetricsOutlet:
    """Count events for the pages."""

    name = _NAME
    outcome = "counted"

    def __init__(self, collector: MetricsCollector, events: Subscription) -> None:
        self._collector, self._events = collector, events

    def deliver(self, batch: Sequence[Item], position: Position | None) -> bool:
        for item in batch:
            self._collector.apply(item)
        return True

    def update(self, heartbeat: Heartbeat | None, is_silent: bool) -> None:
        """Count the heartbeat, too."""
        if heartbeat:
            self._collector.apply(heartbeat)
        self._collector.copy_counts(self._events)

    def memory(self) -> dict[str, Any]:
        return {}


class MetricsCollector:
    """Count events and make the pages. One thread calls `apply` and `copy_counts`; any thread may ask for a page."""

    def __init__(self, stalled_after_s: float) -> None:
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._streams: set[str] = set()
        self._views: set[tuple[str, str, str]] = set()
        self._labels: set[str] = set()
        self._service = ServiceView()
        self._health = HealthCheck(self._service, stalled_after_s)
        self._registry.register(_ServiceCollector(self._service))
        self._make_metrics(self._registry)

    def _make_metrics(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"streamclf_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"streamclf_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"streamclf_{name}_seconds", text, labels, buckets=buckets, registry=registry)

        self._predictions = counter("predictions", "Windows classified, by most probable label.", *VIEW, "label")
        self._present = counter("labels_present", "Windows with the label, of models with several.", *VIEW, "label")
        self._actions = counter("actions", "Starts and ends of actions.", *VIEW, "label", "phase")
        self._active = gauge("action_active", "1 while the action goes on.", *VIEW, "label")
        self._predicted_at = gauge("last_prediction_timestamp_seconds", "Time of the last prediction.", *VIEW)
        self._capture = histogram("capture_to_publish", "Newest frame to journal.", _CAPTURE_BUCKETS_S, *VIEW)
        self._encode = histogram("encode", "One batch of chunks through the encoder.", _COMPUTE_BUCKETS_S)
        self._classify = histogram("classify", "One batch of windows through the head.", _COMPUTE_BUCKETS_S)
        self._lost = counter("events_lost", "Ranges of events gone from the journal before they were read.")
        self._missed = gauge("events_missed", "Gaps in the live events since the start, filled from the journal.")
        self._refused = gauge("events_refused", "Messages since the start that were not events.")
        self._folded = counter("folded", "Events counted as 'other': too many streams, views or labels.")
        gauge("info", "This exporter.", "version").labels(__version__).set(1)

    def pages(self) -> dict[str, PageFunction]:
        """Return the function that makes each page, by path."""
        return {"/metrics": self._metrics_page, "/healthz": self._health_page}

    def apply(self, event: Received) -> None:
        """Count one event that has just arrived."""
        with self._lock:
            outdated, ended = self._compare_lease(event)
            self._service.apply(event, time.monotonic())
            for action in ended:
                self._active.labels(*self._view(action), self._label(action.label)).set(0)
            match event:
                case Lost():
                    self._lost.inc()
                case Prediction():
                    self._count_prediction(event)
                case Action():
                    self._count_action(event, outdated=outdated)

    def copy_counts(self, events: Subscription) -> None:
        """Copy the subscription's own counts of missed and refused messages."""
        self._missed.set(events.missed)
        self._refused.set(events.refused)

    def _count_prediction(self, event: Prediction) -> None:
        view = self._view(event)
        self._predictions.labels(*view, self._label(event.top[0][0])).inc()
        for label, _ in event.present if event.labels is not None else ():
            self._present.labels(*view, self._label(label)).inc()
        self._predicted_at.labels(*view).set(event.time.timestamp())
        latency = event.latency_ms
        for milliseconds, histogram in (
            (latency.capture_to_publish, self._capture.labels(*view)),
            (latency.encode, self._encode),
            (latency.classify, self._classify),
        ):
            if milliseconds is not None:
                histogram.observe(milliseconds / 1000)

    def _compare_lease(self, event: Received) -> tuple[bool, list[Action]]:
        """Return whether another node of the fleet has the stream already, and the actions that a new lease ends."""
        state = None if isinstance(event, Lost | Heartbeat) else self._service.streams.get(event.stream)
        lease = getattr(event, "lease", None) or 0
        if state is None or lease <= state.lease:
            return state is not None and lease < state.lease, []
        return False, list(state.active.values())

    def _count_action(self, event: Action, *, outdated: bool) -> None:
        view, label = self._view(event), self._label(event.label)
        if not outdated:
            self._active.labels(*view, label).set(event.phase != "end")
        if event.phase != "update":
            self._actions.labels(*view, label, event.phase).inc()

    def _view(self, event: Prediction | Action) -> tuple[str, str, str]:
        """Return the stream, the region and the model to count an event under; an absent name is empty.

        Above the limit of streams or of views, the stream is 'other'.
        """
        names = (event.stream, event.region or "", event.model_name or "")
        is_known = self._bounded(event.stream, self._streams, MAX_STREAMS) == event.stream
        if is_known and self._bounded(names, self._views, MAX_VIEWS) == names:
            return names
        return OTHER, "", ""

    def _label(self, label: str) -> str:
        return self._bounded(label, self._labels, MAX_LABELS)

    def _bounded(self, name: _Name, known: set[_Name], limit: int) -> _Name | str:
        """Return the name to count an event under: 'other' above the limit.

        A time series lives as long as this process, so their number must be limited.
        """
        if name not in known and len(known) >= limit:
            self._folded.inc()
            return OTHER
        known.add(name)
        return name

    def _metrics_page(self) -> tuple[int, str, bytes]:
        with self._lock:
            return 200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(self._registry)

    def _health_page(self) -> tuple[int, str, bytes]:
        with self._lock:
            return self._health.page(time.monotonic())


class _ServiceCollector(Collector):
    """Pass on the numbers in heartbeats, statuses and predictions as they are."""

    def __init__(self, service: ServiceView) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the registry would otherwise call `collect` to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics. The caller holds the lock of `MetricsCollector`."""
        is_up = not self._service.is_silent(time.monotonic())
        yield GaugeMetricFamily("streamclf_up", "1 while the service's heartbeats arrive.", value=float(is_up))
        if heartbeat := self._service.heartbeat:
            yield GaugeMetricFamily("streamclf_journal_head", "The newest event's offset.", value=heartbeat.head)
            yield GaugeMetricFamily("streamclf_journal_oldest", "The oldest event's offset.", value=heartbeat.oldest)
            yield CounterMetricFamily(
                "streamclf_not_durable", "Events published but not written to disk.", value=heartbeat.not_durable
            )
        yield from self._fleet_metrics()
        yield from self._outlet_metrics()
        yield from self._device_metrics()
        yield from self._stream_metrics()

    def _fleet_metrics(self) -> Iterator[Metric]:
        heartbeat = self._service.heartbeat
        if heartbeat is None or heartbeat.leases is None:
            return
        refused = CounterMetricFamily(
            "streamclf_lease_refused", "Events that a node had no lease for.", labels=("stream",)
        )
        for stream, count in heartbeat.refused.items():
            refused.add_metric((stream,), count)
        yield refused
        if isinstance(heartbeat, FleetHeartbeat):
            up = GaugeMetricFamily("streamclf_node_up", "1 while the node is live.", labels=("node",))
            streams = GaugeMetricFamily(
                "streamclf_node_streams", "Streams that the node may publish.", labels=("node",)
            )
            for name, node in heartbeat.nodes.items():
                up.add_metric((name,), float(node.condition == "live"))
                streams.add_metric((name,), len(node.streams))
            overtaken = CounterMetricFamily(
                "streamclf_overtaken", "Events that came after another node had the stream.", value=heartbeat.overtaken
            )
            yield from (up, streams, overtaken)

    def _outlet_metrics(self) -> Iterator[Metric]:
        state = GaugeMetricFamily("streamclf_outlet_state", "1 for the state it is in.", labels=("outlet", "state"))
        names = ("delivered", "refused", "lost")
        counts = [
            CounterMetricFamily(f"streamclf_outlet_{name}", f"{name.capitalize()} by an outlet.", labels=("outlet",))
            for name in names
        ]
        for outlet, status in self._service.outlets.items():
            for each in OUTLET_STATES:
                state.add_metric((outlet, each), float(status.state == each))
            for name, count in zip(names, counts, strict=True):
                count.add_metric((outlet,), getattr(status, name))
        yield from (state, *counts)

    def _device_metrics(self) -> Iterator[Metric]:
        if not self._service.devices:
            return
        up = GaugeMetricFamily("streamclf_device_up", "1 while the GPU serves.", labels=("device",))
        views = GaugeMetricFamily("streamclf_device_views", "Streams and regions on the GPU.", labels=("device",))
        load = GaugeMetricFamily("streamclf_device_load", "Share of the time that it needs.", labels=("device",))
        for number, device in self._service.devices.items():
            up.add_metric((number,), float(device.state == "serving"))
            views.add_metric((number,), device.views)
            if device.load is not None:
                load.add_metric((number,), device.load)
        yield from (up, views, load)

    def _stream_metrics(self) -> Iterator[Metric]:
        state = GaugeMetricFamily("streamclf_stream_state", "1 for the state it is in.", labels=("stream", "state"))
        drops = CounterMetricFamily("streamclf_dropped", "Never classified, by cause.", labels=(*VIEW, "cause"))
        value = GaugeMetricFamily("streamclf_stream_value", "Other numbers of a status.", labels=("stream", "name"))
        gated = CounterMetricFamily("streamclf_gated", "Chunks not encoded: nothing moved.", labels=VIEW)
        counters = {
            name: CounterMetricFamily(f"streamclf_{name}", f"{name.capitalize()} of a stream.", labels=("stream",))
            for name in sorted(_COUNTERS)
        }
        heartbeat = self._service.heartbeat
        link_dropped = dict(heartbeat.dropped) if heartbeat else {}
        for stream, view in self._service.streams.items():
            if status := view.status:
                for each in STATES:
                    state.add_metric((stream, each), float(status.state == each))
                if status.hop is not None:
                    value.add_metric((stream, "hop"), status.hop)
                for name, number in status.counters.items():
                    if name == _LINK_DROPPED:
                        link_dropped.setdefault(stream, int(number))  # the heartbeat's number is newer
                    elif name.startswith(_DROPPED_PREFIX):
                        drops.add_metric((stream, "", "", name.removeprefix(_DROPPED_PREFIX)), number)
                    elif name in _COUNTERS:
                        counters[name].add_metric((stream,), number)
                    else:
                        value.add_metric((stream, name), number)
            for key, part in view.views.items():
                if prediction := part.prediction:
                    names = (stream, key.region or "", key.model_name or "")
                    for cause, number in prediction.dropped.items():
                        drops.add_metric((*names, cause), number)
                    if prediction.gated:
                        gated.add_metric(names, prediction.gated)
        for stream, dropped in link_dropped.items():
            drops.add_metric((stream, "", "", "link"), dropped)
        yield from (state, drops, value, gated, *counters.values())
