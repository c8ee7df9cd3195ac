"""Choose the window of a taught bundle by which an engine is checked before it serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engines.arrays import F32, U8
from streamclf.teach.taught_head import TaughtHead, probabilities_of

CLEAR_LEAD: Final = 0.22
"""The smallest wanted lead of the best label's probability: slightly more than twice the tolerance of INT8."""


def choose_golden(taught: TaughtHead, candidates: Sequence[tuple[F32, U8]]) -> tuple[U8, F32]:
    """Return the pixels and the logits of the least certain window whose best label is clearly ahead.

    `candidates`: features (T, F) and pixels (T, t, H, W, 3). Wrong numbers would not be noticed with probabilities
    near 0 or 1. Where no window has a clear lead, it is the one with the largest.
    """
    ranked = []
    for number, (features, _) in enumerate(candidates):
        logits = taught.logits(features[None])
        second, best = sorted(probabilities_of(logits)[0])[-2:]
        is_clear = best - second >= CLEAR_LEAD
        ranked.append((not is_clear, best if is_clear else second - best, number, logits[0]))
    _, _, number, logits = min(ranked, key=lambda item: item[:3])
    return candidates[number][1], logits
