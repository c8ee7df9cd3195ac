"""Decide what follows when a child process ends: its next start, the next configuration, or the end of the service."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from streamclf.runtime.child import EXIT_DONE, EXIT_ENDED, EXIT_FAILED, EXIT_OUT_OF_MEMORY
from streamclf.supervisor.child import Child
from streamclf.supervisor.engine_process import EngineProcess
from streamclf.supervisor.machine_limits import memory_reason
from streamclf.supervisor.processes import ProcessSet
from streamclf.supervisor.reconfiguration import Reconfiguration

log = logging.getLogger("service")


class ExitHandler:
    """Handle the exits of all children.

    `start_later` starts a child after some seconds, and `report` publishes why a stream is offline.
    """

    def __init__(
        self,
        processes: ProcessSet,
        changes: Reconfiguration,
        *,
        start_later: Callable[[Child, float], None],
        report: Callable[[str, str], None],
    ) -> None:
        self._processes, self._changes = processes, changes
        self._start_later, self._report = start_later, report
        self.finished = ""
        """How all streams have ended by themselves; empty while one has not."""

    def handle(self, child: Child, code: int) -> int | None:
        """Handle the end of a child with `code`; return the service's exit code if the service ends with it."""
        processes = self._processes
        if engine := processes.classifiers.of_child(child.name):
            return self._handle_classifier_exit(engine, code)
        if child is processes.hub.child:
            was_ever_ready = self.was_ever_ready(child)
            processes.hub.mark_down()
            if code == EXIT_FAILED and not was_ever_ready:
                return EXIT_FAILED  # the child has logged its one-line error; the service cannot run without it
            return self._handle_crash(child, code)
        stream, outlet = processes.streams.of_child(child.name), processes.outlets.of_child(child.name)
        if child.stopping:
            if outlet:
                processes.outlets.settle(outlet)
            elif stream:
                processes.streams.settle(stream)
            return self.code_if_finished()
        if stream and code in (EXIT_ENDED, EXIT_FAILED):
            stream.code = code
            return self.code_if_finished()
        return self._handle_crash(child, code)

    def _handle_classifier_exit(self, engine: EngineProcess, code: int) -> int | None:
        processes, child = self._processes, engine.child
        was_ready = processes.classifiers.mark_down(engine)
        if not child.stopping:
            engine.is_expected = False
            engine.lost = "it cannot start; the log has the reason" if code == EXIT_FAILED else _end_reason(child, code)
        processes.streams.classifier_gone(engine.name)
        if child.stopping:
            processes.settle_classifier(engine)
            return self.code_if_finished()
        if engine.is_on_trial and not was_ready and self._changes.return_to_previous(engine.title):
            return None
        if code == EXIT_FAILED and not engine.was_ever_ready:
            if self.is_needed(child):
                return EXIT_FAILED  # the child has logged its one-line error
            others = "the other models go on" if engine.device is None else "the other GPUs go on"
            delay_s = _park(child, "cannot open its models", others=others)
            self._start_later(child, delay_s)
            self._changes.report_missing()
            return None
        return self._handle_crash(child, code)

    def is_needed(self, child: Child) -> bool:
        """Return whether the service cannot go on without a child: the hub, and the last classifier that works."""
        if child is self._processes.hub.child:
            return True
        engine = self._processes.classifiers.of_child(child.name)
        if engine is None or engine.is_on_trial:
            return False
        others = [each for each in self._processes.classifiers.all if each is not engine]
        return all(each.is_parked for each in others)

    def was_ever_ready(self, child: Child) -> bool:
        """Return whether the hub or a classifier has ever reported that it was ready."""
        if engine := self._processes.classifiers.of_child(child.name):
            return engine.was_ever_ready
        return self._processes.hub.report is not None

    def _handle_crash(self, child: Child, code: int) -> int | None:
        """Start a child again that has ended by itself: soon, or after several times much later."""
        processes = self._processes
        stream, outlet = processes.streams.of_child(child.name), processes.outlets.of_child(child.name)
        reason = _end_reason(child, code)
        delay_s = child.record_crash()
        if outlet:
            state: Literal["parked", "restarting"] = "parked" if delay_s is None else "restarting"
            reason = processes.outlets.record_end(outlet, state, reason, code)
        if delay_s is not None:
            # Parked children are started again for as long as the service runs: only their parking is logged.
            level = logging.DEBUG if child.times_parked else logging.WARNING
            text = "%s: ended (%s); starting it again in %.1f s"
            log.log(level, text, child.name, reason, delay_s, extra=child.log_fields)
        elif self.is_needed(child):
            times = len(child.crashes)
            log.error("%s: ended again (%s), %d times within a minute: the service ends", child.name, reason, times)
            return EXIT_FAILED
        else:
            reason = f"{len(child.crashes)} times within a minute, the last: {reason}"
            delay_s = _park(child, f"ended {reason}")
        if stream:
            self._report(stream.name, f"capture process ended ({reason}); starting it again in {delay_s:.1f} s")
        self._start_later(child, delay_s)
        self._changes.report_missing()
        return None

    def code_if_finished(self) -> int | None:
        """Return the service's exit code if every stream has ended, else None."""
        codes = [stream.code for stream in self._processes.streams.all]
        if any(code is None for code in codes) or self._changes.paused:
            return None
        failed = codes.count(EXIT_FAILED)
        self.finished = f"{len(codes)} streams have ended, {failed} of them with an error"
        return EXIT_FAILED if failed == len(codes) else EXIT_DONE


def _end_reason(child: Child, code: int) -> str:
    """Say why a child has ended with `code`."""
    if code == EXIT_OUT_OF_MEMORY and child.job and child.job.memory_limit:
        return memory_reason(child.job.memory_limit)
    return child.kill_reason or (f"signal {-code}" if code < 0 else f"exit code {code}")


def _park(child: Child, reason: str, *, others: str = "") -> float:
    """Stop restarting a child for a while, and log it; return the seconds until its next start."""
    delay_s = child.park()
    text = f"parked for {delay_s:.0f} s" + (f"; {others}" if others else "")
    log.error("%s: %s; %s", child.name, reason, text, extra=child.log_fields)
    return delay_s
