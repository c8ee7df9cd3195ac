"""Decide when a child that has ended by itself starts again, and describe why it ended."""

from __future__ import annotations

import logging

from streamclf.runtime.child import EXIT_OUT_OF_MEMORY
from streamclf.supervisor.child import Child
from streamclf.supervisor.machine_limits import memory_reason

log = logging.getLogger("service")


def end_reason(child: Child, code: int) -> str:
    """Say why a child has ended with `code`."""
    if code == EXIT_OUT_OF_MEMORY and child.job and child.job.memory_limit:
        return memory_reason(child.job.memory_limit)
    return child.kill_reason or (f"signal {-code}" if code < 0 else f"exit code {code}")


def park(child: Child, reason: str, *, others: str = "") -> float:
    """Stop restarting a child for a while, and log it; return the seconds until its next start."""
    delay_s = child.park()
    text = f"parked for {delay_s:.0f} s" + (f"; {others}" if others else "")
    log.error("%s: %s; %s", child.name, reason, text, extra=child.log_fields)
    return delay_s
