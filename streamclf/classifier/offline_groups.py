"""Classify a film with several models: the film is decoded once, for models with different rates and sizes, too."""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from engines.arrays import F32, I32, U8
from engines.backends.names import Backend, Precision
from engines.bundle import Bundle, ModelSpec
from streamclf.classifier.offline import MAX_WINDOWS, FileResult, open_film
from streamclf.classifier.short_clip import ShortClip
from streamclf.classifier.window_classifier import WindowClassifier, WindowResult, offline_bank_slots
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.source_settings import DecodeMode
from streamclf.errors import SourceError
from streamclf.sources import Frame
from streamclf.windows.chunks import ChunkBuilder, FrameHook, ListSink
from streamclf.windows.sampling import ChunkMeta, ChunkSampler

if TYPE_CHECKING:
    from engines.group import EngineGroup


def open_groups(
    bundles: Mapping[str, Bundle], *, backend: Backend, precision: Precision, max_batch: int, threads: int = 0
) -> list[EngineGroup]:
    """Open models for films, one group for each encoder. Raises `EngineError` if one of them cannot be opened."""
    from engines.group import GroupOptions, encoder_key, open_group

    by_encoder: dict[tuple[object, ...], dict[str, Bundle]] = {}
    for name, bundle in bundles.items():
        by_encoder.setdefault(encoder_key(bundle.spec), {})[name] = bundle
    groups: list[EngineGroup] = []
    try:
        for members in by_encoder.values():
            options = GroupOptions(
                backend=backend,
                precision=precision,
                max_batch=max_batch,
                bank_slots=offline_bank_slots(next(iter(members.values())).spec, max_batch),
                threads=threads,
            )
            opened = open_group(members, options)
            groups.append(opened.group)
            for error in opened.failed.values():
                raise error
    except BaseException:
        for group in groups:
            group.close()
        raise
    return groups


def classify_with_groups(
    groups: Sequence[EngineGroup],
    path: Path,
    *,
    hop: int = 1,
    on_frame: FrameHook | None = None,
    area: PictureArea = WHOLE,
    decode: DecodeMode = "exact",
) -> dict[str, FileResult]:
    """Classify the windows of a file with all models of `groups`; return the results by the name of the model.

    The results are those of `classify_file` with each model. Raises `SourceError`. The banks need
    `offline_bank_slots`. Only if the film is shorter than a window of a model, it is read again.
    """
    windows: dict[str, list[WindowResult]] = {name: [] for group in groups for name in group}
    results = iter_group_windows(groups, path, hop=hop, on_frame=on_frame, area=area, decode=decode)
    with closing(results):
        while True:
            try:
                name, window = next(results)
            except StopIteration as end:
                return {
                    name: FileResult(windows=found, short_clip=found[0].short_clip, warning=end.value)
                    for name, found in windows.items()
                }
            windows[name].append(window)
            if len(windows[name]) > MAX_WINDOWS:
                raise SourceError(f"{path}: more than {MAX_WINDOWS} windows; cut the film, or give a larger --hop")


def iter_group_windows(
    groups: Sequence[EngineGroup],
    path: Path,
    *,
    hop: int = 1,
    on_frame: FrameHook | None = None,
    area: PictureArea = WHOLE,
    decode: DecodeMode = "exact",
) -> Generator[tuple[str, WindowResult], None, str | None]:
    """Yield (name of the model, window) while a file is read; return a fault of the file, in one line.

    Each model has at least one window. Raises `SourceError`.
    """
    readers = [_GroupReader(group, hop, area) for group in groups]
    without = {name for group in groups for name in group}
    with open_film(path, [group.spec for group in groups], decode, area) as source:
        source.set_frame_selector(_AnyReader(readers))
        for frame in source:
            if on_frame is not None:
                on_frame(source, frame)
            for reader in readers:
                for name, window in reader.push(frame):
                    without.discard(name)
                    yield name, window
        warning = source.warning
    for reader in readers:
        for name, window in reader.finish():
            without.discard(name)
            yield name, window
    if without:
        yield from _short_windows(groups, without, path, on_frame, area, decode)
    return warning


def _short_windows(
    groups: Sequence[EngineGroup],
    names: Container[str],
    path: Path,
    on_frame: FrameHook | None,
    area: PictureArea,
    decode: DecodeMode,
) -> Iterator[tuple[str, WindowResult]]:
    """Read the film again for the models `names`, whose windows are longer than it."""
    clips = [(name, group, ShortClip(group[name].spec, area)) for group in groups for name in group if name in names]
    with open_film(path, [group.spec for group in groups], decode, area) as source:
        for frame in source:
            if on_frame is not None:
                on_frame(source, frame)
            for _, _, clip in clips:
                clip.push(frame)
    for name, group, clip in clips:
        yield name, clip.classify(_Joined(group, name), str(path))


class _GroupReader:
    """The chunks of a film for one group, and their windows."""

    def __init__(self, group: EngineGroup, hop: int, area: PictureArea) -> None:
        spec = group.spec
        self.sampler = ChunkSampler(spec.fps, spec.frames_per_chunk)
        self._sink = ListSink(spec.chunk_shape)
        self._builder = ChunkBuilder(
            self.sampler, self._sink, height=spec.height, width=spec.width, resize=spec.resize, area=area
        )
        self._names = list(group)
        heads = [group[name] for name in group]
        self._classifier = WindowClassifier(_Joined(group, self._names[0]), hop, heads=heads)
        self._max_batch = group.max_batch
        self._waiting: list[tuple[ChunkMeta, U8]] = []

    def push(self, frame: Frame) -> Iterator[tuple[str, WindowResult]]:
        """Sample the next frame, and yield the windows of the batches that are full."""
        if not self._builder.push(frame):
            return
        self._waiting += self._sink.pop_all()
        while len(self._waiting) >= self._max_batch:
            batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
            yield from self._classify(batch)

    def finish(self) -> Iterator[tuple[str, WindowResult]]:
        """Yield the last windows."""
        batch, self._waiting = self._waiting, []
        if batch:
            yield from self._classify(batch)

    def _classify(self, batch: Sequence[tuple[ChunkMeta, U8]]) -> Iterator[tuple[str, WindowResult]]:
        for name, windows in zip(self._names, self._classifier.classify_with_all(batch), strict=True):
            for window in windows:
                yield name, window


class _AnyReader:
    """Select the frames that the models of any reader may need; the others need not be decoded."""

    def __init__(self, readers: Sequence[_GroupReader]) -> None:
        self._samplers = [reader.sampler for reader in readers]

    def may_need(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        return any(sampler.may_need(before_ns, at_ns, after_ns, longest_ns) for sampler in self._samplers)

    def may_need_previous(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        return any(sampler.may_need_previous(before_ns, at_ns, shortest_ns) for sampler in self._samplers)


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
