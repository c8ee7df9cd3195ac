"""How a child process begins and ends: job on standard input, end of input means the supervisor is gone."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel

from engines.errors import EngineError
from streamclf.errors import StreamclfError
from streamclf.redact import RedactingFormatter

JobT = TypeVar("JobT", bound=BaseModel)

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


class Stop:
    """The request to end: set by SIGTERM or by the end of standard input.

    `fd` becomes readable with it, for loops that wait on descriptors; `event` is for the others.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)

    def request(self) -> None:
        """Ask for the end; safe from a signal handler and any number of times."""
        if not self.event.is_set():
            self.event.set()
            os.write(self._write_fd, b"x")


def run_child(name: str, job_type: type[JobT], main: Callable[[JobT, Stop], int]) -> None:
    """Read the job, run `main(job, stop)` and exit with the code that it returns, or with one for its error."""
    # Ctrl-C in a terminal reaches the whole process group; only the supervisor decides when children end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = Stop()
    signal.signal(signal.SIGTERM, lambda *_: stop.request())
    _watch_signals(stop)
    configure_logging()
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(EXIT_DONE)  # the supervisor was gone before it said what to do
    job = job_type.model_validate_json(line)
    threading.Thread(target=_watch_parent, args=(stop,), name="parent-watch", daemon=True).start()
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


def _watch_parent(stop: Stop) -> None:
    while os.read(0, 4096):
        pass
    stop.request()


def _leave_in_time(stop: Stop) -> None:
    stop.event.wait()
    threading.Event().wait(STOP_GRACE_S)
    os._exit(EXIT_FAILED)
