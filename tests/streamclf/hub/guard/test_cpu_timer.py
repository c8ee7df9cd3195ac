"""Test the timer that counts the processor time of the process."""

from __future__ import annotations

import select
import sys
import threading
import time
from collections.abc import Callable

import pytest

from streamclf.hub.guard.cpu_timer import CpuTimer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such timers with a descriptor")


def run_in_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread of its own: the timer blocks a signal in the thread that makes it."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_timer_expires_each_time_its_processor_time_was_used() -> None:
    expired: list[bool] = []
    used_s: list[float] = []

    def wait() -> None:
        timer = CpuTimer(0.005)
        poll = select.poll()
        poll.register(timer, select.POLLIN)
        began_s = time.process_time()
        for _ in range(3):
            end = time.monotonic() + 30
            while not poll.poll(0) and time.monotonic() < end:
                pass
            expired.append(timer.clear())
        used_s.append(time.process_time() - began_s)
        timer.close()

    run_in_thread(wait)
    assert expired == [True, True, True]
    assert used_s[0] >= 0.015


def test_timer_does_not_expire_early() -> None:
    expired: list[bool] = []

    def wait() -> None:
        timer = CpuTimer(1000.0)
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        expired.append(timer.clear())
        timer.close()

    run_in_thread(wait)
    assert expired == [False]
