"""Classify a film with several models: the film is decoded once, for models with different rates and sizes, too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.arrays import F32, I32, U8
from engines.bundle import ModelSpec
from streamclf.classifier.offline import MAX_WINDOWS, FileResult, file_stream
from streamclf.classifier.short_clip import ShortClip
from streamclf.classifier.window_classifier import WindowClassifier, WindowResult
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.errors import SourceError
from streamclf.sources import Frame, open_source
from streamclf.windows.chunks import ChunkBuilder, FrameHook, ListSink
from streamclf.windows.sampling import ChunkMeta, ChunkSampler

if TYPE_CHECKING:
    from engines.group import EngineGroup


def classify_with_groups(
    groups: Sequence[EngineGroup],
    path: Path,
    *,
    hop: int = 1,
    on_frame: FrameHook | None = None,
    area: PictureArea = WHOLE,
) -> dict[str, FileResult]:
    """Classify the windows of a file with all models of `groups`; return the results by the name of the model.

    The results are those of `classify_file` with each model. Raises `SourceError`. The banks need
    `offline_bank_slots`. Only if the film is shorter than a window of a model, it is read again.
    """
    readers = [_GroupReader(group, hop, path, area) for group in groups]
    with open_source(file_stream(path)) as source:
        if len(readers) == 1:
            source.set_frame_selector(readers[0].sampler)  # with several, each frame may be needed
        for frame in source:
            if on_frame is not None:
                on_frame(source, frame)
            for reader in readers:
                reader.push(frame)
        warning = source.warning
    for reader in readers:
        reader.finish()
    _classify_short(groups, readers, path, on_frame, area)
    return {
        name: FileResult(windows=windows, short_clip=windows[0].short_clip, warning=warning)
        for reader in readers
        for name, windows in reader.windows.items()
    }


def _classify_short(
    groups: Sequence[EngineGroup],
    readers: Sequence[_GroupReader],
    path: Path,
    on_frame: FrameHook | None,
    area: PictureArea,
) -> None:
    """Read the film again for the models whose windows are longer than it."""
    clips = [
        (reader, name, group, ShortClip(group[name].spec, area))
        for group, reader in zip(groups, readers, strict=True)
        for name, windows in reader.windows.items()
        if not windows
    ]
    if not clips:
        return
    with open_source(file_stream(path)) as source:
        for frame in source:
            if on_frame is not None:
                on_frame(source, frame)
            for _, _, _, clip in clips:
                clip.push(frame)
    for reader, name, group, clip in clips:
        reader.windows[name].append(clip.classify(_Joined(group, name), str(path)))


class _GroupReader:
    """The chunks of a film for one group, and the windows that each of its models has classified."""

    def __init__(self, group: EngineGroup, hop: int, path: Path, area: PictureArea) -> None:
        spec = group.spec
        self.windows: dict[str, list[WindowResult]] = {name: [] for name in group}
        self.sampler = ChunkSampler(spec.fps, spec.frames_per_chunk)
        self._sink = ListSink(spec.chunk_shape)
        self._builder = ChunkBuilder(
            self.sampler, self._sink, height=spec.height, width=spec.width, resize=spec.resize, area=area
        )
        self._classifier = WindowClassifier(
            _Joined(group, next(iter(group))), hop, heads=[group[name] for name in group]
        )
        self._max_batch = group.max_batch
        self._waiting: list[tuple[ChunkMeta, U8]] = []
        self._path = path

    def push(self, frame: Frame) -> None:
        """Sample the next frame, and classify the windows that are complete, batch by batch."""
        if not self._builder.push(frame):
            return
        self._waiting += self._sink.pop_all()
        while len(self._waiting) >= self._max_batch:
            self._classify(self._waiting[: self._max_batch])
            del self._waiting[: self._max_batch]

    def finish(self) -> None:
        """Classify the last windows."""
        if self._waiting:
            self._classify(self._waiting)
            self._waiting = []

    def _classify(self, batch: Sequence[tuple[ChunkMeta, U8]]) -> None:
        for windows, found in zip(self.windows.values(), self._classifier.classify_with_all(batch), strict=True):
            windows += found
            if len(windows) > MAX_WINDOWS:
                raise SourceError(
                    f"{self._path}: more than {MAX_WINDOWS} windows; cut the film, or give a larger --hop"
                )


class _Joined:
    """The encoder of a group with the head of one of its models."""

    def __init__(self, group: EngineGroup, name: str) -> None:
        self._group, self._head = group, group[name]
        self.spec: ModelSpec = self._head.spec
        self.max_batch = group.max_batch

    def encode(self, frames: U8, slots: I32) -> None:
        """See `Engine.encode`."""
        self._group.encode(frames, slots)

    def classify(self, windows: I32) -> F32:
        """See `Engine.classify`."""
        return self._head.classify(windows)
