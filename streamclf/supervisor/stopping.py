"""Stop the processes of a service in the order in which events pass through them, so that none is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from streamclf.supervisor.child import Child

STOP_S: Final = 0.6
"""Time of each stage: captures end first, then the classifier with their last chunks, then the hub with all events.

That is 2 s together.
"""
OUTLET_STOP_S: Final = 1.0
"""Outlets end before the hub, with the events of all others; only a service with outlets needs this time."""
OUTLET_FINISH_S: Final = 10.0
"""When all streams have ended by themselves, longest time for the outlets to hand on the last events."""
_POLL_S: Final = 0.05


def stop_children(children: Sequence[Child], limit_s: float = STOP_S) -> None:
    """Ask the children to stop, and kill those that have not ended within `limit_s`."""
    for child in children:
        child.request_stop()
    deadline = time.monotonic() + limit_s
    for child in children:
        child.join(deadline)


def wait_until_finished(children: Sequence[Child], is_hurried: Callable[[], bool]) -> None:
    """Wait until the outlets have ended by themselves, for at most `OUTLET_FINISH_S` or until `is_hurried`."""
    deadline = time.monotonic() + OUTLET_FINISH_S
    while any(child.running for child in children) and time.monotonic() < deadline and not is_hurried():
        time.sleep(_POLL_S)
