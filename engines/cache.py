"""Where compiled engines are kept: one private directory for each combination of everything that invalidates them."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path


def cache_root() -> Path:
    """`$STREAMCLF_CACHE`, else the platform's cache directory."""
    if explicit := os.environ.get("STREAMCLF_CACHE"):
        return Path(explicit)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "streamclf"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamclf"


def engine_directory(key: Mapping[str, str | int]) -> Path | None:
    """The directory of the engines compiled under `key`, made with mode 0700; None where none can be written.

    A compiled engine is executable code, so a directory that other users may write to is not used.
    """
    name = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:32]
    path = cache_root() / "engines" / name
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError:
        return None
    if status.st_mode & 0o022 or status.st_uid != os.getuid() or not os.access(path, os.W_OK):
        return None
    return path
