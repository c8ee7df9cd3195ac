"""Make the options of outlets for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamclf.config.outlet_options import LogConfig


def log_of_everything(path: str | Path, **more: Any) -> LogConfig:
    """Return the options of a log of all events, also of predictions."""
    return LogConfig(file=Path(path), types=("prediction", "action", "status"), **more)
