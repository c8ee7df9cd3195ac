"""Estimate how much disk the journal needs, from the streams' rates, and compare it with the free space."""

from __future__ import annotations

import os
from typing import Final

from engines.bundle import ModelSpec
from streamclf.config.service import ServiceConfig

PREDICTION_BYTES: Final = 630
"""One prediction of the built-in model in the journal's file, measured (docs/operations.md, Disk)."""
OTHER_BYTES_PER_S: Final = 110
"""Statuses of one stream in the journal's file, measured in the same run."""
_DAY_S: Final = 86400.0


def journal_bytes_per_day(config: ServiceConfig, spec: ModelSpec) -> float:
    """Return the bytes that the journal grows by in a day without retention, if all streams are live."""
    chunk_rate = spec.fps / spec.frames_per_chunk
    return sum((chunk_rate / s.hop * PREDICTION_BYTES + OTHER_BYTES_PER_S) * _DAY_S for s in config.streams.values())


def describe_disk(config: ServiceConfig, spec: ModelSpec) -> str:
    """Return one line: what the journal needs a day and in all, and what is free; a warning if that is too little."""
    publish = config.publish
    per_day = journal_bytes_per_day(config, spec)
    need = per_day * publish.keep / _DAY_S
    if publish.keep_size is not None and publish.keep_size < need:
        need = float(publish.keep_size)
        kept = f"keep_size limits it to {_size(need)}, about {_days(need / per_day)}"
    else:
        kept = f"keep={_days(publish.keep / _DAY_S)} needs {_size(need)}"
    text = f"journal: about {_size(per_day)} a day for {len(config.streams)} stream(s); {kept}"
    try:
        disk = os.statvfs(publish.journal.parent)
        present = publish.journal.stat().st_size if publish.journal.exists() else 0
    except OSError:
        return text
    free = disk.f_bavail * disk.f_frsize + present
    text += f"; free: {_size(free)}"
    if need > free:
        text += "; WARNING: the disk is too small; set publish.keep_size, a shorter publish.keep or a longer hop"
    return text


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _days(days: float) -> str:
    return f"{days:.3g}d" if days >= 1 else f"{days * 24:.2g}h"
