"""Find near-duplicate clips by comparing hashes of their frames; the hash survives coding, scaling and brightness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import U8
from training.data.clips import Clips

HASHED_FRAMES = 6
"""How many frames of each clip are hashed; they are spread evenly over the clip."""
NEAR_BITS = 5
"""The largest difference, in bits of 64, between near-duplicate frames.

Frames of one scene through two codecs differ by fewer bits, frames of different scenes by about 30.
"""
MIN_CONTRAST = 6.0
"""The smallest standard deviation, in grey levels, at which a frame has enough contrast to be compared."""
_BIT_COUNTS = np.array([bin(i).count("1") for i in range(256)], np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicate:
    """Two clips, by index, that look nearly the same; `share` of the first one's frames are in the second one."""

    first: int
    second: int
    share: float


def frame_hash(frame: U8) -> U8 | None:
    """Hash a frame (h, w, 3) uint8 into (8,) bytes; None for a frame without contrast.

    Each bit says whether one of 8 x 8 fields is brighter than its left neighbour: the "difference hash" of
    N. Krawetz (2013).
    """
    grey = cv2.resize(frame, (9, 8), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=-1)
    if grey.std() < MIN_CONTRAST:
        return None
    return np.packbits(grey[:, 1:] > grey[:, :-1])


def clip_hashes(clips: Clips, indices: Sequence[int]) -> tuple[U8, npt.NDArray[np.int64]]:
    """Hash some frames of each clip: ((P, 8) hashes, (P,) index of each hash's clip)."""
    hashes, owners = [], []
    for index in indices:
        frames = clips.frames(index)
        for place in np.unique(np.linspace(0, len(frames) - 1, HASHED_FRAMES).round().astype(int)):
            found = frame_hash(np.asarray(frames[place]))
            if found is not None:
                hashes.append(found)
                owners.append(index)
    return np.array(hashes, np.uint8).reshape(-1, 8), np.array(owners, np.int64)


def find_near_duplicates(
    first: Clips, second: Clips, *, first_indices: Sequence[int], second_indices: Sequence[int]
) -> list[NearDuplicate]:
    """Find the pairs in which at least half of the first clip's frames are in the second; most similar pairs first."""
    hashes, owners = clip_hashes(first, first_indices)
    others, other_owners = clip_hashes(second, second_indices)
    if not len(hashes) or not len(others):
        return []
    found = []
    for index in np.unique(owners):
        own = hashes[owners == index]
        # (frames, others): how many of 64 bits differ
        near = _BIT_COUNTS[own[:, None] ^ others[None]].sum(axis=-1) <= NEAR_BITS
        for other in np.unique(other_owners[near.any(axis=0)]):
            share = float(near[:, other_owners == other].any(axis=1).mean())
            if share >= 0.5:
                found.append(NearDuplicate(first=int(index), second=int(other), share=share))
    return sorted(found, key=lambda pair: -pair.share)
