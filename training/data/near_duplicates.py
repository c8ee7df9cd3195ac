"""Near-duplicate clips: pictures compared by a hash of their coarse shape, which survives coding, scaling and light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import U8
from training.data.clips import Clips

PICTURES = 6
"""Of each clip, spread evenly."""
NEAR_BITS = 5
"""Of 64: pictures of one scene through two codecs differ by fewer, other scenes by about 30."""
FLAT = 6.0
"""Grey levels of spread under which a picture is too plain to tell from another."""
_BITS = np.array([bin(i).count("1") for i in range(256)], np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Twins:
    """Two clips, by index, that show nearly the same; `share` of the first one's pictures are in the second."""

    first: int
    second: int
    share: float


def picture_hash(picture: U8) -> U8 | None:
    """(h, w, 3) uint8 -> (8,) bytes: where it gets brighter to the right, on 8 x 9 fields; None for a plain one.

    The "difference hash" of N. Krawetz (2013).
    """
    grey = cv2.resize(picture, (9, 8), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=-1)
    if grey.std() < FLAT:
        return None
    return np.packbits(grey[:, 1:] > grey[:, :-1])


def clip_hashes(clips: Clips, indices: Sequence[int]) -> tuple[U8, npt.NDArray[np.int64]]:
    """((P, 8) hashes, (P,) which clip each is of)."""
    hashes, owners = [], []
    for index in indices:
        frames = clips.frames(index)
        for place in np.unique(np.linspace(0, len(frames) - 1, PICTURES).round().astype(int)):
            found = picture_hash(np.asarray(frames[place]))
            if found is not None:
                hashes.append(found)
                owners.append(index)
    return np.array(hashes, np.uint8).reshape(-1, 8), np.array(owners, np.int64)


def find_twins(
    first: Clips, second: Clips, *, first_indices: Sequence[int], second_indices: Sequence[int]
) -> list[Twins]:
    """Pairs of which at least half of one's pictures are in the other, the most alike first."""
    hashes, owners = clip_hashes(first, first_indices)
    others, other_owners = clip_hashes(second, second_indices)
    if not len(hashes) or not len(others):
        return []
    found = []
    for index in np.unique(owners):
        mine = hashes[owners == index]
        # (pictures, others): how many of 64 bits differ
        near = _BITS[mine[:, None] ^ others[None]].sum(axis=-1) <= NEAR_BITS
        for other in np.unique(other_owners[near.any(axis=0)]):
            share = float(near[:, other_owners == other].any(axis=1).mean())
            if share >= 0.5:
                found.append(Twins(first=int(index), second=int(other), share=share))
    return sorted(found, key=lambda twins: -twins.share)
