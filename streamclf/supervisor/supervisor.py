"""Start, watch, restart, reconfigure and stop the processes of one service."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from streamclf.events.device_status import DeviceStatus
from streamclf.events.drafts import Draft
from streamclf.producer.link import EventProducer
from streamclf.runtime.child import EXIT_DONE, EXIT_FAILED
from streamclf.runtime.jobs import ClassifierLoad, ClassifierReady, ClassifierReport, FeedLeft
from streamclf.runtime.liveness import LivenessTable, LivenessWatch
from streamclf.runtime.log_tail import kept_log_tail
from streamclf.runtime.logs import TextFormatter
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.child import Child, ChildEvent, reap_orphans
from streamclf.supervisor.config_reader import ConfigReader, ReadConfig
from streamclf.supervisor.config_watch import ConfigFile
from streamclf.supervisor.endpoint_checks import check_endpoints
from streamclf.supervisor.engine_process import EngineProcess, failures
from streamclf.supervisor.exits import ExitHandler
from streamclf.supervisor.hub_process import Ready
from streamclf.supervisor.machine_limits import check_machine, find_oversized
from streamclf.supervisor.processes import ProcessSet
from streamclf.supervisor.reconfiguration import PAUSED, Reconfiguration
from streamclf.supervisor.stream_plan import plan_streams
from streamclf.supervisor.systemd import Notifier
from streamclf.supervisor.timers import Timer, Timers
from streamclf.units import duration_text

TICK_S = 1.0
"""Interval at which the supervisor checks liveness and the configuration's time stamp; else it waits for events."""
STOPPED_S = 0.4
"""Time that a child may stay stopped by a signal (SIGSTOP)."""
CHANGE_STOP_S = 1.5
"""Time for a child to end for a new configuration. It delays only its own restart."""
STARTING_GRACE_S = 30.0
"""At each check until the service is ready, systemd is asked for this much more time."""

log = logging.getLogger("service")


_Request: TypeAlias = Literal["stop", "reload"]


