"""The data kind `gesture_streams`: windows of composed streams and of stretched clips, encoded once, for the head."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from engines.arrays import F32
from engines.printable import printable
from streamclf.config.picture_area import PictureArea
from streamclf.sources import Resize
from training.builtin.gestures.data import SyntheticGesturesData
from training.builtin.gestures.encoded_scenes import VERSION, Features, SceneEncoder
from training.builtin.gestures.stream_maker import OTHER, UNCLEAR, StreamMaker, is_near_shape, window_labels
from training.builtin.gestures.streams import Footage, Rng
from training.data.augment import AugmentRecipe
from training.data.base import DataSection
from training.data.batches import (
    Batch,
    ClipValidationBatches,
    TrainingBatches,
)
from training.data.clip_cache import exclusive_folder, read_array, write_array
from training.data.clips import Clips
from training.data.dataset import ClipDataSet, EncodedDataSet
from training.data.shape import Shape
from training.data.video_files import ClipsData
from training.data.windows import WindowsRecipe
from training.errors import DataError

REAL_SPEEDS = (0.75, 1.35)
RENDERED_SPEEDS = (0.5, 2.2)
"""Slowest and fastest speed of clips in streams. A rendered shape takes four seconds at speed 1."""
SHARES = {"stretched": 0.25, "shape": 0.37, "near": 0.18, "other": 0.2}
"""Shares of a batch: whole clips; windows in which a shape has just ended; others near a shape; all others."""


class GestureStreamsData(DataSection):
    """Streams composed of clips with shapes, of rendered clips, and of ordinary film; only a head learns from them."""

    kind: Literal["gesture_streams"] = "gesture_streams"
    shapes: ClipsData = Field(description="clips of shapes and of `other`; their validation split measures the model")
    rendered: SyntheticGesturesData
    films: tuple[ClipsData, ...] = Field((), max_length=16, description="lists of ordinary film; labels do not matter")
    streams: int = Field(ge=1, description="composed streams")
    stream_s: float = Field(40.0, gt=0, le=3600, description="seconds of a composed stream; longer than a window")
    views: int = Field(3, ge=1, le=256, description="augmented versions of each clip to encode")

    trains_head_only: ClassVar[bool] = True

    def label_names(self) -> tuple[str, ...]:
        """Return the classes of the clips."""
        return self.shapes.label_names()

    def open(self, shape: Shape, *, seed: int, stretch: bool) -> StreamDataSet:
        """Decode and render the clips that the caches lack."""
        shapes = self.shapes.open(shape, seed=seed, stretch=stretch)
        if OTHER not in shapes.labels:
            raise DataError(f"data.shapes: no clip of the class {OTHER!r}; streams need it for windows without a shape")
        rendered = self.rendered.open(shape, seed=seed, stretch=stretch)
        films = [films.open(shape, seed=seed, stretch=False).training for films in self.films]
        return StreamDataSet(self, shape, shapes, rendered, films)

    @property
    def cache_folder(self) -> Path:
        """Return the folder for decoded clips."""
        return self.shapes.cache

    @property
    def resize_policy(self) -> Resize | None:
        """Return the policy of the clips of shapes."""
        return self.shapes.resize

    @property
    def area(self) -> PictureArea:
        """Return the part of the picture of the clips of shapes."""
        return self.shapes.area

    def check_shape(self, shape: Shape) -> None:
        """Raise `ValueError` where a stream is not longer than a window."""
        if self.stream_s * shape.fps <= shape.window:
            raise ValueError(
                f"data.stream_s={self.stream_s}: a window has {shape.window / shape.fps:g} s; give more seconds"
            )

    def card_text(self) -> str:
        """Count the streams, and describe the clips of which they are composed."""
        names = ", ".join(f"`{printable(name)}`" for each in self.films for name in each.dataset_names())
        films = f" Ordinary film without shapes: the training clips of {names}." if names else ""
        return (
            f"{self.streams} composed streams of {self.stream_s:g} s, and whole clips stretched to a window, all from "
            f"{self.shapes.card_text()} {self.rendered.card_text()}{films}"
        )

    def dataset_names(self) -> tuple[str, ...]:
        """Return the names of all lists."""
        return tuple(name for part in (self.shapes, *self.films) for name in part.dataset_names())


class StreamDataSet(EncodedDataSet):
    """Streams to train on, and whole clips to validate with."""

    def __init__(
        self,
        section: GestureStreamsData,
        shape: Shape,
        shapes: ClipDataSet,
        rendered: ClipDataSet,
        films: Sequence[Clips],
    ) -> None:
        self.labels, self.validation = shapes.labels, shapes.validation
        self.notes = [*shapes.notes, *rendered.notes]
        self._section, self._shape = section, shape
        self._sources = [shapes, rendered]
        self._films = list(films)

    def validation_batches(self, shape: Shape, windows: WindowsRecipe) -> ClipValidationBatches:
        """Return batches of the whole validation clips."""
        return ClipValidationBatches(self.validation, shape, windows)

    def encoded_batches(
        self, encoder: torch.nn.Module, *, windows: WindowsRecipe, augment: AugmentRecipe, seed: int, batch: int
    ) -> StreamBatches:
        """Encode the scenes that the cache lacks, compose the streams, and return batches of their windows."""
        section, shape = self._section, self._shape
        scenes = SceneEncoder(encoder, shape, augment, span=windows.span)
        facts = [VERSION, seed, windows.span, augment.model_dump(mode="json"), dataclasses.astuple(shape)]
        cache = _SceneCache(section.cache_folder / "gesture-scenes", encoder, facts)
        found = [
            cache.encode_all(clips.training, self.labels, shape.fps, views, scenes.encode_clip)
            for clips, views in zip(self._sources, (section.views, 1), strict=True)
        ]
        films = [cache.encode_all(clips, (), shape.fps, 1, scenes.encode_film) for clips in self._films]
        by_label = [
            {
                label: [scenes.split_scene(features, clip) for clip, features in each if clip.label == label]
                for label in self.labels
            }
            for each in found
        ]
        maker = StreamMaker(
            scenes=by_label,
            speeds=[REAL_SPEEDS, RENDERED_SPEEDS],
            films=[features.astype(np.float32) for each in films for _, features in each if len(features)],
            points=int(encoder.maps.out_channels),  # type: ignore[union-attr, arg-type]
            chunk_s=shape.frames_per_chunk / shape.fps,
        )
        return StreamBatches(maker, section, self.labels, shape, seed=seed, batch=batch)


class _SceneCache:
    """Encoded scenes on disk, one file for each view of a clip. A killed run continues with the next one."""

    def __init__(self, folder: Path, encoder: torch.nn.Module, facts: Sequence[object]) -> None:
        self._folder = folder
        self._digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, tensor in sorted(encoder.state_dict().items()):
            self._digest.update(name.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())

    def encode_all(
        self,
        clips: Clips,
        labels: Sequence[str],
        fps: float,
        views: int,
        encode: Callable[[Rng, Footage], Features],
    ) -> list[tuple[Footage, Features]]:
        """Return each view of each clip. Without `labels`, all clips are `OTHER`."""
        found = []
        with exclusive_folder(self._folder):
            for index in range(len(clips.labels)):
                clip = _footage(clips, index, labels[int(clips.labels[index])] if labels else OTHER, fps)
                for view in range(views):
                    digest = self._digest.copy()
                    digest.update(f"{clips.key(index)} {view}".encode())
                    path = self._folder / f"{digest.hexdigest()[:24]}.npy"
                    if not path.is_file():
                        rng = np.random.default_rng([view, int(digest.hexdigest()[:8], 16)])
                        write_array(path, encode(rng, clip))
                    found.append((clip, np.asarray(read_array(path), np.float16)))
                if index % 100 == 99:
                    print(f"encoded {index + 1} of {len(clips.labels)} clips", file=sys.stderr, flush=True)
        return found


class StreamBatches(TrainingBatches):
    """Batches of windows of composed streams, in the shares `SHARES`; each label has the same share of the shapes."""

    def __init__(
        self,
        maker: StreamMaker,
        section: GestureStreamsData,
        labels: tuple[str, ...],
        shape: Shape,
        *,
        seed: int,
        batch: int,
    ) -> None:
        super().__init__(seed=seed, batch=batch)
        self._labels, self._chunks, self._maker = labels, shape.chunks, maker
        self._streams: list[F32] = []
        pools: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for number in range(section.streams):
            rng = np.random.default_rng([seed, 13, number])
            features, events = maker.compose(rng, round(section.stream_s / maker.chunk_s))
            ends = np.arange(shape.chunks - 1, len(features))
            near = is_near_shape(events, ends, maker.chunk_s)
            for end, label, is_near in zip(ends, window_labels(events, ends, maker.chunk_s, labels), near, strict=True):
                if label != UNCLEAR:
                    kind = "shape" if labels[label] != OTHER else "near" if is_near else "other"
                    pools.setdefault((kind, labels[label]), []).append((number, int(end)))
            self._streams.append(features)
        for label in labels:
            whole = [scene.whole for source in maker.scenes for scene in source[label]]
            pools["stretched", label] = [(len(self._streams) + i, shape.chunks - 1) for i in range(len(whole))]
            self._streams += whole
        self._pools = [np.array(pool) for pool in pools.values()]
        self._pool_labels = np.array([labels.index(label) for _, label in pools])
        kinds = [kind for kind, _ in pools]
        odds = np.array([SHARES[kind] / kinds.count(kind) for kind in kinds])
        self._odds = odds / odds.sum()

    def sample_batch(self, rng: Rng, size: int) -> Batch:
        """See `TrainingBatches`."""
        pools = rng.choice(len(self._pools), size, p=self._odds)
        windows = []
        for pool in pools:
            stream, last = self._pools[pool][rng.integers(len(self._pools[pool]))]
            window = self._streams[stream][last + 1 - self._chunks : last + 1]
            windows.append(self._maker.moved(rng, window))
        target = np.eye(len(self._labels), dtype=np.float32)[self._pool_labels[pools]]
        return {"features": torch.from_numpy(np.stack(windows)), "target": torch.from_numpy(target)}


def _footage(clips: Clips, index: int, label: str, fps: float) -> Footage:
    frames, targets = clips.frames(index), clips.aux_targets(index)
    last = len(frames) - 1
    if targets is not None and not np.isnan(targets[:, :2]).any():  # some rendered fingers rest after the shape
        away = np.hypot(*(targets[:, :2] - targets[-1, :2]).T) > 0.02
        last = min(int(away.nonzero()[0].max(initial=0)) + 1, last)
    return Footage(frames=frames, rate=fps * clips.steps(index), label=label, last=last)
