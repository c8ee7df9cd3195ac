"""Classify files in this process as fast as they decode, with the same sampling, chunks and windows as live."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from engines.arrays import U8
from engines.bundle import ModelSpec
from streamclf.classifier.prediction import TOP_K
from streamclf.classifier.short_clip import ShortClip
from streamclf.classifier.window_classifier import ShortClipFill, WindowClassifier, WindowResult
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.source import SourceConfig
from streamclf.config.source_settings import DecodeMode
from streamclf.errors import SourceError
from streamclf.sources import Source, open_source
from streamclf.sources.array import ArraySource
from streamclf.sources.decoding import Decoding, film_decoding, mode_for_models
from streamclf.windows.assembler import Window
from streamclf.windows.chunks import FrameHook, read_chunks
from streamclf.windows.sampling import ChunkMeta

if TYPE_CHECKING:
    from engines.protocol import Engine


MAX_WINDOWS = 1_000_000
"""The results of all windows of a file are kept in memory. This is a film of two days with chunks of 0.2 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """The classified windows of a file, in order.

    `short_clip`: how a clip that is shorter than a window was made to fill the only one; None for longer ones.
    `warning`: a fault of the file, in one line.
    """

    windows: Sequence[WindowResult]
    short_clip: ShortClipFill | None = None
    warning: str | None = None

    @property
    def decoding(self) -> Decoding:
        """`fast` if a frame of any window was decoded so."""
        return "fast" if any(window.fast for window in self.windows) else "exact"


def ranked(result: WindowResult, labels: Sequence[str]) -> list[tuple[str, float]]:
    """Return (label, probability) of at most `TOP_K` labels, the most probable first."""
    best = result.probabilities.argsort()[::-1][:TOP_K]
    return [(labels[i], round(float(result.probabilities[i]), 6)) for i in best]


def file_stream(path: Path) -> SourceConfig:
    """Return the configuration of a file that is read as fast as it decodes.

    A path of the command line is no value of a YAML file: it may be longer, and its bytes need not be UTF-8. So it is
    not validated here; opening the file reports what is wrong with it.
    """
    return SourceConfig.model_construct(url=str(path), pace="fast")


def open_film(
    path: Path, specs: Sequence[ModelSpec], decode: DecodeMode = "exact", area: PictureArea = WHOLE
) -> Source:
    """Open a file for models that see `area` of it. Raises `SourceError`. `decode`: as in the configuration."""
    source = open_source(file_stream(path))
    if decode != "exact":
        views = [(spec.height, spec.width, spec.resize) for spec in specs]
        with suppress(SourceError):  # a part that is too small is an error once a frame is rendered
            info, mode = source.info, mode_for_models(decode, specs)
            source.set_decoding(film_decoding(mode, info.codec, (info.width, info.height), views, area))
    return source


def file_chunks(
    spec: ModelSpec, path: Path, *, on_frame: FrameHook | None = None, area: PictureArea = WHOLE
) -> Generator[tuple[ChunkMeta, U8], None, None]:
    """Yield the chunks of a file, each with its own (t, H, W, 3) uint8 RGB. Raises `SourceError`.

    `area` is the part of the picture that they show. The file stays open until the generator ends: close it if you do
    not read it to its end.
    """
    with open_source(file_stream(path)) as source:
        yield from _chunks(spec, source, on_frame, area)


def classify_file(
    engine: Engine,
    path: Path,
    *,
    hop: int = 1,
    on_frame: FrameHook | None = None,
    on_window: Callable[[WindowResult], None] | None = None,
    area: PictureArea = WHOLE,
    decode: DecodeMode = "exact",
) -> FileResult:
    """Classify the windows of a file. Raises `SourceError`. The engine's bank needs `offline_bank_slots`.

    `on_frame` is called with each frame as it is read, `on_window` with each window, at most a batch of chunks later.
    The frames of a clip shorter than a window are read twice. `area` is the part of the picture that is classified, and
    `decode` says how exactly the film is decoded, as in the configuration.

    A clip shorter than a window is classified as `python -m training evaluate` does.
    """
    results = iter_file_windows(engine, path, hop=hop, on_frame=on_frame, area=area, decode=decode)
    windows = list[WindowResult]()
    with closing(results):
        while True:
            try:
                windows.append(next(results))
            except StopIteration as end:
                return FileResult(windows=windows, short_clip=windows[0].short_clip, warning=end.value)
            if on_window is not None:
                on_window(windows[-1])
            if len(windows) > MAX_WINDOWS:
                raise SourceError(f"{path}: more than {MAX_WINDOWS} windows; cut the film, or give a larger --hop")


def iter_file_windows(
    engine: Engine,
    path: Path,
    *,
    hop: int = 1,
    on_frame: FrameHook | None = None,
    area: PictureArea = WHOLE,
    decode: DecodeMode = "exact",
) -> Generator[WindowResult, None, str | None]:
    """Yield the windows of a file as it is read; return a fault of the file, in one line. Raises `SourceError`.

    There is at least one window. The engine's bank needs `offline_bank_slots`.
    """
    has_window = False
    with open_film(path, [engine.spec], decode, area) as source:
        for _, window in iter_full_windows(engine, source, hop, on_frame, area):
            has_window = True
            yield window
        warning = source.warning
    if not has_window:
        clip = read_short_clip(engine.spec, path, on_frame=on_frame, area=area, decode=decode)
        yield clip.classify(engine, str(path))
    return warning


def read_short_clip(
    spec: ModelSpec,
    path: Path,
    *,
    on_frame: FrameHook | None = None,
    area: PictureArea = WHOLE,
    decode: DecodeMode = "exact",
) -> ShortClip:
    """Read a file that is shorter than a window. Raises `SourceError`."""
    clip = ShortClip(spec, area)
    with open_film(path, [spec], decode, area) as source:
        for frame in source:
            if on_frame is not None:
                on_frame(source, frame)
            clip.push(frame)
    return clip


def iter_array_windows(engine: Engine, source: ArraySource, *, hop: int = 1) -> Generator[WindowResult, None, None]:
    """Yield the windows of a program's frames as they are read. Raises the errors of `source`.

    There is at least one window. The frames are read once, so until the first window they are kept in the model's size.
    """
    clip = ShortClip(engine.spec)
    source.on_frame = clip.push
    for _, window in iter_full_windows(engine, source, hop):
        source.on_frame = None
        yield window
    if source.on_frame is not None:
        yield clip.classify(engine, "frames")


def iter_full_windows(
    engine: Engine, source: Source, hop: int = 1, on_frame: FrameHook | None = None, area: PictureArea = WHOLE
) -> Iterator[tuple[Window, WindowResult]]:
    """Yield the windows of a source, as the live service has them; a clip shorter than a window has none.

    The bank slots of a window keep their features until the next one is asked for.
    """
    classifier = WindowClassifier(engine, hop)
    with closing(_chunks(engine.spec, source, on_frame, area)) as chunks:
        while batch := list(islice(chunks, engine.max_batch)):
            yield from classifier.classify_windows(batch)


def _chunks(
    spec: ModelSpec, source: Source, on_frame: FrameHook | None, area: PictureArea
) -> Generator[tuple[ChunkMeta, U8], None, None]:
    yield from read_chunks(
        source,
        fps=spec.fps,
        frames_per_chunk=spec.frames_per_chunk,
        height=spec.height,
        width=spec.width,
        resize=spec.resize,
        area=area,
        on_frame=on_frame,
    )
