"""Run an outlet as a child of the supervisor: it reports its state and counts on standard output."""

from __future__ import annotations

import logging
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from streamclf.config.outlets import OUTLETS
from streamclf.errors import StreamclfError
from streamclf.events.outlet_status import OutletStatus, status_line
from streamclf.events.positions import START, Position
from streamclf.net.curve_client import ServiceAddress
from streamclf.net.curve_keys import Certificate
from streamclf.runtime.child import EXIT_DONE, ChildControl
from streamclf.runtime.jobs import OutletChange, OutletJob
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.outlet_command import deliver
from streamclf.subscribers.outlet_report import OutletReport
from streamclf.subscribers.outlet_run import OutletRun

DRAIN_S: Final = 0.6
"""After the request to stop, an outlet has this long for the events that have arrived, or arrive now."""
REPORT_S: Final = 0.5
"""Interval at which changes of the state and counts are reported."""
LOOP_DEADLINE_S: Final = 60.0
"""Longest step of the loop: a POST request with its time-out, or a write to a slow disk."""


class ChildStop(StopRequest):
    """The supervisor's request to stop. Checking it extends the liveness deadline: such a loop does not hang.

    The first check ends the phase `starting`. The imports come before it: on a busy machine, those of the page can take
    longer than a step of the loop may.
    """

    def __init__(self, control: ChildControl) -> None:
        super().__init__(drain_s=DRAIN_S)
        self._control = control
        self._is_starting = True

    @property
    def is_set(self) -> bool:
        """Whether the outlet must end now."""
        self._read_control()
        return super().is_set

    @property
    def is_requested(self) -> bool:
        """Whether the supervisor asked the outlet to end."""
        self._read_control()
        return super().is_requested

    def _read_control(self) -> None:
        if self._is_starting:
            self._is_starting = False
            self._control.liveness.enter_phase("serving", LOOP_DEADLINE_S)
        if self._control.stop_event.is_set():
            self.request()
        if self._control.has_changes and not self.when_caught_up:
            for change in self._control.pop_changes():
                OutletChange.model_validate_json(change.body)
            self.when_caught_up, self.caught_up_after = True, datetime.now(timezone.utc)


def main(job: OutletJob, control: ChildControl) -> int:
    """Hand events on until asked to stop; return the exit code."""
    log = logging.getLogger(job.name)
    config = OUTLETS[job.kind].model_validate(job.options)
    report = OutletReport(job.name, log.log)
    reporter = Reporter(report)
    begin = Position(*job.begin) if job.begin else None
    run = OutletRun(
        address=address_of(job),
        stop=ChildStop(control),
        report=report,
        position=job.position,
        begin=START if getattr(config, "from_start", False) else begin,
    )
    try:
        deliver(config, run)
    except StreamclfError as error:
        report.waiting(str(error))
        raise
    finally:
        reporter.report()
    return EXIT_DONE


def address_of(job: OutletJob) -> ServiceAddress:
    """Return the service's address, with the keys for it if it has keys."""
    if job.access is None:
        return ServiceAddress(endpoint=job.events)
    access = job.access
    keys = Certificate(path=Path(job.name), public=access.public.encode(), secret=access.secret.encode())
    return ServiceAddress(endpoint=job.events, keys=keys, server_key=access.server.encode())


class Reporter:
    """Write the outlet's status to standard output whenever it has changed. Runs in a thread of its own.

    The main thread may wait for the receiver; the supervisor still gets the reason.
    """

    def __init__(self, report: OutletReport) -> None:
        self._report = report
        self._last: OutletStatus | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="report", daemon=True).start()

    def report(self) -> None:
        """Write the status if it has changed since the last report."""
        with self._lock:
            status = self._report.status
            if status != self._last:
                self._last = status
                sys.stdout.buffer.write(status_line(status))
                sys.stdout.flush()

    def _run(self) -> None:
        while True:
            self.report()
            threading.Event().wait(REPORT_S)
