"""Start, watch, restart, reconfigure and stop the processes of one service."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from engines.bundle import Bundle
from streamclf.config.service import ServiceConfig
from streamclf.errors import ConfigError
from streamclf.events.drafts import Draft
from streamclf.producer.link import EventProducer
from streamclf.runtime.child import EXIT_DONE, EXIT_ENDED, EXIT_FAILED, EXIT_OUT_OF_MEMORY
from streamclf.runtime.liveness import LivenessTable, LivenessWatch
from streamclf.runtime.log_tail import kept_log_tail
from streamclf.runtime.logs import TextFormatter
from streamclf.supervisor.child import Child, ChildEvent, reap_orphans
from streamclf.supervisor.config_reader import ConfigReader, ReadConfig
from streamclf.supervisor.config_watch import CheckedConfig, ConfigFile
from streamclf.supervisor.machine_limits import check_memory, find_oversized, memory_reason, raise_descriptor_limit
from streamclf.supervisor.outlets import Outlet, OutletSet, make_outlet_access
from streamclf.supervisor.shared_children import SHARED, Ready, SharedChildren
from streamclf.supervisor.stopping import OUTLET_STOP_S, stop_children, wait_until_finished
from streamclf.supervisor.stream_plan import Geometry, plan_streams
from streamclf.supervisor.streams import Stream, StreamSet, watched_rows_of
from streamclf.supervisor.systemd import Notifier
from streamclf.supervisor.timers import Timer, Timers
from streamclf.units import duration_text

TICK_S = 1.0
"""Interval at which the supervisor checks liveness and the configuration's time stamp; else it waits for events."""
START_S = 120.0
"""Time until a child first extends its deadline: interpreter, imports, and for the hub a scan of a large journal."""
STOPPED_S = 0.4
"""Time that a child may stay stopped by a signal (SIGSTOP)."""
CHANGE_STOP_S = 1.5
"""Time for a child to end for a new configuration. It delays only its own restart."""
PAUSED = "paused in the configuration (enabled: false)"
"""The reason in the status of a paused stream."""
STARTING_GRACE_S = 30.0
"""At each check until the service is ready, systemd is asked for this much more time."""

log = logging.getLogger("service")


_Request: TypeAlias = Literal["stop", "reload"]


