"""Measure the memory of this process, and return memory that is free to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

_SPARE_BYTES: Final = 4 * 1024 * 1024


class FreeMemory:
    """Return the memory that a flood of messages or connections has left free to the system.

    glibc keeps free memory for this process until asked. libzmq frees the memory of a peer some time after the peer is
    gone, so the hub calls `give_back` again and again.
    """

    def __init__(self) -> None:
        self._least_bytes = resident_bytes()

    def give_back(self) -> None:
        """Return free memory if this process uses more than it ever did after an earlier call. Costs milliseconds."""
        used = resident_bytes()
        if used > self._least_bytes + _SPARE_BYTES:
            with contextlib.suppress(OSError, AttributeError):  # another C library
                ctypes.CDLL(None).malloc_trim(0)
            used = resident_bytes()
        self._least_bytes = min(self._least_bytes, used)


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not report it."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123 - called often
            return int(file.read(64).split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError, ValueError):
        return 0
