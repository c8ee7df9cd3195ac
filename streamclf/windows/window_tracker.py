"""Find the windows among the chunks of a stream. Pure."""

from __future__ import annotations


class WindowTracker:
    """Detect when `chunks` consecutive chunks of one segment make a window, every `hop` chunks.

    Windows of a segment end at its chunks `chunks - 1`, `chunks - 1 + hop`, ... Dropped chunks do not shift them, so
    live and offline classification produce the same windows. A window that lacks a chunk does not exist. `phase` shifts
    all windows of a segment by that many chunks.
    """

    def __init__(self, chunks: int, hop: int = 1) -> None:
        if chunks < 1 or hop < 1:
            raise ValueError(f"chunks={chunks}, hop={hop}: both at least 1")
        self._chunks = chunks
        self.hop = hop
        """May be changed at any time, like `phase`; the next windows follow the new values."""
        self.phase = 0
        self._last: tuple[int, int] | None = None
        self.run = 0
        """Number of the latest chunks that follow each other in one segment."""

    def push(self, segment: int, index: int) -> range | None:
        """Add the next chunk. Returns the chunk indices, in its segment, of the window that it completes, if any."""
        self.run = self.run + 1 if self._last == (segment, index - 1) else 1
        self._last = (segment, index)
        first = index - self._chunks + 1
        if self.run < self._chunks or (first - self.phase) % self.hop:
            return None
        return range(first, index + 1)

    def chunks_until_window(self) -> int:
        """Return how many further chunks complete the next window, if no chunk is missing; 1 if that is unknown."""
        if self._last is None:
            return 1
        need = max(1, self._chunks - self.run)
        first = self._last[1] + need - self._chunks + 1
        return need + (self.phase - first) % self.hop

    def skip(self) -> None:
        """Record that the next chunk is missing."""
        self._last, self.run = None, 0

    def needs(self, segment: int, index: int) -> bool:
        """Return whether a window may contain the next chunk.

        No window contains a chunk that lies between two windows, or in a window that already lacks another chunk.
        """
        into = (index - self.phase) % self.hop  # chunks between the beginning of the last window and this one
        run = self.run if self._last == (segment, index - 1) else 0
        return into < self._chunks and into <= run
