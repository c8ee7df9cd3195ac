"""Starts, watches, restarts, reconfigures and stops the processes of one service."""

from __future__ import annotations

import logging
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.bundle import Bundle
from engines.errors import EngineError
from streamclf.config.service import ServiceConfig
from streamclf.errors import ConfigError, StreamclfError
from streamclf.events.drafts import Draft
from streamclf.producer.link import EventProducer
from streamclf.runtime.child import EXIT_DONE, EXIT_ENDED, EXIT_FAILED
from streamclf.runtime.liveness import LivenessTable, LivenessWatch
from streamclf.supervisor.child import Child, ChildEvent, reap_orphans
from streamclf.supervisor.config_watch import CheckedConfig, ConfigFile, check_reload
from streamclf.supervisor.machine_limits import check_memory, secure_descriptors
from streamclf.supervisor.shared_children import BOTH, Ready, SharedChildren
from streamclf.supervisor.stream_plan import Geometry, StreamPlan
from streamclf.supervisor.streams import Stream, StreamSet, watched_rows_of
from streamclf.supervisor.systemd import Notifier
from streamclf.supervisor.timers import Timer, Timers

TICK_S = 1.0
"""The supervisor wakes this often to look at promises and at the configuration's time stamp; else only for events."""
START_S = 120.0
"""Until a child's first sign of life: an interpreter, its imports, and for the hub a look through a large journal."""
STOPPED_S = 0.4
"""A child that a signal stopped (SIGSTOP) may stay so for this long."""
CAPTURE_STOP_S = 0.6
CLASSIFIER_STOP_S = 0.6
HUB_STOP_S = 0.6
"""Captures end first, then the classifier with what they left, then the hub with all its events: 2 s in all."""
CHANGE_STOP_S = 1.5
"""A child that ends for a new configuration holds up nobody but itself."""
STARTING_GRACE_S = 30.0

log = logging.getLogger("service")


@dataclass(frozen=True, slots=True)
class _Ask:
    """What came from outside: a request, or the configuration that was read because of one."""

    what: Literal["stop", "reload", "read"]
    wanted: CheckedConfig | None = None
    error: str = ""


