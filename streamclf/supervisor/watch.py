"""Which children have not kept the promise of a sign of life."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from streamclf.pulse import NS, PulseBoard

OVERSLEPT_NS = 3 * NS
GRACE_NS = 5 * NS


class Watch:
    """Looks at the promises about once a second.

    A judge that overslept judges nobody: when the machine was suspended, or the supervisor itself was stopped, every
    promise is overdue and no child is to blame. All get some time to be heard of again.
    """

    def __init__(self, board: PulseBoard, now_ns: int) -> None:
        self._board = board
        self._looked_ns = now_ns
        self._not_before_ns = now_ns

    def hung(self, lines: Iterable[tuple[str, int]], now_ns: int) -> Iterator[tuple[str, str]]:
        """(name, reason) of each child of `lines`, pairs of its name and its line of the board, that is overdue."""
        if now_ns - self._looked_ns > OVERSLEPT_NS:
            self._not_before_ns = now_ns + GRACE_NS
        self._looked_ns = now_ns
        if now_ns < self._not_before_ns:
            return
        for name, line in lines:
            promise = self._board.read(line)
            silence_s = promise.silence_s(now_ns)
            if silence_s is not None:
                yield name, f"hung: no sign of life for {silence_s:.1f} s while {promise.phase}"
