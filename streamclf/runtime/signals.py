"""Turn Ctrl-C, SIGTERM and SIGHUP into requests, instead of exceptions in the middle of an operation."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stop_on_signals(request: Callable[[], None]) -> Iterator[None]:
    """Call `request` on SIGINT and SIGTERM while the context is open."""
    before = {number: signal.signal(number, lambda *_: request()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch_sigterm(handle: Callable[[], None]) -> None:
    """Call `handle` in a thread on SIGTERM, also while a library blocks the main thread, in which Python runs handlers.

    A handler of SIGTERM must be set as well. The main thread must call this, once in a process.
    """
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)

    def wait() -> None:
        while os.read(read_fd, 1) != bytes([signal.SIGTERM]):
            pass
        handle()

    threading.Thread(target=wait, name="signals", daemon=True).start()


@contextlib.contextmanager
def reload_on_hangup(reload: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    """Call `reload` on SIGHUP while the context is open, as daemons do.

    If the process had a terminal and the terminal was closed, call `stop` instead.
    """
    had_terminal = os.isatty(2)

    def hangup(*_: object) -> None:
        if had_terminal and not os.isatty(2):
            stop()
        else:
            reload()

    before = signal.signal(signal.SIGHUP, hangup)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Block SIGINT in this thread while the context is open: a process that it starts then begins with it blocked.

    Otherwise Ctrl-C, which reaches every process of a terminal, would interrupt the new one in the middle of an import,
    with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
