"""Remove old clips: by age, by the size of all clips together, and when the disk is nearly full.

Every capture process has a `ClipRetention` for the same folder, and one of them works at a time: the process that holds
the lock, until it ends. So clips of removed streams expire too. Starred clips are never removed, and their size does
not count.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import groupby
from typing import Final

from streamclf.clips.folder import ClipFolder, MissingClipError, StarredClipError, StoredClip
from streamclf.errors import ClipError
from streamclf.runtime.file_lock import open_locked

INTERVAL_S: Final = 30.0
MAX_REMOVED: Final = 500
"""Clips that one run removes at most. The next run removes more."""
MAX_DAYS_READ: Final = 500
"""Folders of a day that one run reads at most. A folder is not read again until its files change."""
UNFINISHED_S: Final = 86400.0
"""Age at which an unfinished film is removed. The process of its stream, if there is one, recovers it much earlier."""
SETTLED_S: Final = 120.0
"""A clip that changed less than this time ago may still get its pictures, so it is kept."""
REREAD_S: Final = 6 * 3600.0
"""Age at which a folder's content is read again though nothing has changed: unfinished films get old."""
MAX_RESERVE_BYTES: Final = 10**9
_LOCK_NAME: Final = ".retention.lock"
_DAY_S: Final = 86400.0
_TICK_NS: Final = 2_000_000_000
"""Within this time after a change, another change may leave the time of a folder as it was."""

log = logging.getLogger(__name__)


