"""End a command at Ctrl-C with one line and exit code 130, and never with a traceback.

SIGINT raises `Interrupted` in the main thread, so that files and processes are cleaned up on the way out. Commands that
run until Ctrl-C end in order instead, with exit code 0 (`streamclf.runtime.signals`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

from engines.printable import printable

EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells report it."""
CLEANUP_S: Final = 5
"""A command that still runs this long after the signal is ended: a library has caught the exception."""


class Interrupted(BaseException):
    """The user has pressed Ctrl-C. It is no `Exception`, so that the handling of errors does not catch it."""


class _State:
    """The name of the command, the text about its work so far, and whether SIGINT has come."""

    command = "streamclf"
    describe_work: Callable[[], str] = staticmethod(lambda: "")
    is_interrupted = False
    is_exiting = False


def catch_interrupts(command: str) -> None:
    """Raise `Interrupted` on SIGINT from now on, unless the process was started with SIGINT ignored."""
    _State.command = command
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    _exit_where_nothing_is_raised()
    signal.signal(signal.SIGINT, _interrupt)


def describe_work(describe: Callable[[], str]) -> None:
    """Set the function that describes what the command has done so far, for the line at Ctrl-C."""
    _State.describe_work = staticmethod(describe)


def is_interrupted() -> bool:
    """Return whether SIGINT has interrupted this process. Libraries may then raise any error, and not `Interrupted`."""
    return _State.is_interrupted


def exit_interrupted() -> NoReturn:
    """Print what was done in one line on stderr, and end the process with code 130."""
    work = ""
    with contextlib.suppress(Exception):  # the signal may have come at any moment
        work = _State.describe_work()
    text = printable(f"{_State.command}: interrupted{f'; {work}' if work else ''}")
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
    if (multiprocessing_util := sys.modules.get("multiprocessing.util")) and not _State.is_exiting:
        _State.is_exiting = True
        with contextlib.suppress(Exception):
            multiprocessing_util._exit_function()  # ends worker processes, and removes their semaphores
    os._exit(EXIT_INTERRUPTED)  # threads and exit handlers of libraries must not delay the end, or print their own


def _interrupt(*_: object) -> NoReturn:
    _State.is_interrupted = True
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process at once
    signal.signal(signal.SIGALRM, _exit_late)
    signal.setitimer(signal.ITIMER_REAL, CLEANUP_S, CLEANUP_S)
    for child in getattr(sys.modules.get("multiprocessing"), "active_children", list)():
        child.terminate()  # the clean-up would wait for the end of its present work
    raise Interrupted


def _exit_late(*_: object) -> None:
    if not _State.is_exiting:
        exit_interrupted()
    os._exit(EXIT_INTERRUPTED)


def _exit_where_nothing_is_raised() -> None:
    """End the process if the signal comes in a destructor or callback, where Python only prints the exception."""
    before = sys.unraisablehook

    def handle(args: Any) -> None:
        if _State.is_interrupted:
            exit_interrupted()
        before(args)

    sys.unraisablehook = handle
