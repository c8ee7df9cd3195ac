"""Estimate how much disk the journal and the clips need, and compare it with the free space."""

from __future__ import annotations

import os
from typing import Final

from streamclf.config.clips import ClipsConfig
from streamclf.config.examples import ExamplesConfig
from streamclf.config.service import ServiceConfig
from streamclf.supervisor.checked_config import CheckedConfig

PREDICTION_BYTES: Final = 630
"""One prediction of the built-in model in the journal's file, measured (docs/operations.md, Disk)."""
OTHER_BYTES_PER_S: Final = 110
"""Statuses of one stream in the journal's file, measured in the same run."""
CLIP_BITS_PER_S: Final = 4e6
"""The rate of a usual camera with 1080p. A clip has the bytes that the camera sends."""
EXAMPLE_ACTION_S: Final = 10.0
_DAY_S: Final = 86400.0


def journal_bytes_per_day(checked: CheckedConfig) -> float:
    """Return the bytes that the journal grows by in a day without retention, if all streams are live."""
    predictions_per_s = sum(
        spec.fps / spec.frames_per_chunk / view.settings.hop
        for stream in checked.config.streams
        for view in checked.config.views_of(stream)
        for spec in (checked.bundles[model].spec for model in view.models)
    )
    return (predictions_per_s * PREDICTION_BYTES + len(checked.config.streams) * OTHER_BYTES_PER_S) * _DAY_S


def describe_disk(checked: CheckedConfig) -> str:
    """Return a line about the journal, and one each about clips and examples if there are any.

    A line says what is needed and what is free, with a warning if that is too little.
    """
    config = checked.config
    clips = "" if config.clips is None else f"\n{_describe_clips(config, config.clips)}"
    examples = "" if config.examples is None else f"\n{_describe_examples(len(config.streams), config.examples)}"
    return _describe_journal(checked) + clips + examples


def _describe_examples(count: int, examples: ExamplesConfig) -> str:
    return (
        f"examples: the last {examples.last_s:g} s of {count} stream(s) take up to {_size(count * examples.last_size)} "
        f"of memory (last_size); keep_size={_size(examples.keep_size)}"
    )


def _describe_clips(config: ServiceConfig, clips: ClipsConfig) -> str:
    count = sum(bool(config.actions_of(name).labels) for name in config.streams)
    if not count:
        return "clips: WARNING: no stream has actions, so there will be no clips; add actions"
    each = (clips.before_s + EXAMPLE_ACTION_S + clips.after_s) * CLIP_BITS_PER_S / 8
    text = (
        f"clips: an action of {EXAMPLE_ACTION_S:g} s takes about {_size(each)} (at 4 Mbit/s); "
        f"keep_size={_size(clips.keep_size)} holds {clips.keep_size / each:,.0f}; "
        f"memory: up to {_size(count * clips.before_size)} for {count} stream(s)"
    )
    folder = clips.folder if clips.folder.is_dir() else clips.folder.parent
    try:
        disk = os.statvfs(folder)
    except OSError:
        return text
    free = disk.f_bavail * disk.f_frsize
    text += f"; free: {_size(free)}"
    if free < clips.keep_size:
        text += "; older clips are removed before keep_size is reached, if this space gets short"
    return text


def _describe_journal(checked: CheckedConfig) -> str:
    config, publish = checked.config, checked.config.publish
    per_day = journal_bytes_per_day(checked)
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
