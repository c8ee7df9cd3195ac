"""Run a child process: read its job and later changes from standard input. The end of the input asks it to stop."""

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
from typing import Protocol, TypeVar

from engines.errors import EngineError
from streamclf.errors import StreamclfError
from streamclf.runtime.control_channel import ControlMessage, ControlReader
from streamclf.runtime.liveness import Liveness
from streamclf.runtime.logs import configure_logging, log_uncaught_errors
from streamclf.runtime.memory_limit import limit_own_memory
from streamclf.runtime.signals import watch_sigterm


class AnyJob(Protocol):
    """The part of a job that `run_child` needs, as in `streamclf.runtime.jobs.Job`."""

    @property
    def liveness_fd(self) -> int | None:
        """Shared memory for liveness deadlines."""

    @property
    def liveness_row(self) -> int:
        """The row of the process."""

    @property
    def memory_limit(self) -> int | None:
        """Bytes of private memory that the process may use."""


JobT = TypeVar("JobT", bound=AnyJob)

STOP_GRACE_S = 1.5
"""After a request to stop, a child whose main thread is stuck in a library exits by itself after this time."""

EXIT_DONE = 0
EXIT_FAILED = 1
"""An error of the project's own, reported in one line: a restart would only repeat it."""
EXIT_ENDED = 3
"""A file was played to its end."""
EXIT_CRASHED = 70
"""A bug, reported with its traceback: worth a restart."""
EXIT_OUT_OF_MEMORY = 71
"""The process needed more memory than its limit, or the machine, allows."""

MAX_CHANGES = 1024
"""Changes that may wait for a child's loop; a loop with more of them no longer reads them."""
EXTEND_INTERVAL_S = 0.5
"""A loop that waits for the request to stop extends its liveness deadline at least this often."""
PR_SET_PDEATHSIG = 1
"""Option of prctl(2): the signal that a child gets when its parent ends (linux/prctl.h)."""
PR_SET_NAME = 15
"""Option of prctl(2): the name of the process in `top` and `ps -e`, cut to 15 bytes."""


class _StopEvent(threading.Event):
    """The request to stop. Checking or awaiting it extends the liveness deadline: such a work loop does not hang.

    Only the main thread extends the deadline, because every child does its work there. So no other thread can hide a
    work loop that hangs in a library.
    """

    def __init__(self) -> None:
        super().__init__()
        self.liveness = Liveness()
        self._main = threading.main_thread().ident

    def is_set(self) -> bool:
        if threading.get_ident() == self._main:
            self.liveness.extend()
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        if threading.get_ident() != self._main:
            return super().wait(timeout)
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self.liveness.extend()
            left = EXTEND_INTERVAL_S if end is None else min(EXTEND_INTERVAL_S, end - time.monotonic())
            if super().wait(max(0.0, left)) or (end is not None and time.monotonic() >= end):
                self.liveness.extend()
                return super().is_set()


class ChildControl:
    """Requests of the supervisor to this process, to stop or to apply a change, and this process's liveness.

    `stop_fd` becomes readable with the request to stop, for loops that wait on descriptors; other loops use
    `stop_event`. `change_fd` becomes readable when a change has arrived.
    """

    def __init__(self) -> None:
        self._event = _StopEvent()
        self.stop_event: threading.Event = self._event
        self.stop_fd, self._stop_write_fd = os.pipe()
        self.change_fd, self._change_write_fd = os.pipe()
        for fd in (self._stop_write_fd, self.change_fd, self._change_write_fd):
            os.set_blocking(fd, False)
        self._changes: deque[ControlMessage] = deque()

    @property
    def liveness(self) -> Liveness:
        """The deadline of the work loop, which sets how long its next steps may take."""
        return self._event.liveness

    @liveness.setter
    def liveness(self, liveness: Liveness) -> None:
        self._event.liveness = liveness

    def request_stop(self) -> None:
        """Ask the process to stop. Safe from a signal handler, and when called more than once."""
        if not self.stop_event.is_set():
            self.stop_event.set()
            os.write(self._stop_write_fd, b"x")

    def push_change(self, change: ControlMessage) -> None:
        """Queue a change for the work loop. Exits the process if `MAX_CHANGES` changes wait already."""
        if len(self._changes) >= MAX_CHANGES:
            os._exit(EXIT_CRASHED)  # the process started in its place gets the whole present configuration
        self._changes.append(change)
        with contextlib.suppress(BlockingIOError):  # a full pipe is readable already
            os.write(self._change_write_fd, b"x")

    @property
    def has_changes(self) -> bool:
        """Whether a change waits for the work loop."""
        return bool(self._changes)

    def pop_changes(self) -> list[ControlMessage]:
        """Return the changes that have arrived since the last call, oldest first."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.change_fd, 4096)
        return [self._changes.popleft() for _ in range(len(self._changes))]


def run_child(name: str, decode: Callable[[bytes], JobT], main: Callable[[JobT, ChildControl], int]) -> None:
    """Read the job, run `main(job, control)` and exit with the code that it returns, or with the code of its error.

    `decode` makes the job from its JSON.
    """
    # Ctrl-C in a terminal reaches the whole process group; only the supervisor decides when children stop. It has
    # started this process with the signal blocked, so that none interrupts the imports.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _wake_when_orphaned()
    control = ChildControl()
    signal.signal(signal.SIGTERM, lambda *_: control.request_stop())
    watch_sigterm(control.request_stop)
    # The name of its stream or outlet is an argument: `ps` shows it, and so does each line of the log.
    subject = sys.argv[1] if len(sys.argv) > 1 else None
    process = f"{name}[{subject}]" if subject else name
    _set_thread_name(process)
    configure_logging(process, stream=subject if name == "capture" else None)
    log_uncaught_errors()
    reader = ControlReader(0)
    message = reader.next()
    if message is None:
        os._exit(EXIT_DONE)  # the supervisor ended before it sent the job
    job = decode(message.body)
    control.liveness = Liveness(job.liveness_fd, job.liveness_row)
    if job.memory_limit is not None:
        limit_own_memory(job.memory_limit)
    threading.Thread(target=_read_changes, args=(reader, control), name="control", daemon=True).start()
    threading.Thread(target=_exit_after_grace, args=(control,), name="grace", daemon=True).start()
    try:
        code = main(job, control)
    except (StreamclfError, EngineError) as error:
        logging.getLogger(name).error("%s", error)
        code = EXIT_FAILED
    except MemoryError:
        logging.getLogger(name).error("out of memory")
        code = EXIT_OUT_OF_MEMORY
    except BaseException:
        logging.getLogger(name).exception("stopped by a bug")
        code = EXIT_CRASHED
    # Worker threads of libraries (decoders, inference) can delay the interpreter's shutdown; all state is saved by now.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _read_changes(reader: ControlReader, control: ChildControl) -> None:
    while (change := reader.next()) is not None:
        control.push_change(change)
    control.request_stop()


def _wake_when_orphaned() -> None:
    """Have the kernel continue this process when its supervisor is killed.

    A child that is stopped (SIGSTOP) at that moment would never read the end of its input. SIGCONT lets it stop in
    order; SIGKILL would not.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGCONT)


def _set_thread_name(name: str) -> None:
    _prctl(PR_SET_NAME, name.encode())


def _prctl(option: int, argument: int | bytes) -> None:
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


def _exit_after_grace(control: ChildControl) -> None:
    control.stop_event.wait()
    threading.Event().wait(STOP_GRACE_S)
    os._exit(EXIT_FAILED)
