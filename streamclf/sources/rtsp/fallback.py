"""Remember the streams that this client does not support, so that FFmpeg's demuxer reads them instead."""

from __future__ import annotations

import time

from streamclf.errors import SourceError

MAX_AGE_S = 3600.0
"""After this, our own client tries again: cameras get new firmware and other settings."""
MAX_ENTRIES = 400


class UnsupportedStreamError(SourceError):
    """This client does not support the server or its video, but FFmpeg may. The text says why, in a few words.

    A server that sends something else than RTSP, or more than our limits, is refused instead: FFmpeg never sees it.
    """


class FallbackCache:
    """The URLs that this client does not support, each with the reason. Later attempts use FFmpeg at once."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[str, float]] = {}

    def add(self, url: str, reason: str) -> None:
        """Remember `url` for an hour."""
        self._entries.pop(url, None)
        while len(self._entries) >= MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        self._entries[url] = (reason, time.monotonic())

    def reason(self, url: str) -> str | None:
        """Return why our own client is not to try `url`; None if it may."""
        reason, since = self._entries.get(url, (None, 0.0))
        if reason is not None and time.monotonic() - since > MAX_AGE_S:
            del self._entries[url]
            return None
        return reason


FALLBACK_CACHE = FallbackCache()
"""One cache per process; a capture process reads one stream."""
