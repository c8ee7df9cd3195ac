"""Wake a thread each time this process has used a given amount of processor time. Linux only.

POSIX timers can count processor time, and cost nothing while the process is idle. So the cost of a guarding thread is
proportional to the work of the process. A thread that checks at fixed intervals would also run while the process is
idle. The kernel checks such a timer at its scheduler's tick (every 1 to 10 ms), while a thread of the process runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import threading
from typing import Final

from streamclf.units import NS

_SIGNAL: Final = signal.SIGRTMIN + 5 if hasattr(signal, "SIGRTMIN") else 0
_PROCESS_CPU: Final = 2
"""CLOCK_PROCESS_CPUTIME_ID (linux/time.h)."""
_TO_THREAD: Final = 4
"""SIGEV_THREAD_ID (asm-generic/siginfo.h)."""
_EVENT: Final = struct.Struct("@Piii44x")
"""`struct sigevent`: value, signal, notification kind, thread; 64 bytes."""
_SPEC: Final = struct.Struct("@llll")
"""`struct itimerspec`: interval and first expiry, each in seconds and nanoseconds."""
_SIGSET_BYTES: Final = 128
_INFO_BYTES: Final = 128
"""`struct signalfd_siginfo` (linux/signalfd.h)."""
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)


class CpuTimer:
    """A timer that expires each time this process has used `every_s` seconds of processor time.

    One thread makes it, waits for it and closes it; the kernel sends the signal to that thread, which never handles it
    (it reads the signal from a descriptor). Raises `OSError` where the system has no such timers.
    """

    def __init__(self, every_s: float) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {_SIGNAL})
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        self._fd = self._open_signals()
        try:
            self._start(every_s)
        except BaseException:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """Return a descriptor that is readable, in the making thread, after the timer has expired until `clear`."""
        return self._fd

    def clear(self) -> bool:
        """Return whether the timer has expired since the last call."""
        try:
            return bool(os.read(self._fd, _INFO_BYTES))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Stop the timer."""
        self._libc.timer_delete(self._timer)
        self.clear()
        os.close(self._fd)

    def _open_signals(self) -> int:
        wanted = bytearray(_SIGSET_BYTES)
        wanted[(_SIGNAL - 1) // 8] = 1 << (_SIGNAL - 1) % 8
        return self._call("signalfd", -1, bytes(wanted), _NONBLOCK_CLOEXEC)

    def _start(self, every_s: float) -> None:
        event = _EVENT.pack(0, _SIGNAL, _TO_THREAD, threading.get_native_id())
        self._call("timer_create", _PROCESS_CPU, event, ctypes.byref(self._timer))
        seconds, nanoseconds = divmod(round(every_s * NS), NS)
        try:
            spec = _SPEC.pack(seconds, nanoseconds, seconds, nanoseconds)
            self._call("timer_settime", self._timer, 0, spec, None)
        except BaseException:
            self._libc.timer_delete(self._timer)
            raise

    def _call(self, name: str, *arguments: object) -> int:
        try:
            function = getattr(self._libc, name)
        except AttributeError:
            raise OSError(f"{name}: this C library has none") from None
        result = int(function(*arguments))
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")
        return result
