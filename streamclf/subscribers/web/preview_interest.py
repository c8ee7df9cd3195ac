"""Choose the streams whose previews the page requests: a capture process decodes more frames for a preview."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Final

STILL_EVERY_S: Final = 5.0
"""A stream that a browser shows only after scrolling gets a picture this often."""
_STILL_WAIT_S: Final = 2.0
"""Wait this long for a still; a stream that is not live sends none."""
_MAX_STILLS: Final = 4
"""Streams of which a still is requested at the same time."""


class PreviewInterest:
    """The streams that each browser shows now, and those of which it needs a still now and then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[object, frozenset[str]] = {}
        self._stills: dict[object, frozenset[str]] = {}
        self._pending: dict[str, float] = {}
        """Streams of which a still is requested now, and since when."""
        self._still_at_s: dict[str, float] = {}

    @property
    def is_watched(self) -> bool:
        """Whether a browser shows a stream, or a still is requested now."""
        return bool(self._pending) or any(self._seen.values())

    def set(self, owner: object, *, seen: Collection[str], stills: Collection[str] = ()) -> None:
        """Set the streams that `owner` shows, and those of which it needs stills."""
        with self._lock:
            self._seen[owner], self._stills[owner] = frozenset(seen), frozenset(stills)

    def remove(self, owner: object) -> None:
        """Forget an owner."""
        with self._lock:
            self._seen.pop(owner, None)
            self._stills.pop(owner, None)

    def note_picture(self, stream: str, now_s: float) -> None:
        """Note that a picture of the stream has arrived at monotonic `now_s`."""
        with self._lock:
            self._still_at_s[stream] = now_s
            self._pending.pop(stream, None)

    def choose(self, known: Collection[str], now_s: float) -> frozenset[str]:
        """Return the streams to request at monotonic `now_s`, of those that the service has."""
        with self._lock:
            seen = frozenset().union(*self._seen.values()).intersection(known)
            wanted = frozenset().union(*self._stills.values()).intersection(known) - seen
            self._still_at_s = {name: at_s for name, at_s in self._still_at_s.items() if name in known}
            for name, since_s in list(self._pending.items()):
                if name not in wanted:
                    del self._pending[name]
                elif now_s - since_s > _STILL_WAIT_S:
                    del self._pending[name]
                    self._still_at_s[name] = now_s
            due = [name for name in wanted if now_s - self._still_at_s.get(name, -STILL_EVERY_S) >= STILL_EVERY_S]
            due.sort(key=lambda name: self._still_at_s.get(name, 0.0))
            for name in due:
                if len(self._pending) >= _MAX_STILLS:
                    break
                self._pending.setdefault(name, now_s)
            return seen.union(self._pending)
