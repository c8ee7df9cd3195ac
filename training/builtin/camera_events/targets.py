"""Augmented training windows of synthetic footage, and the auxiliary targets of their chunks."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from engines.arrays import F32, U8
from training.builtin.camera_events.footage_cache import STATES

CHANGES = ("dx", "dy", "brightening")
"""The columns of `change_targets`, which the head predicts for each chunk: the change since the chunk before."""
THUMBNAIL = (6, 8)
"""Rows and columns of the thumbnail that the encoder's feature must contain."""
COVER_MAP = (3, 4)
"""Rows and columns of the map of the cover that the encoder's feature must contain."""
_UNKNOWN = np.float32(np.nan)


def chunk_targets(states: F32, frames_per_chunk: int) -> F32:
    """Turn states (T*t, 7) per frame into targets (T, 7) per chunk, within about -3..3; NaN where there is no target.

    Motion and brightening are the changes from a chunk's first frame to its last; the other columns are means. Shake
    has no meaning within one chunk, so it has no target.
    """
    chunks = states.reshape(-1, frames_per_chunk, len(STATES))
    change, mean = chunks[:, -1] - chunks[:, 0], chunks.mean(axis=1)
    out = np.empty((len(chunks), len(STATES)), np.float32)
    out[:, :3] = _compress_motion(change)
    out[:, 3] = np.log1p(mean[:, 3] * 300)
    out[:, 4] = np.log1p(mean[:, 4]) - 1
    out[:, 5] = mean[:, 5] * 2
    out[:, 6] = _UNKNOWN
    out[_hides_motion(mean), :2] = _UNKNOWN
    return out


def change_targets(states: F32, frames_per_chunk: int) -> F32:
    """Turn states (T*t, 7) per frame into targets (T, 3): the change since the chunk before.

    The change is from the last frame of the chunk before to the chunk's first frame; NaN where there is no target.
    """
    chunks = states.reshape(-1, frames_per_chunk, len(STATES))
    out = np.full((len(chunks), len(CHANGES)), _UNKNOWN, np.float32)
    out[1:] = _compress_motion(chunks[1:, 0] - chunks[:-1, -1])
    hidden = _hides_motion(chunks.mean(axis=1))
    out[1:][hidden[1:] | hidden[:-1], :2] = _UNKNOWN
    return out


def _hides_motion(means: F32) -> npt.NDArray[np.bool_]:
    """Tell for which of T chunks a cover or a strong blur hides the camera's motion, from states (T, 7)."""
    return (means[:, 5] > 0.4) | (means[:, 3] > 0.03)


def _compress_motion(change: F32) -> F32:
    """Turn changes (T, 7) into dx, dy and brightening (T, 3) within about -3..3.

    Two small frames show that a motion is large, but not how large; the square root compresses large values.
    """
    motion = np.sign(change[:, :2]) * np.sqrt(np.abs(change[:, :2]) * 30)
    return np.concatenate([motion, np.clip(change[:, 2:3] * 2, -3, 3)], axis=1)


def augment(rng: np.random.Generator, frames: U8, states: F32, covers: F32) -> tuple[U8, F32, F32]:
    """Augment a window (F, H, W, 3): mirror, reverse, permute channels, change the tone curve, remove colour.

    The states (F, 7) and the maps of the cover (F, 3, 4) are mirrored and reversed alike.
    """
    states = states.copy()
    levels = np.arange(256, dtype=np.float32) / 255
    tone = levels ** np.exp(rng.normal(0, 0.25)) * rng.uniform(0.75, 1.2) + rng.normal(0, 0.03)
    # All frames below each other are one image for OpenCV, which copies pixels much faster than NumPy.
    image = frames.reshape(-1, *frames.shape[2:])
    image = np.asarray(cv2.LUT(image, np.clip(tone * 255, 0, 255).astype(np.uint8)), np.uint8)
    if rng.random() < 0.5:
        image, states[:, 0] = np.asarray(cv2.flip(image, 1), np.uint8), -states[:, 0]
        covers = covers[:, :, ::-1]
    if rng.random() < 0.3:
        planes = cv2.split(image)
        image = np.asarray(cv2.merge([planes[channel] for channel in rng.permutation(3)]), np.uint8)
    if rng.random() < 0.1:
        image = np.asarray(cv2.merge([cv2.transform(image, np.full((1, 3), 1 / 3))] * 3), np.uint8)
    frames = image.reshape(frames.shape)
    if rng.random() < 0.15:
        frames, states[:, 1], covers = frames[:, ::-1], -states[:, 1], covers[:, ::-1]
    if rng.random() < 0.3:
        frames, states, covers = frames[::-1], states[::-1], covers[::-1]
    return frames, states, covers


def thumbnails(chunks: U8) -> F32:
    """Scale the first frame of each chunk: (T, t, H, W, 3) -> (T, 48), 6 x 8 grey values in about -2..2.

    A change between two chunks, such as a light that is switched or a knock, is inside neither of them. The head can
    see it only if each feature contains roughly what its chunk looked like.
    """
    rows, columns = THUMBNAIL
    small = [cv2.resize(chunk[0], (columns, rows), interpolation=cv2.INTER_AREA) for chunk in chunks]
    grey = np.stack(small).astype(np.float32).mean(axis=-1)
    return np.asarray((grey.reshape(len(chunks), -1) - 127.5) / 64, np.float32)


def training_window(
    rng: np.random.Generator, frames: U8, states: F32, covers: F32, frames_per_chunk: int
) -> tuple[U8, F32]:
    """Augment a window (F, H, W, 3) with states (F, 7) and maps of the cover (F, 3, 4), NaN where unknown.

    Returns the window as the model takes it, (T, t, H, W, 3) uint8, and the auxiliary targets of its chunks (T, 70):
    7 of the chunk, 48 of the thumbnail, 12 of the map, 3 changes.
    """
    frames, states, covers = augment(rng, frames, states, covers)
    chunks = np.ascontiguousarray(frames.reshape(-1, frames_per_chunk, *frames.shape[1:]))
    maps = covers.reshape(len(chunks), frames_per_chunk, -1).mean(axis=1) * 2
    of_chunks, changes = chunk_targets(states, frames_per_chunk), change_targets(states, frames_per_chunk)
    return chunks, np.concatenate([of_chunks, thumbnails(chunks), maps, changes], axis=1, dtype=np.float32)
