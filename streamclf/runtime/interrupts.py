"""End a command at Ctrl-C with one line and exit code 130, and never with a traceback; at SIGTERM likewise, with 143.

The signal raises `Interrupted` in the main thread, so that files and processes are cleaned up on the way out. Commands
that run until Ctrl-C end in order instead, with exit code 0 (`streamclf.runtime.signals`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from engines.printable import printable
from streamclf.runtime.signals import watch_sigterm

EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells report it."""
BLOCKED_S: Final = 1
"""A main thread that has not noticed SIGTERM for this long is blocked in a library. It may wait for another process."""
CLEANUP_S: Final = 5
"""A command that still runs this long after the signal is ended: a library has caught the exception."""


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM has come. It is no `Exception`, so that the handling of errors does not catch it."""


class _State:
    """The name of the command, the text about its work so far, the signal, and how the process ends."""

    command = "streamclf"
    describe_work: Callable[[], str] = staticmethod(lambda: "")
    signal: signal.Signals | None = None
    is_blocked = False
    is_exiting = False


def catch_interrupts(command: str, *, sigterm: bool = False) -> None:
    """Raise `Interrupted` on SIGINT from now on, and on SIGTERM if `sigterm`.

    A signal that the process was started to ignore stays ignored.
    """
    _State.command = command
    _exit_where_nothing_is_raised()
    for number in (signal.SIGINT, signal.SIGTERM) if sigterm else (signal.SIGINT,):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
            if number == signal.SIGTERM:
                watch_sigterm(_exit_blocked)


def describe_work(describe: Callable[[], str]) -> None:
    """Set the function that describes what the command has done so far, for the line at the end."""
    _State.describe_work = staticmethod(describe)


def is_interrupted() -> bool:
    """Return whether a signal has interrupted this process. Libraries may then raise any error, not `Interrupted`."""
    return _State.signal is not None


def exit_interrupted() -> NoReturn:
    """Print what was done in one line on stderr, and end the process with 128 plus the number of the signal."""
    number = _State.signal or signal.SIGINT
    work = ""
    with contextlib.suppress(Exception):  # the signal may have come at any moment
        work = _State.describe_work()
    how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    text = printable(f"{_State.command}: {how}{f'; {work}' if work else ''}")
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
    if (multiprocessing_util := sys.modules.get("multiprocessing.util")) and not _State.is_exiting:
        _State.is_exiting = True
        with contextlib.suppress(Exception):
            multiprocessing_util._exit_function()  # ends worker processes, and removes their semaphores
    os._exit(128 + number)  # threads and exit handlers of libraries must not delay the end, or print their own


def _interrupt(number: int, _: object) -> None:
    if is_interrupted():  # `timeout` sends SIGTERM twice, and torchrun sends it after Ctrl-C
        if _State.is_blocked:
            time.sleep(CLEANUP_S)  # `_exit_blocked` ends the process meanwhile
        return
    _State.signal = signal.Signals(number)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process at once
    signal.signal(signal.SIGALRM, _exit_late)
    signal.setitimer(signal.ITIMER_REAL, CLEANUP_S, CLEANUP_S)
    _terminate_children()
    raise Interrupted


def _terminate_children() -> None:
    """End the processes that work for this one: the clean-up would wait for the end of their present work."""
    for child in getattr(sys.modules.get("multiprocessing"), "active_children", list)():
        child.terminate()


def _exit_blocked() -> None:
    """End the process if the main thread has not noticed SIGTERM."""
    time.sleep(BLOCKED_S)
    if not is_interrupted():
        _State.is_blocked = True
        _State.signal = signal.SIGTERM
        _terminate_children()
        exit_interrupted()


def _exit_late(*_: object) -> None:
    if not _State.is_exiting:
        exit_interrupted()
    os._exit(128 + (_State.signal or signal.SIGINT))


def _exit_where_nothing_is_raised() -> None:
    """End the process if the signal comes in a destructor or callback, where Python only prints the exception."""
    before = sys.unraisablehook

    def handle(args: Any) -> None:
        if is_interrupted():
            exit_interrupted()
        before(args)

    sys.unraisablehook = handle