def reserve_bytes(folder: ClipFolder) -> int:
    """Return the free space that clips leave to the journal: a tenth of the disk, at most 1 GB. Raises `ClipError`."""
    return min(MAX_RESERVE_BYTES, folder.disk_bytes()[0] // 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Day:
    """The clips without a star in a folder, when it was read."""

    changed_ns: int
    read_s: float
    bytes: int
    oldest_s: float
    """When the oldest clip began."""


class ClipRetention:
    """Remove clips of all streams of a folder, oldest first. Not thread-safe."""

    def __init__(self, folder: ClipFolder, *, keep_s: float, keep_bytes: int) -> None:
        self._folder, self._keep_s, self._keep_bytes = folder, keep_s, keep_bytes
        self._lock: int | None = None
        self._due_s = time.monotonic() + INTERVAL_S  # processes that start recover unfinished films first
        self._days: dict[tuple[str, str], _Day] = {}
        self._fault: ClipError | None = None
        """The last failure of the current run."""
        self._last_fault = ""
        self.removed = 0
        """Clips that this process has removed."""

    def close(self) -> None:
        """Let another process do the work."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def run_if_due(self) -> None:
        """Remove clips if the last run was half a minute ago or more. Log what was removed, and what failed."""
        if time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + INTERVAL_S
        try:
            self.run(time.time())
        except ClipError as error:
            if str(error) != self._last_fault:  # one line, not one every half minute
                log.warning("old clips cannot be removed: %s", error)
            self._last_fault = str(error)
        else:
            self._last_fault = ""

    def run(self, now_s: float) -> int:
        """Remove at most 500 clips; return how many. Another process may do the work instead.

        Raises `ClipError` after the work if some clips could not be read or removed.
        """
        if not self._folder.root.is_dir() or not self._has_lock():
            return 0
        self._fault = None
        self._read_sizes(now_s)
        run = _Run()
        for key in self._days:
            if self._days[key].oldest_s < now_s - self._keep_s:
                expired = [clip for clip in self._removable([key], now_s) if _began_s(clip) < now_s - self._keep_s]
                self._remove(expired, run, "age", math.inf)
        self._remove(self._oldest_first(now_s), run, "size", self._used_bytes() - self._keep_bytes)
        # Writers stop at the reserve, so removing begins before that.
        self._remove(self._oldest_first(now_s), run, "full disk", self._shortage_bytes())
        self.removed += run.count
        if run.count:
            log.info("%d old clips removed, %.1f MB (%s)", run.count, run.bytes / 1e6, run.causes())
        if self._fault is not None:
            raise self._fault
        return run.count

    def _has_lock(self) -> bool:
        if self._lock is None:
            try:
                self._lock = open_locked(self._folder.root / _LOCK_NAME, os.O_NOFOLLOW)
            except OSError as error:
                raise ClipError(f"{self._folder.root / _LOCK_NAME}: {error.strerror}; check its permissions") from error
        return self._lock is not None

    def _read_sizes(self, now_s: float) -> None:
        """Read the folders that have changed. Remove unfinished films and empty folders on the way."""
        known, self._days = self._days, {}
        reads = 0
        yesterday = f"{datetime.fromtimestamp(now_s - _DAY_S, timezone.utc):%Y-%m-%d}"
        for day, stream in self._folder.days():
            before = known.get((day, stream))
            try:
                changed_ns = self._folder.changed_ns(day, stream)
                is_known = before is not None and before.changed_ns == changed_ns and now_s < before.read_s + REREAD_S
                if before is not None and (is_known or reads >= MAX_DAYS_READ):
                    self._days[day, stream] = before
                elif reads < MAX_DAYS_READ:
                    reads += 1
                    self._folder.remove_unfinished(day, stream, now_s - UNFINISHED_S)
                    if day < yesterday:  # no process is about to write into it
                        self._folder.remove_empty(day, stream)
                    self._days[day, stream] = self._read(day, stream, changed_ns or 0, now_s)
            except ClipError as error:
                self._fault = error

    def _read(self, day: str, stream: str, changed_ns: int, now_s: float) -> _Day:
        clips = [clip for clip in self._folder.clips_of_day(day, stream) if not clip.is_starred]
        return _Day(
            changed_ns=changed_ns if now_s * 1e9 - changed_ns > _TICK_NS else 0,
            read_s=now_s,
            bytes=sum(clip.bytes for clip in clips),
            oldest_s=min((_began_s(clip) for clip in clips), default=math.inf),
        )

    def _oldest_first(self, now_s: float) -> Iterator[StoredClip]:
        """Yield the clips of all streams that may be removed; read one day at a time."""
        for _, keys in groupby(self._days, key=lambda key: key[0]):
            yield from self._removable(list(keys), now_s)

    def _removable(self, keys: list[tuple[str, str]], now_s: float) -> list[StoredClip]:
        """Return the clips in some folders, without those that are starred or may still get their pictures."""
        clips = (clip for key in keys for clip in self._clips_of_day(*key))
        chosen = (clip for clip in clips if not clip.is_starred and not 0 <= now_s - clip.modified_s < SETTLED_S)
        return sorted(chosen, key=lambda clip: clip.name)

    def _clips_of_day(self, day: str, stream: str) -> list[StoredClip]:
        try:
            return self._folder.clips_of_day(day, stream)
        except ClipError as error:
            self._fault = error
            return []

    def _remove(self, clips: Iterable[StoredClip], run: _Run, cause: str, target_bytes: float) -> None:
        """Remove clips until `target_bytes` are free, or the run has removed as many as it may."""
        if target_bytes <= 0:
            return
        freed = 0
        for clip in clips:
            if run.count >= MAX_REMOVED:
                break
            try:
                self._folder.delete(clip.name.film)
            except (MissingClipError, StarredClipError):  # deleted or starred meanwhile
                continue
            except ClipError as error:
                self._fault = error
                continue
            run.add(cause, clip)
            freed += clip.bytes
            key = clip.name.day, clip.name.stream
            self._days[key] = replace(self._days[key], bytes=self._days[key].bytes - clip.bytes, changed_ns=0)
            if freed >= target_bytes:
                break

    def _used_bytes(self) -> int:
        return sum(day.bytes for day in self._days.values())

    def _shortage_bytes(self) -> int:
        return reserve_bytes(self._folder) * 3 // 2 - self._folder.disk_bytes()[1]


class _Run:
    """Count what one run removes."""

    def __init__(self) -> None:
        self.count = self.bytes = 0
        self._by_cause: Counter[str] = Counter()

    def add(self, cause: str, clip: StoredClip) -> None:
        """Count a clip that was removed."""
        self.count += 1
        self.bytes += clip.bytes
        self._by_cause[cause] += 1

    def causes(self) -> str:
        """Return how many clips each cause has removed, as text."""
        return ", ".join(f"{cause}: {count}" for cause, count in self._by_cause.items())


def _began_s(clip: StoredClip) -> float:
    began_s = clip.name.began_s
    return clip.modified_s if began_s is None else began_s
