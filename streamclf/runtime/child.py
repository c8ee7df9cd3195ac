"""How a child process begins, takes changes and ends: all on standard input, whose end means the supervisor is gone."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from engines.errors import EngineError
from streamclf.errors import StreamclfError
from streamclf.redact import RedactingFormatter
from streamclf.runtime.control_channel import ControlMessage, ControlReader
from streamclf.runtime.jobs import Job
from streamclf.runtime.liveness import Liveness

JobT = TypeVar("JobT", bound=Job)

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s  %(message)s"
LOG_VARIABLE = "STREAMCLF_LOG"
LOG_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
STOP_GRACE_S = 1.5
"""After a request to stop, a child that is stuck in a library call leaves by itself before it would be killed."""

EXIT_DONE = 0
EXIT_FAILED = 1
"""An error of ours, said in one line: a restart would only repeat it."""
EXIT_ENDED = 3
"""A file that was played to its end."""
EXIT_CRASHED = 70
"""A bug, with its traceback: worth a restart."""


MAX_CHANGES = 1024
"""Changes that wait for a child's loop to take them; one that lets more gather has stopped looking."""
SLICE_S = 0.5
PR_SET_PDEATHSIG = 1


class _Asked(threading.Event):
    """The request to end. To ask for it is a sign of life: a work loop that looks or waits for it is no hung one.

    Only the main thread's asking counts, in which every child does its work: no thread beside a loop that hangs in a
    library can pretend for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pulse = Liveness()
        self._main = threading.main_thread().ident

    def is_set(self) -> bool:
        if threading.get_ident() == self._main:
            self.pulse.beat()
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        if threading.get_ident() != self._main:
            return super().wait(timeout)
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self.pulse.beat()
            left = SLICE_S if end is None else min(SLICE_S, end - time.monotonic())
            if super().wait(max(0.0, left)) or (end is not None and time.monotonic() >= end):
                self.pulse.beat()
                return super().is_set()


class Stop:
    """What the supervisor wants of this process: that it ends, or takes a change; and its signs of life in return.

    `fd` becomes readable with the request to end, for loops that wait on descriptors; `event` is for the others.
    `change_fd` becomes readable when there are `changes` to take.
    """

    def __init__(self) -> None:
        self._event = _Asked()
        self.event: threading.Event = self._event
        self.fd, self._write_fd = os.pipe()
        self.change_fd, self._change_write_fd = os.pipe()
        for fd in (self._write_fd, self.change_fd, self._change_write_fd):
            os.set_blocking(fd, False)
        self._changes: deque[ControlMessage] = deque()

    @property
    def pulse(self) -> Liveness:
        """Where the work loop says how long its next step may take."""
        return self._event.pulse

    @pulse.setter
    def pulse(self, pulse: Liveness) -> None:
        self._event.pulse = pulse

    def request(self) -> None:
        """Ask for the end; safe from a signal handler and any number of times."""
        if not self.event.is_set():
            self.event.set()
            os.write(self._write_fd, b"x")

    def offer(self, change: ControlMessage) -> None:
        """A change has come."""
        if len(self._changes) >= MAX_CHANGES:
            os._exit(EXIT_CRASHED)  # its successor is told how everything stands
        self._changes.append(change)
        with contextlib.suppress(BlockingIOError):  # full: it is readable already
            os.write(self._change_write_fd, b"x")

    @property
    def changed(self) -> bool:
        """Whether there are changes to take."""
        return bool(self._changes)

    def changes(self) -> list[ControlMessage]:
        """The changes that have come since the last call, in their order."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.change_fd, 4096)
        return [self._changes.popleft() for _ in range(len(self._changes))]


def run_child(name: str, job_type: type[JobT], main: Callable[[JobT, Stop], int]) -> None:
    """Read the job, run `main(job, stop)` and exit with the code that it returns, or with one for its error."""
    # Ctrl-C in a terminal reaches the whole process group; only the supervisor decides when children end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _wake_when_orphaned()
    stop = Stop()
    signal.signal(signal.SIGTERM, lambda *_: stop.request())
    _watch_signals(stop)
    configure_logging()
    control = ControlReader(0)
    told = control.next()
    if told is None:
        os._exit(EXIT_DONE)  # the supervisor was gone before it said what to do
    job = job_type.model_validate_json(told.body)
    stop.pulse = Liveness(job.pulse_fd, job.pulse_line)
    threading.Thread(target=_watch_parent, args=(control, stop), name="control", daemon=True).start()
    threading.Thread(target=_leave_in_time, args=(stop,), name="grace", daemon=True).start()
    try:
        code = main(job, stop)
    except (StreamclfError, EngineError) as error:
        logging.getLogger(name).error("%s", error)
        code = EXIT_FAILED
    except BaseException:
        logging.getLogger(name).exception("stopped by a bug")
        code = EXIT_CRASHED
    # Libraries' worker threads (decoders, inference) can delay an interpreter's shutdown; all our state is safe by now.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def configure_logging(level: str = "info") -> None:
    """Log to stderr, one line a record, credentials removed; `$STREAMCLF_LOG` goes before `level`.

    An environment variable, because child processes are to follow it too.
    """
    wanted = os.environ.get(LOG_VARIABLE, level).lower()
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter(LOG_FORMAT, "%H:%M:%S"))
    logging.basicConfig(level=LOG_LEVELS.get(wanted, logging.INFO), handlers=[handler], force=True)


def _watch_signals(stop: Stop) -> None:
    """Take a signal also while the main thread, where Python runs handlers, is blocked in a library."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)

    def wait() -> None:
        while os.read(read_fd, 1) != bytes([signal.SIGTERM]):
            pass
        stop.request()

    threading.Thread(target=wait, name="signals", daemon=True).start()


def _watch_parent(control: ControlReader, stop: Stop) -> None:
    while (change := control.next()) is not None:
        stop.offer(change)
    stop.request()


def _wake_when_orphaned() -> None:
    """A child that is stopped (SIGSTOP) when its supervisor is killed would never read the end of its input: have the
    kernel continue it then. It still leaves in order, which a SIGKILL at this moment would not let it."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)


def _leave_in_time(stop: Stop) -> None:
    stop.event.wait()
    threading.Event().wait(STOP_GRACE_S)
    os._exit(EXIT_FAILED)
