"""Servers that this client does not understand, so that FFmpeg's demuxer reads them instead."""

from __future__ import annotations

import time

from streamclf.errors import SourceError

FORGET_S = 3600.0
"""Cameras get new firmware, and other settings."""
MAX_KNOWN = 400


class UnsupportedStreamError(SourceError):
    """The server or its video is beyond this client; FFmpeg may know better. Its text says what, in a few words."""


class FallbackCache:
    """Which URLs were not understood, and why, so that each attempt after the first goes the right way at once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}

    def learn(self, url: str, why: str) -> None:
        """Remember for an hour."""
        self._known.pop(url, None)
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[url] = (why, time.monotonic())

    def recall(self, url: str) -> str | None:
        """Why `url` is not to be tried; None: it is."""
        why, since = self._known.get(url, (None, 0.0))
        if why is not None and time.monotonic() - since > FORGET_S:
            del self._known[url]
            return None
        return why


FALLBACK_CACHE = FallbackCache()
"""Of this process, which reads one stream."""
