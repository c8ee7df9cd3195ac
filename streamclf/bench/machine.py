"""Describe the machine on which figures are measured."""

from __future__ import annotations

import os
import platform
from typing import Any

from engines.backends.cores import usable_cores


def describe_machine() -> dict[str, Any]:
    """Return cores, architecture, system, Python and the load average over the last minute, ready for JSON."""
    return {
        "cores": usable_cores(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_1_min": float(f"{os.getloadavg()[0]:.4g}"),
    }
