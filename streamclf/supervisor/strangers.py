"""As process 1 of a container: bury the processes that others left behind, or they stay as zombies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection


def reap_strangers(ours: Collection[int | None]) -> int:
    """Reap ended processes that we did not start; how many. Nothing to do unless we are process 1.

    Our own are left to those who wait for them; one of these in front hides strangers until the next call.
    """
    reaped = 0
    if os.getpid() != 1 or not hasattr(os, "waitid"):
        return reaped
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in ours:
                break
            os.waitpid(ended.si_pid, os.WNOHANG)
            reaped += 1
    return reaped