class Supervisor:
    """Run one service: a hub, a classifier, a capture process for each stream, and the outlets.

    `run` blocks until every stream has ended, `request_stop` is called, or a failure cannot be repaired. With `file`,
    the service follows the changes of that configuration.
    """

    def __init__(
        self,
        config: ServiceConfig,
        bundle: Bundle,
        *,
        on_ready: Callable[[Ready], None] | None = None,
        file: ConfigFile | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        self._current = CheckedConfig(config, bundle)
        self._previous: CheckedConfig | None = None
        """The configuration to return to if the classifier cannot start with the new one."""
        self._on_ready = on_ready
        self._notifier = notifier or Notifier({})
        # Only a SimpleQueue is safe for `put` in a signal handler.
        self._events: queue.SimpleQueue[ChildEvent | ReadConfig | _Request] = queue.SimpleQueue()
        self._reader = ConfigReader(file, self._events.put) if file else None
        self._timers = Timers()
        self._stopped_s: dict[tuple[str, int], float] = {}
        """When a signal stopped a child, by its (name, run)."""
        self._end_reason = "a failure"
        self._outlets_opened = False
        self._has_finished = False
        """Whether all streams have ended by themselves."""
        self._producer: EventProducer | None = None

    def request_stop(self) -> None:
        """Ask `run` to end everything; safe from signal handlers and other threads."""
        self._events.put("stop")

    def request_reload(self) -> None:
        """Ask `run` to read its configuration again; safe from signal handlers and other threads."""
        self._events.put("reload")

    def run(self, seconds: float | None = None) -> int:
        """Serve until the end, for at most `seconds`; return the process's exit code."""
        raise_descriptor_limit(len(self._current.config.streams))
        check_memory(len(self._current.config.streams), Geometry.of(self._current.bundle.spec))
        self._table = LivenessTable()
        self._watch = LivenessWatch(self._table, time.monotonic_ns())
        runtime = Path(tempfile.mkdtemp(prefix="streamclf-"))  # mode 0700: no other user can open the link's socket
        link = f"ipc://{runtime}/link"
        publish = self._current.config.publish
        access = make_outlet_access(publish.keys)
        self._shared = SharedChildren(link, self._table, self._events.put, access)
        self._outlets = OutletSet(
            self._table, self._events.put, journal=publish.journal, access=access, start_child=self._start_child
        )
        self._streams = StreamSet(
            link,
            self._table,
            self._events.put,
            send=self._shared.send_to_classifier,
            start_child=self._start_child,
            report=self._report_offline,
        )
        if seconds is not None:
            self._timers.add(seconds, "end")
        self._timers.add(TICK_S, "tick")
        began_s = time.monotonic()
        tail = contextlib.ExitStack()
        try:
            tail.enter_context(kept_log_tail(runtime / "log", TextFormatter("service")))
            self._start(link)
            return self._serve()
        finally:
            self._notifier.stopping()
            if self._producer:
                self._producer.close(0.0)
            self._stop_children()
            self._streams.close()
            self._table.close()
            tail.close()
            shutil.rmtree(runtime, ignore_errors=True)
            log.info("ended after %s: %s", duration_text(time.monotonic() - began_s), self._end_reason)

    def _start(self, link: str) -> None:
        self._shared.assign(self._current)
        self._start_child(self._shared.hub)
        self._start_child(self._shared.classifier)
        self._producer = EventProducer(link, "supervisor")
        for name, plan in plan_streams(self._current.config, self._current.bundle.spec).items():
            self._streams.add(name, plan)
        for name in self._paused:
            self._report_offline(name, PAUSED)
        self._record_configuration(applied=True)

    @property
    def _paused(self) -> set[str]:
        """The streams that the configuration pauses. They have no process and no ring."""
        return {name for name, stream in self._current.config.streams.items() if not stream.enabled}

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
        child = self._child(timer.child)
        if child is None or child.run != timer.run:
            return None  # the child no longer exists, or runs anew by now
        if timer.kind == "start" and not child.running and not child.stopping:
            self._start_child(child)
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
        shared_rows = self._shared.watched_rows
        healthy = len(shared_rows) == len(SHARED)
        rows = [*shared_rows, *watched_rows_of(self._streams.all), *self._outlets.watched_rows]
        for name, reason in self._watch.find_overdue(rows, time.monotonic_ns()):
            child = self._child(name)
            assert child is not None
            healthy = healthy and name not in SHARED
            if child.kill_reason:
                continue  # it was killed already; the kernel has not finished that yet
            child.kill_because(reason)
            if name in SHARED and not self._shared.was_ever_ready(child):
                log.error("%s: never got ready: the service ends", name)
                return EXIT_FAILED
        for child, reason in find_oversized(self._all_children()):
            if not child.kill_reason:
                child.kill_because(reason)
        if self._outlets.changed:
            self._publish_outlets()
        if healthy:
            self._notifier.alive()
        if not self._shared.ready:
            self._notifier.still_starting(STARTING_GRACE_S)
        if self._reader and self._reader.must_read():
            self.request_reload()
        reap_orphans({child.pid for child in self._all_children()})
        return None

    def _handle_request(self, request: _Request) -> int | None:
        if request == "stop":
            self._end_reason = "asked by Ctrl-C or a signal"
            return EXIT_DONE
        self._start_reading()
        return None

    def _handle_read(self, read: ReadConfig) -> int | None:
        assert self._reader is not None
        self._reader.finish()
        try:
            config = read.check(self._current)
        except ConfigError as error:
            log.error("the new configuration is refused, the old one stays: %s", error)
            self._record_configuration(applied=False, reason=str(error))
        else:
            self._record_configuration(applied=True)
            self._apply(config)
        self._notifier.ready("serving")
        return self._exit_code_if_finished()

    def _handle_child_event(self, event: ChildEvent) -> int | None:
        child = self._child(event.child)
        if child is None or child.run != event.run:
            return None
        outlet = self._outlets.of_child(child.name)
        if event.kind == "line" and outlet:
            self._outlets.record_line(outlet, event.line)
        elif event.kind == "line":
            self._handle_ready(child, event.line)
        elif event.kind == "stopped":
            self._stopped_s[child.name, child.run] = time.monotonic()
            self._timers.add(STOPPED_S, "stopped", child.name, child.run)
        elif event.kind == "continued":
            self._stopped_s.pop((child.name, child.run), None)
        else:
            self._stopped_s.pop((child.name, child.run), None)
            return self._handle_exit(child, event.code)
        return None

    # Children: start and end.

    def _child(self, name: str) -> Child | None:
        owner = self._streams.of_child(name) or self._outlets.of_child(name)
        return owner.child if owner else self._shared.child(name)

    def _all_children(self) -> list[Child]:
        captures = [stream.child for stream in self._streams.all]
        return [self._shared.hub, self._shared.classifier, *captures, *self._outlets.children]

    def _start_child(self, child: Child) -> None:
        owner = self._streams.of_child(child.name) or self._outlets.of_child(child.name)
        self._table.start(owner.row if owner else self._shared.row(child), START_S)
        child.start()

    def _handle_ready(self, child: Child, line: bytes) -> None:
        first = self._shared.ready is None
        self._shared.record_ready(child, line)
        if child is self._shared.hub:
            if not self._outlets_opened:
                self._outlets_opened = True
                self._outlets.open(self._shared.hub_ready, self._current.config.outlets.all)
            self._publish_outlets()  # a new hub does not know them
            if self._reader and self._reader.status:
                self._shared.publish_configuration(self._reader.status)
        elif child is self._shared.classifier:
            self._previous = None
            self._streams.capacity = self._shared.capacity
            self._streams.join_waiting()
        if first and (ready := self._shared.ready):
            self._notifier.ready(f"publishing on {ready.events}")
            if self._on_ready:
                self._on_ready(ready)

    def _publish_outlets(self) -> None:
        self._outlets.changed = not self._shared.publish_outlets(self._outlets.statuses)

    def _handle_exit(self, child: Child, code: int) -> int | None:
        stream, outlet = self._streams.of_child(child.name), self._outlets.of_child(child.name)
        was_ready = self._shared.mark_down(child)
        if child is self._shared.classifier:
            self._streams.classifier_gone()
        if child.stopping:
            if outlet:
                self._outlets.settle(outlet)
            else:
                self._restart_changed(child, stream)
            return self._exit_code_if_finished()
        if stream and code in (EXIT_ENDED, EXIT_FAILED):
            stream.code = code
            return self._exit_code_if_finished()
        if child is self._shared.classifier and self._previous and not was_ready:
            self._return_to_previous()
            return None
        if code == EXIT_FAILED and not (stream or outlet) and not self._shared.was_ever_ready(child):
            return EXIT_FAILED  # the child has logged its one-line error; the service cannot run without it
        return self._handle_crash(child, stream, outlet, code)

    def _handle_crash(self, child: Child, stream: Stream | None, outlet: Outlet | None, code: int) -> int | None:
        reason = child.kill_reason or (f"signal {-code}" if code < 0 else f"exit code {code}")
        if code == EXIT_OUT_OF_MEMORY and child.job and child.job.memory_limit:
            reason = memory_reason(child.job.memory_limit)
        delay = child.record_crash()
        if outlet:
            reason = self._outlets.record_end(outlet, "parked" if delay is None else "restarting", reason, code)
        if delay is not None:
            # Parked children are started again for as long as the service runs: only their parking is logged.
            level = logging.DEBUG if child.times_parked else logging.WARNING
            text = "%s: ended (%s); starting it again in %.1f s"
            log.log(level, text, child.name, reason, delay, extra=child.log_fields)
        elif stream or outlet:
            times, delay = len(child.crashes), child.park()
            reason = f"{times} times within a minute, the last: {reason}"
            log.error("%s: ended %s; parked for %.0f s", child.name, reason, delay, extra=child.log_fields)
        else:
            log.error(
                "%s: ended again (%s), %d times within a minute: the service ends",
                child.name,
                reason,
                len(child.crashes),
            )
            return EXIT_FAILED
        if stream:
            self._report_offline(stream.name, f"capture process ended ({reason}); starting it again in {delay:.1f} s")
        self._timers.add(delay, "start", child.name, child.run)
        return None

    def _restart_changed(self, child: Child, stream: Stream | None) -> None:
        """Start a child again that was asked to stop for a new configuration and has ended."""
        if stream:
            self._streams.settle(stream)
        else:
            self._shared.assign_classifier(self._current)
            self._start_child(child)

    def _report_offline(self, stream: str, reason: str) -> None:
        """Publish that a stream is offline, in place of its capture process, which has ended."""
        body: dict[str, Any] = {"state": "offline", "reason": reason[:500]}
        if stream in self._paused:
            body |= {"reason": PAUSED, "paused": True}
        if self._producer:
            self._producer.post(Draft(type="status", stream=stream, body=body))

    def _exit_code_if_finished(self) -> int | None:
        """Return the service's exit code if every stream has ended, else None."""
        codes = [stream.code for stream in self._streams.all]
        if any(code is None for code in codes) or self._paused:
            return None
        self._has_finished = True
        failed = codes.count(EXIT_FAILED)
        self._end_reason = f"{len(codes)} streams have ended, {failed} of them with an error"
        return EXIT_FAILED if failed == len(codes) else EXIT_DONE

    def _stop_children(self) -> None:
        stop_children([stream.child for stream in self._streams.all])
        stop_children([self._shared.classifier])
        if self._has_finished:
            wait_until_finished(self._outlets.finish(), self._is_asked_to_stop)
        stop_children(self._outlets.children, OUTLET_STOP_S)
        stop_children([self._shared.hub])

    def _is_asked_to_stop(self) -> bool:
        """Return whether a request to stop has arrived; forget all other events."""
        while not self._events.empty():
            event = self._events.get()
            if event == "stop":
                return True
        return False

    # Live reconfiguration.

    def _start_reading(self) -> None:
        """Read the configuration file in a thread, and start parked capture processes again."""
        if self._reader is None or not self._reader.start():
            return
        self._notifier.reloading()
        for stream in self._streams.all:  # the cause of their crashes may have been repaired
            if not stream.child.running and stream.code is None and stream.child.times_parked:
                self._start_child(stream.child)
        self._outlets.restart_parked()

    def _record_configuration(self, *, applied: bool, reason: str | None = None) -> None:
        """Publish whether the version of the file that was read last is applied."""
        if self._reader:
            self._reader.record(applied=applied, reason=reason)
            assert self._reader.status is not None
            self._shared.publish_configuration(self._reader.status)

    def _apply(self, new: CheckedConfig) -> None:
        old, self._current = self._current, new
        differences = new.differences(old)
        if not differences:
            log.info("configuration read again: nothing has changed")
            return
        self._shared.change_hub(new.config)
        self._change_classifier(old)
        present = {stream.name for stream in self._streams.all}
        for name in self._paused - present:  # a stream with a process is reported when that has ended
            before = old.config.streams.get(name)
            if before is None or before.enabled:
                self._report_offline(name, PAUSED)
        plans = plan_streams(new.config, new.bundle.spec)
        for child in [*self._streams.apply(plans), *self._outlets.apply(new.config.outlets.all)]:
            self._kill_later(child)
        log.info("new configuration applied: %s", differences)

    def _change_classifier(self, old: CheckedConfig) -> None:
        """Restart the classifier if its model or engine changes, or if its bank is too small for all streams."""
        classifier, streams = self._shared.classifier, len(self._current.config.streams)
        if self._current.needs_new_classifier(old):
            if self._shared.is_ready(classifier):
                self._previous = old
        elif streams > self._shared.capacity:
            log.warning(
                "%d streams, but the classifier serves at most %d: it restarts, and each stream loses a window; "
                "engine.spare_streams says how many streams can join without a restart",
                streams,
                self._shared.capacity,
            )
        else:
            return
        self._shared.mark_down(classifier)
        self._streams.classifier_gone()
        classifier.request_stop()
        if classifier.running:
            self._kill_later(classifier)
        else:
            self._restart_changed(classifier, None)

    def _kill_later(self, child: Child) -> None:
        self._timers.add(CHANGE_STOP_S, "kill", child.name, child.run)

    def _return_to_previous(self) -> None:
        assert self._previous is not None
        reason = "the classifier cannot start with it; back to the one before"
        log.error("the new configuration is refused: %s", reason)
        self._record_configuration(applied=False, reason=reason)
        previous, self._previous = self._previous, None
        self._apply(previous)
