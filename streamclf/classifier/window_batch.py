"""Compute the windows of one batch: submit them to the engine, and take their probabilities later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engines.arrays import F32
from streamclf.classifier.feed import FeatureKey, PendingChunk

if TYPE_CHECKING:
    from engines.protocol import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBatch:
    """Windows that the engine computes, and the times of their batch in seconds."""

    due: Sequence[PendingChunk]
    known: dict[int, F32]
    """By index in `due`: the probabilities of a window whose features were classified before."""
    fresh: Sequence[int]
    """Indices in `due` of the windows that the engine computes."""
    take_fresh: Callable[[], F32] | None
    chunks: int
    collect_s: float
    encode_s: float
    submit_s: float
    """How long the submission took; an engine that does not queue its work has computed the windows in it."""
    submitted_s: float
    """When it ended."""


class WindowResults:
    """Submit windows, and know each stream's last result.

    If a motion gate found nothing new in a window, its probabilities are those of the window before.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[FeatureKey, F32]] = {}

    def clear(self) -> None:
        """Forget all results: another engine computes from now on."""
        self._last.clear()

    def forget(self, stream: str) -> None:
        """Forget the result of a stream that is not served any more."""
        self._last.pop(stream, None)

    def submit(
        self,
        engine: Engine,
        due: Sequence[PendingChunk],
        *,
        chunks: int,
        collect_s: float,
        encode_s: float,
        clock: Callable[[], float],
    ) -> WindowBatch:
        """Begin to classify the windows that the chunks `due` complete."""
        began_s = clock()
        known = {
            i: last[1]
            for i, pending in enumerate(due)
            if pending.features and (last := self._last.get(pending.stream)) and last[0] == pending.features
        }
        fresh = [i for i in range(len(due)) if i not in known]
        take = None
        if fresh:
            take = engine.submit(np.stack([window.slots for i in fresh if (window := due[i].window) is not None]))
        submitted_s = clock()
        return WindowBatch(
            due=due,
            known=known,
            fresh=fresh,
            take_fresh=take,
            chunks=chunks,
            collect_s=collect_s,
            encode_s=encode_s,
            submit_s=submitted_s - began_s,
            submitted_s=submitted_s,
        )

    def take(self, batch: WindowBatch) -> list[F32]:
        """Wait for the probabilities (K,) of each window of `batch`."""
        rows = dict(batch.known)
        if batch.take_fresh is not None:
            rows.update(zip(batch.fresh, batch.take_fresh(), strict=True))
        for i in batch.fresh:
            if features := batch.due[i].features:
                self._last[batch.due[i].stream] = (features, rows[i])
        return [rows[i] for i in range(len(batch.due))]