class Supervisor:
    """Run one service: a hub, a classifier for each engine group, a capture process for each stream, and the outlets.

    `run` blocks until every stream has ended, `request_stop` is called, or a failure cannot be repaired. With `file`,
    the service follows the changes of that configuration.
    """

    def __init__(
        self,
        checked: CheckedConfig,
        *,
        on_ready: Callable[[Ready], None] | None = None,
        file: ConfigFile | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        self._initial = checked
        self._on_ready = on_ready
        self._notifier = notifier or Notifier({})
        # Only a SimpleQueue is safe for `put` in a signal handler.
        self._events: queue.SimpleQueue[ChildEvent | ReadConfig | _Request] = queue.SimpleQueue()
        self._reader = ConfigReader(file, self._events.put) if file else None
        self._timers = Timers()
        self._stopped_s: dict[tuple[str, int], float] = {}
        """When a signal stopped a child, by its (name, run)."""
        self._end_reason = ""
        self._outlets_opened = self._was_ready = False
        self._producer: EventProducer | None = None
        self._devices: dict[str, DeviceStatus] = {}
        """The states of the GPUs, as the heartbeats show them."""

    def request_stop(self) -> None:
        """Ask `run` to end everything; safe from signal handlers and other threads."""
        self._events.put("stop")

    def request_reload(self) -> None:
        """Ask `run` to read its configuration again; safe from signal handlers and other threads."""
        self._events.put("reload")

    def run(self, seconds: float | None = None) -> int:
        """Serve until the end, for at most `seconds`; return the process's exit code."""
        check_machine(self._initial)
        check_endpoints(self._initial.config.publish)
        table = LivenessTable()
        runtime = Path(tempfile.mkdtemp(prefix="streamclf-"))  # mode 0700: no other user can open the link's socket
        self._processes = ProcessSet(
            table,
            runtime,
            self._initial.config.publish,
            self._events.put,
            kill_later=self._kill_later,
            report=self._report_offline,
        )
        self._watch = LivenessWatch(table, time.monotonic_ns())
        self._changes = Reconfiguration(
            self._initial, self._processes, self._reader, kill_later=self._kill_later, report=self._report_offline
        )
        self._exits = ExitHandler(
            self._processes, self._changes, start_later=self._start_later, report=self._report_offline
        )
        if seconds is not None:
            self._timers.add(seconds, "end")
        self._timers.add(TICK_S, "tick")
        began_s = time.monotonic()
        tail = contextlib.ExitStack()
        try:
            tail.enter_context(kept_log_tail(runtime / "log", TextFormatter("service")))
            self._start()
            return self._serve()
        finally:
            self._notifier.stopping()
            if self._producer:
                self._producer.close(0.0)
            self._processes.stop(finish_outlets=bool(self._exits.finished), is_asked_to_stop=self._is_asked_to_stop)
            tail.close()
            shutil.rmtree(runtime, ignore_errors=True)
            reason = self._end_reason or self._exits.finished or "a failure"
            log.info("ended after %s: %s", duration_text(time.monotonic() - began_s), reason)

    def _start(self) -> None:
        processes, checked = self._processes, self._initial
        processes.hub.assign(checked)
        processes.start(processes.hub.child)
        processes.classifiers.apply(checked, new_engine=False, on_trial=False)
        self._producer = EventProducer(processes.link, "supervisor")
        for name, plan in plan_streams(checked, processes.classifiers.names).items():
            processes.streams.add(name, plan)
        for name in self._changes.paused:
            self._report_offline(name, PAUSED)
        self._changes.record(applied=True)

    # The loop handles timers and events, each within milliseconds. Slow work runs in other processes and threads.

    def _serve(self) -> int:
        while True:
            while timer := self._timers.pop_due():
                code = self._handle_timer(timer)
                if code is not None:
                    return code
            try:
                event = self._events.get(timeout=self._timers.wait_s())
            except queue.Empty:
                continue
            match event:
                case ChildEvent():
                    code = self._handle_child_event(event)
                case ReadConfig():
                    code = self._handle_read(event)
                case _:
                    code = self._handle_request(event)
            if code is not None:
                return code

    def _handle_timer(self, timer: Timer) -> int | None:
        if timer.kind == "end":
            self._end_reason = "its time is over (--seconds)"
            return EXIT_DONE
        if timer.kind == "tick":
            self._timers.add(TICK_S, "tick")
            return self._tick()
        child = self._processes.child(timer.child)
        if child is None or child.run != timer.run:
            return None  # the child no longer exists, or runs anew by now
        if timer.kind == "start" and not child.running and not child.stopping:
            self._processes.start(child)
        elif timer.kind == "kill" and child.running:
            log.warning("%s: did not end in %.1f s: killed", child.name, CHANGE_STOP_S, extra=child.log_fields)
            child.kill()
        elif timer.kind == "stopped" and self._is_stopped_for_long(child):
            child.kill_because(f"stopped by a signal for {STOPPED_S} s")
        return None

    def _is_stopped_for_long(self, child: Child) -> bool:
        """Return whether the child has been stopped for `STOPPED_S`, without a continuation in between."""
        return time.monotonic() - self._stopped_s.get((child.name, child.run), math.inf) >= STOPPED_S

    def _tick(self) -> int | None:
        """Kill children that hang or take too much memory, notify systemd, and check the configuration file."""
        processes, rows = self._processes, self._processes.watched_rows
        shared = processes.shared_names
        healthy = shared <= {name for name, _ in rows}
        for name, reason in self._watch.find_overdue(rows, time.monotonic_ns()):
            child = processes.child(name)
            assert child is not None
            healthy = healthy and name not in shared
            if child.kill_reason:
                continue  # it was killed already; the kernel has not finished that yet
            child.kill_because(reason)
            if self._exits.is_needed(child) and not self._exits.was_ever_ready(child):
                log.error("%s: never got ready: the service ends", name)
                return EXIT_FAILED
        for child, reason in find_oversized(processes.all):
            if not child.kill_reason:
                child.kill_because(reason)
        if processes.outlets.changed:
            self._publish_outlets()
        processes.streams.join_held()
        self._publish_devices()
        if healthy:
            self._notifier.alive()
        if not processes.ready:
            self._notifier.still_starting(STARTING_GRACE_S)
        if self._reader and self._reader.must_read():
            self.request_reload()
        reap_orphans({child.pid for child in processes.all})
        return None

    def _handle_request(self, request: _Request) -> int | None:
        if request == "stop":
            self._end_reason = "asked by Ctrl-C or a signal"
            return EXIT_DONE
        if self._changes.start_reading():
            self._notifier.reloading()
        return None

    def _handle_read(self, read: ReadConfig) -> int | None:
        self._changes.handle_read(read)
        self._notifier.ready("serving")
        return self._exits.code_if_finished()

    def _handle_child_event(self, event: ChildEvent) -> int | None:
        child = self._processes.child(event.child)
        if child is None or child.run != event.run:
            return None
        if event.kind == "line":
            self._handle_line(child, event.line)
        elif event.kind == "stopped":
            self._stopped_s[child.name, child.run] = time.monotonic()
            self._timers.add(STOPPED_S, "stopped", child.name, child.run)
        elif event.kind == "continued":
            self._stopped_s.pop((child.name, child.run), None)
        else:
            self._stopped_s.pop((child.name, child.run), None)
            code = self._exits.handle(child, event.code)
            self._publish_devices()
            self._report_ready()
            return code
        return None

    def _handle_line(self, child: Child, line: bytes) -> None:
        processes = self._processes
        if outlet := processes.outlets.of_child(child.name):
            processes.outlets.record_line(outlet, line)
        elif engine := processes.classifiers.of_child(child.name):
            self._handle_report(engine, processes.classifiers.record_line(engine, line))
        elif processes.hub.record_line(line):
            self._handle_hub_ready()
        self._report_ready()

    def _handle_report(self, engine: EngineProcess, report: ClassifierReady | ClassifierReport | None) -> None:
        """Handle a report of a classifier."""
        processes, streams = self._processes, self._processes.streams
        match report:
            case None:
                return
            case ClassifierReady():
                streams.classifier_ready(engine.place)
                processes.classifiers.finish()
            case FeedLeft():
                streams.feed_left(engine.name, report.feed)
            case ClassifierLoad():
                streams.record_load(engine.name, report)
        self._changes.handle_models(failures(report))

    def _handle_hub_ready(self) -> None:
        processes = self._processes
        if not self._outlets_opened and processes.hub.report:
            self._outlets_opened = True
            processes.outlets.open(processes.hub.report, self._changes.current.config.outlets.all)
        self._publish_outlets()  # a new hub does not know them
        self._devices = {}
        self._publish_devices()
        if self._reader and self._reader.status:
            processes.hub.publish_configuration(self._reader.status)

    def _report_ready(self) -> None:
        """Report once that the service is ready."""
        if self._was_ready or not (ready := self._processes.ready):
            return
        self._was_ready = True
        self._notifier.ready(f"publishing on {ready.events}")
        if self._on_ready:
            self._on_ready(ready)

    def _publish_outlets(self) -> None:
        outlets = self._processes.outlets
        outlets.changed = not self._processes.hub.publish_outlets(outlets.statuses)

    def _publish_devices(self) -> None:
        """Publish the states of the GPUs if they have changed."""
        statuses = self._processes.device_statuses
        if statuses != self._devices and self._processes.hub.publish_devices(statuses):
            self._devices = statuses

    def _report_offline(self, stream: str, reason: str) -> None:
        """Publish that a stream is offline, in place of its capture process, which has ended."""
        body: Mapping[str, Any] = {"state": "offline", "reason": reason[:500]}
        if stream in self._changes.paused:
            body = {**body, "reason": PAUSED, "paused": True}
        if self._producer:
            self._producer.post(Draft(type="status", stream=stream, body=dict(body)))

    def _is_asked_to_stop(self) -> bool:
        """Return whether a request to stop has arrived; forget all other events."""
        while not self._events.empty():
            event = self._events.get()
            if event == "stop":
                return True
        return False

    def _start_later(self, child: Child, delay_s: float) -> None:
        self._timers.add(delay_s, "start", child.name, child.run)

    def _kill_later(self, child: Child) -> None:
        self._timers.add(CHANGE_STOP_S, "kill", child.name, child.run)
