"""Compute the windows of one batch with each model: submit them to its engine, and take their probabilities later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engines.arrays import F32
from streamclf.classifier.pending_chunk import FeatureKey, PendingChunk

if TYPE_CHECKING:
    from engines.protocol import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBatch:
    """Windows that one model computes, with the times in seconds."""

    model: str
    due: Sequence[PendingChunk]
    known: dict[int, F32]
    """By index in `due`: the probabilities of a window whose features were classified before."""
    fresh: Sequence[int]
    """Indices in `due` of the windows that the engine computes."""
    take_fresh: Callable[[], F32] | None
    encode_s: float
    """How long the encode took that completed the windows."""
    submit_s: float
    """How long the submission took; an engine that does not queue its work has computed the windows in it."""
    submitted_s: float
    """When it ended."""


class WindowResults:
    """Submit windows, and know the last result of each feed with each model.

    If a motion gate found nothing new in a window, its probabilities are those of the window before.
    """

    def __init__(self) -> None:
        self._last: dict[str, dict[str, tuple[FeatureKey, F32]]] = {}
        """By model, then by feed."""

    def clear(self) -> None:
        """Forget all results: other engines compute from now on."""
        self._last.clear()

    def forget_feed(self, feed: str) -> None:
        """Forget the results of a feed that is not served any more."""
        for last in self._last.values():
            last.pop(feed, None)

    def forget_model(self, model: str) -> None:
        """Forget the results of a model that does not serve any more, or that another engine computes from now on."""
        self._last.pop(model, None)

    def submit(
        self, model: str, engine: Engine, due: Sequence[PendingChunk], *, encode_s: float, clock: Callable[[], float]
    ) -> WindowBatch:
        """Begin to classify the windows that the chunks `due` complete."""
        began_s = clock()
        last = self._last.setdefault(model, {})
        known = {
            i: found[1]
            for i, pending in enumerate(due)
            if pending.features and (found := last.get(pending.feed)) and found[0] == pending.features
        }
        fresh = [i for i in range(len(due)) if i not in known]
        take = None
        if fresh:
            take = engine.submit(np.stack([window.slots for i in fresh if (window := due[i].window) is not None]))
        submitted_s = clock()
        return WindowBatch(
            model=model,
            due=due,
            known=known,
            fresh=fresh,
            take_fresh=take,
            encode_s=encode_s,
            submit_s=submitted_s - began_s,
            submitted_s=submitted_s,
        )

    def take(self, batch: WindowBatch) -> list[F32]:
        """Wait for the probabilities (K,) of each window of `batch`."""
        rows = dict(batch.known)
        if batch.take_fresh is not None:
            rows.update(zip(batch.fresh, batch.take_fresh(), strict=True))
        last = self._last.setdefault(batch.model, {})
        for i in batch.fresh:
            if features := batch.due[i].features:
                last[batch.due[i].feed] = (features, rows[i])
        return [rows[i] for i in range(len(batch.due))]
