"""Encode the parts of composed streams once: each clip, the time before and after it, and ordinary film."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from engines.arrays import F32, U8
from training.builtin.gestures.streams import Footage, Rng, after_shape, before_shape
from training.data.augment import AugmentParams, AugmentRecipe
from training.data.shape import Shape

VERSION: Final = 1
"""Raise this number when the encoded parts change; the names of their files depend on it."""
AROUND_S: Final = 3.0
"""Seconds that are composed before and after a shape: the hand moves for at most 2 s, and is not there in the rest."""
REST_S: Final = 1.0
_ENCODE_BATCH: Final = 32

Features = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedScene:
    """The features (n, F) of a clip's parts.

    Before the shape, the hand comes (`enter`) or rests (`rest`). `middle` is the clip, with `rate` overlapping chunks a
    second; the shape ends in its chunk `last`. After the shape, the hand rests (`held`), goes (`leave`), or moves back
    quickly and then goes (`back`). `whole` is the clip stretched to a window.
    """

    label: str
    rate: float
    last: int
    enter: F32
    rest: F32
    middle: F32
    held: F32
    leave: F32
    back: F32
    whole: F32


class SceneEncoder:
    """Encode clips as they look through another camera."""

    def __init__(
        self, encoder: torch.nn.Module, shape: Shape, augment: AugmentRecipe, *, span: tuple[float, float]
    ) -> None:
        self._encoder, self._shape, self._augment, self._span = encoder, shape, augment, span

    def encode_clip(self, rng: Rng, clip: Footage) -> Features:
        """Return the features of all parts, one after the other, as `split_scene` expects them."""
        shape = self._shape
        around, rest = (round(seconds * shape.fps) for seconds in (AROUND_S, REST_S))
        params = AugmentParams.sample(rng, self._augment, clip.frames)
        parts = [
            before_shape(rng, clip, "enter", around, shape.fps),
            before_shape(rng, clip, "rest", rest, shape.fps),
            after_shape(rng, clip, "rest", rest, shape.fps),
            after_shape(rng, clip, "leave", around, shape.fps),
            after_shape(rng, clip, "return", around, shape.fps),
            self._stretched(rng, clip.frames),
        ]
        images = np.concatenate([*parts, clip.frames[:: self._stride(clip)]])
        seen = params.apply(rng, images, shape.height, shape.width)
        fixed = sum(map(len, parts))
        middle = seen[fixed:]
        step = round(clip.rate / self._stride(clip) / shape.fps)
        chunks = np.arange(len(middle))[:, None] + step * np.arange(shape.frames_per_chunk)
        return self._encode(
            np.concatenate(
                [
                    seen[:fixed].reshape(-1, shape.frames_per_chunk, *seen.shape[1:]),
                    middle[np.minimum(chunks, len(middle) - 1)],
                ]
            )
        )

    def encode_film(self, rng: Rng, film: Footage) -> Features:
        """Return the features of a film's chunks."""
        shape = self._shape
        images = film.frames[np.arange(0, len(film.frames) - 0.5, film.rate / shape.fps).astype(np.int64)]
        images = images[: len(images) // shape.frames_per_chunk * shape.frames_per_chunk]
        seen = AugmentParams.sample(rng, self._augment, images).apply(rng, images, shape.height, shape.width)
        return self._encode(seen.reshape(-1, shape.frames_per_chunk, *seen.shape[1:]))

    def split_scene(self, features: Features, clip: Footage) -> EncodedScene:
        """Name the parts of `encode_clip`'s features."""
        shape = self._shape
        chunk_s = shape.frames_per_chunk / shape.fps
        around, rest = round(AROUND_S / chunk_s), round(REST_S / chunk_s)
        cuts = np.cumsum([around, rest, rest, around, around, shape.chunks])
        enter, resting, held, leave, back, whole, middle = np.split(features.astype(np.float32), cuts)
        rate = clip.rate / self._stride(clip)
        return EncodedScene(
            label=clip.label,
            rate=rate,
            last=min(round(clip.last / self._stride(clip)), len(middle) - 1),
            enter=enter,
            rest=resting,
            middle=middle,
            held=held,
            leave=leave,
            back=back,
            whole=whole,
        )

    def _stride(self, clip: Footage) -> int:
        """Return which frames of a clip begin a chunk: as many as the model has frames, so that speeds can vary."""
        return max(round(clip.rate / self._shape.fps), 1)

    def _stretched(self, rng: Rng, frames: U8) -> U8:
        """Stretch most of a clip to a window."""
        window = self._shape.window
        share = rng.uniform(*self._span)
        begin = rng.uniform(0, 1 - share)
        jitter = rng.uniform(-0.3, 0.3, window) * share / window
        indices = (np.linspace(begin, begin + share, window) + jitter) * (len(frames) - 1)
        return np.asarray(frames[indices.round().astype(np.int64).clip(0, len(frames) - 1)], np.uint8)

    def _encode(self, chunks: U8) -> Features:
        with torch.inference_mode():
            parts = [self._encoder(part).float() for part in torch.split(torch.from_numpy(chunks), _ENCODE_BATCH)]
        return np.asarray(torch.cat(parts).numpy(), np.float16)