class Supervisor:
    """One service: a hub, a classifier and a capture process for each stream.

    `run` blocks until every stream has ended, `request_stop` is called, or something cannot be mended. With `file`, the
    service follows the changes of that configuration.
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
        self._wanted = CheckedConfig(config, bundle)
        self._before: CheckedConfig | None = None
        """The configuration to go back to if the classifier cannot be started with the new one."""
        self._on_ready = on_ready
        self._file = file
        self._notifier = notifier or Notifier({})
        # SimpleQueue alone may be put to from a signal handler.
        self._notices: queue.SimpleQueue[ChildEvent | _Ask] = queue.SimpleQueue()
        self._timers = Timers()
        self._stopped: set[tuple[str, int]] = set()
        self._reading = False
        self._link: EventProducer | None = None

    def request_stop(self) -> None:
        """Ask `run` to end everything; safe from signal handlers and other threads."""
        self._notices.put(_Ask("stop"))

    def request_reload(self) -> None:
        """Ask `run` to read its configuration again; safe from signal handlers and other threads."""
        self._notices.put(_Ask("reload"))

    def run(self, seconds: float | None = None) -> int:
        """Serve until the end, for at most `seconds`; the process's exit code."""
        secure_descriptors(len(self._wanted.config.streams))
        check_memory(len(self._wanted.config.streams), Geometry.of(self._wanted.bundle.spec))
        self._table = LivenessTable()
        self._watch = LivenessWatch(self._table, time.monotonic_ns())
        runtime = Path(tempfile.mkdtemp(prefix="streamclf-"))  # mode 0700: the link's socket is ours alone
        link = f"ipc://{runtime}/link"
        self._core = SharedChildren(link, self._table, self._notices.put)
        self._streams = StreamSet(
            link, self._table, self._notices.put, tell=self._core.tell, begin=self._begin, report=self._report
        )
        if seconds is not None:
            self._timers.add(seconds, "end")
        self._timers.add(TICK_S, "tick")
        try:
            self._start(link)
            return self._serve()
        finally:
            self._notifier.stopping()
            if self._link:
                self._link.close(0.0)
            self._stop_children()
            self._streams.close()
            self._table.close()
            shutil.rmtree(runtime, ignore_errors=True)

    def _start(self, link: str) -> None:
        self._core.assign(self._wanted)
        self._begin(self._core.hub)
        self._begin(self._core.classifier)
        self._link = EventProducer(link, "supervisor")
        for name, plan in self._plans().items():
            self._streams.add(name, plan)

    def _plans(self) -> dict[str, StreamPlan]:
        config, geometry = self._wanted.config, Geometry.of(self._wanted.bundle.spec)
        return {
            name: StreamPlan(source=source, geometry=geometry, actions=config.actions_of(name), engine=config.engine)
            for name, source in config.streams.items()
        }

    # The loop: timers and notices, each handled in an instant; what takes time happens in processes and threads.

    def _serve(self) -> int:
        while True:
            while timer := self._timers.due():
                code = self._fire(timer)
                if code is not None:
                    return code
            try:
                notice = self._notices.get(timeout=self._timers.wait_s())
            except queue.Empty:
                continue
            code = self._asked(notice) if isinstance(notice, _Ask) else self._noticed(notice)
            if code is not None:
                return code

    def _fire(self, timer: Timer) -> int | None:
        if timer.what == "end":
            return EXIT_DONE
        if timer.what == "tick":
            self._timers.add(TICK_S, "tick")
            return self._tick()
        child = self._child(timer.child)
        if child is None or child.run != timer.run:
            return None  # it is gone, or another one by now
        if timer.what == "start" and not child.running and not child.ending:
            self._begin(child)
        elif timer.what == "kill" and child.running:
            log.warning("%s: did not end in %.1f s: killed", child.name, CHANGE_STOP_S)
            child.kill()
        elif timer.what == "stopped" and (child.name, child.run) in self._stopped:
            child.kill_because(f"stopped by a signal for {STOPPED_S} s")
        return None

    def _tick(self) -> int | None:
        core = self._core.watched_rows
        well = len(core) == len(BOTH)
        for name, reason in self._watch.find_overdue([*core, *watched_rows_of(self._streams.all)], time.monotonic_ns()):
            child = self._child(name)
            assert child is not None
            well = well and name not in BOTH
            if child.kill_reason:
                continue  # it is dying already, as quickly as the kernel lets it
            child.kill_because(reason)
            if name in BOTH and not self._core.was_up(child):
                log.error("%s: never got ready: given up", name)
                return EXIT_FAILED
        if well:
            self._notifier.alive()
        if not self._core.ready:
            self._notifier.still_starting(STARTING_GRACE_S)
        if self._file and not self._reading and self._file.changed():
            self.request_reload()
        reap_orphans({child.pid for child in self._all_children()})
        return None

    def _asked(self, ask: _Ask) -> int | None:
        if ask.what == "stop":
            return EXIT_DONE
        if ask.what == "reload":
            self._read_again()
            return None
        self._reading = False
        try:
            if ask.wanted is None:
                raise ConfigError(ask.error)
            self._admit(ask.wanted)
        except ConfigError as error:
            log.error("the new configuration is refused, the old one stays: %s", error)
        else:
            self._apply(ask.wanted)
        self._notifier.ready("serving")
        return self._all_finished()

    def _noticed(self, notice: ChildEvent) -> int | None:
        child = self._child(notice.child)
        if child is None or child.run != notice.run:
            return None
        if notice.what == "line":
            self._note_ready(child, notice.line)
        elif notice.what == "stopped":
            self._stopped.add((child.name, child.run))
            self._timers.add(STOPPED_S, "stopped", child.name, child.run)
        elif notice.what == "continued":
            self._stopped.discard((child.name, child.run))
        else:
            self._stopped.discard((child.name, child.run))
            return self._note_exit(child, notice.code)
        return None

    # Children: how they begin and end.

    def _child(self, name: str) -> Child | None:
        stream = self._streams.of_child(name)
        return stream.child if stream else self._core.child(name)

    def _all_children(self) -> list[Child]:
        return [self._core.hub, self._core.classifier, *(stream.child for stream in self._streams.all)]

    def _begin(self, child: Child) -> None:
        stream = self._streams.of_child(child.name)
        self._table.start(stream.row if stream else self._core.row(child), START_S)
        child.start()

    def _note_ready(self, child: Child, line: bytes) -> None:
        first = self._core.ready is None
        self._core.record_ready(child, line)
        if child is self._core.classifier:
            self._before = None
            self._streams.room = self._core.capacity
            self._streams.join_waiting()
        if first and (ready := self._core.ready):
            self._notifier.ready(f"publishing on {ready.events}")
            if self._on_ready:
                self._on_ready(ready)

    def _note_exit(self, child: Child, code: int) -> int | None:
        stream = self._streams.of_child(child.name)
        was_up = self._core.mark_down(child)
        if child is self._core.classifier:
            self._streams.classifier_gone()
        if child.ending:
            self._resume(child, stream)
            return self._all_finished()
        if stream and code in (EXIT_ENDED, EXIT_FAILED):
            stream.code = code
            return self._all_finished()
        if child is self._core.classifier and self._before and not was_up:
            self._go_back()
            return None
        if code == EXIT_FAILED and not stream and not self._core.was_up(child):
            return EXIT_FAILED  # its one-line error stands in the log; there is nothing to go on with
        return self._note_crash(child, stream, code)

    def _note_crash(self, child: Child, stream: Stream | None, code: int) -> int | None:
        reason = child.kill_reason or (f"signal {-code}" if code < 0 else f"exit code {code}")
        delay = child.record_crash()
        if delay is not None:
            log.warning("%s: ended (%s); starting it again in %.1f s", child.name, reason, delay)
        elif stream:
            times, delay = len(child.crashes), child.park()
            reason = f"{times} times within a minute, the last: {reason}"
            log.error("%s: ended %s; parked for %.0f s", child.name, reason, delay)
        else:
            log.error(
                "%s: ended again (%s), %d times within a minute: given up", child.name, reason, len(child.crashes)
            )
            return EXIT_FAILED
        if stream:
            self._report(stream.name, f"capture process ended ({reason}); starting it again in {delay:.1f} s")
        self._timers.add(delay, "start", child.name, child.run)
        return None

    def _resume(self, child: Child, stream: Stream | None) -> None:
        """A child that ended because it was asked to, for a new configuration."""
        if stream:
            self._streams.settle(stream)
        else:
            self._core.assign_classifier(self._wanted)
            self._begin(child)

    def _report(self, stream: str, reason: str) -> None:
        """A capture process that is gone cannot say so itself."""
        if self._link:
            self._link.post(Draft(type="status", stream=stream, body={"state": "offline", "reason": reason[:500]}))

    def _all_finished(self) -> int | None:
        codes = [stream.code for stream in self._streams.all]
        if any(code is None for code in codes):
            return None
        return EXIT_FAILED if all(code == EXIT_FAILED for code in codes) else EXIT_DONE

    def _stop_children(self) -> None:
        captures = [stream.child for stream in self._streams.all]
        stages = (
            (captures, CAPTURE_STOP_S),
            ([self._core.classifier], CLASSIFIER_STOP_S),
            ([self._core.hub], HUB_STOP_S),
        )
        for children, limit_s in stages:
            for child in children:
                child.request_stop()
            deadline = time.monotonic() + limit_s
            for child in children:
                child.join(deadline)

    # Live reconfiguration.

    def _read_again(self) -> None:
        if self._file is None or self._reading:
            return
        self._reading = True
        self._notifier.reloading()
        for stream in self._streams.all:  # whoever asks for this may have mended what made them crash
            if not stream.child.running and stream.code is None and stream.child.parked:
                self._begin(stream.child)
        threading.Thread(target=self._read, args=(self._file,), name="reload", daemon=True).start()

    def _read(self, file: ConfigFile) -> None:
        ask = _Ask("read", error="reading it failed by a bug; see the log")
        try:
            ask = _Ask("read", wanted=file.read())
        except (StreamclfError, EngineError) as error:
            ask = _Ask("read", error=str(error))
        finally:
            self._notices.put(ask)

    def _admit(self, wanted: CheckedConfig) -> None:
        """Raise `ConfigError` unless the running service can become what is wanted."""
        check_reload(self._wanted.config.publish, wanted.config.publish)
        geometry = Geometry.of(wanted.bundle.spec)
        same = geometry == Geometry.of(self._wanted.bundle.spec)
        new = wanted.config.streams.keys() - self._wanted.config.streams.keys() if same else wanted.config.streams
        secure_descriptors(len(wanted.config.streams))
        check_memory(len(new), geometry)

    def _apply(self, wanted: CheckedConfig) -> None:
        old, self._wanted = self._wanted, wanted
        differences = wanted.differences(old)
        if not differences:
            log.info("configuration read again: nothing has changed")
            return
        self._change_classifier(old)
        for child in self._streams.apply(self._plans()):
            self._kill_later(child)
        if wanted.config.publish != old.config.publish:
            self._core.keep(wanted.config.publish)
        log.info("new configuration taken: %s", differences)

    def _change_classifier(self, old: CheckedConfig) -> None:
        """Start the classifier anew where its model or engine changes, or its bank is too small for the streams."""
        classifier, streams = self._core.classifier, len(self._wanted.config.streams)
        if self._core.needs_new_classifier(old, self._wanted):
            if self._core.is_up(classifier):
                self._before = old
        elif streams > self._core.capacity:
            log.warning(
                "%d streams, and the classifier has room for %d: it is started anew, which costs each stream a window; "
                "engine.spare_streams says how many may join without that",
                streams,
                self._core.capacity,
            )
        else:
            return
        self._core.mark_down(classifier)
        self._streams.classifier_gone()
        classifier.request_stop()
        if classifier.running:
            self._kill_later(classifier)
        else:
            self._resume(classifier, None)

    def _kill_later(self, child: Child) -> None:
        self._timers.add(CHANGE_STOP_S, "kill", child.name, child.run)

    def _go_back(self) -> None:
        assert self._before is not None
        log.error("the new configuration is refused: the classifier cannot start with it; back to the one before")
        before, self._before = self._before, None
        self._apply(before)
