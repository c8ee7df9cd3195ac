"""Read the windows of a clip, spread evenly over it, and encode them with a base's encoder."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from engines.arrays import F32, I32, U8
from engines.bundle import ModelSpec
from engines.printable import path_text
from streamclf.classifier.offline import file_stream
from streamclf.classifier.short_clip import ShortClip
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.source import SourceConfig
from streamclf.errors import SourceError
from streamclf.sources import open_source
from streamclf.teach.example_folder import LabelledClip
from streamclf.units import NS
from streamclf.windows.chunks import FrameHook, read_chunks
from streamclf.windows.sampling import ChunkMeta

if TYPE_CHECKING:
    from engines.protocol import Engine

THUMB_SIDE: Final = 8
"""The side of the grey picture of a chunk by which films are compared."""
STILL_SIDE: Final = 160
STILL_QUALITY: Final = 70
EDGE_NS: Final = NS // 1000


@dataclass(slots=True, kw_only=True)
class ClipFeatures:
    """The windows of one clip.

    `features`: (C, *F) float32, one for each chunk. `windows`: (W, T) int32, chunk numbers, oldest first. `times`:
    (W, 2) float64, seconds of the film. `thumbs`: (C, 8, 8) uint8, grey. `stills`: W pictures as JPEG. `pixels`:
    (T, t, H, W, 3) uint8 RGB of the first window; None if not asked for.
    """

    features: F32
    windows: I32
    times: np.ndarray
    thumbs: U8
    stills: Sequence[bytes]
    pixels: U8 | None = None


@dataclass(slots=True, eq=False)
class _Chunk:
    start_ns: int
    end_ns: int
    pixels: U8 | None
    thumb: U8
    still: U8
    feature: F32 | None = None


@dataclass(slots=True)
class _Stretch:
    """Collect windows of one stretch: `limit` to twice as many, evenly spread however long the stretch is."""

    chunks: int
    begin_ns: float
    end_ns: float
    limit: int
    kept: list[tuple[_Chunk, ...]] = field(default_factory=list)
    pixels: U8 | None = None
    recent: deque[_Chunk] = field(default_factory=deque)
    last: tuple[int, int] | None = None
    count: int = 0
    stride: int = 1

    def add(self, meta: ChunkMeta, chunk: _Chunk) -> tuple[_Chunk, ...] | None:
        """Take the film's next chunk; return the window that it completes, if that is to be kept."""
        inside = chunk.start_ns >= self.begin_ns - EDGE_NS and chunk.end_ns <= self.end_ns + EDGE_NS
        follows = self.last == (meta.segment, meta.index - 1)
        self.last = (meta.segment, meta.index)
        if not inside or not follows:
            self.recent.clear()
        if not inside:
            return None
        self.recent.append(chunk)
        if len(self.recent) < self.chunks:
            return None
        window = tuple(self.recent)
        self.recent.popleft()
        self.count += 1
        if (self.count - 1) % self.stride:
            return None
        self.kept.append(window)
        if len(self.kept) >= 2 * self.limit:
            self.kept = self.kept[::2]
            self.stride *= 2
            return window if self.kept[-1] is window else None
        return window


class ClipFeatureReader:
    """Read films with one engine. `spec` is the base's, for windows at its rate.

    `limit`: the most windows of a clip. `area`: the part of each picture that is read; for the whole picture, a film
    that was saved as an example is read as its metadata say. The engine must have a bank of
    `max_batch` slots.
    """

    def __init__(
        self, engine: Engine, spec: ModelSpec, *, limit: int, keep_pixels: bool = True, area: PictureArea = WHOLE
    ) -> None:
        self._engine, self._area = engine, area
        self.spec = spec.model_copy(update={"whole_clips": "windows"})
        self._limit, self._keep_pixels = limit, keep_pixels

    def read(
        self, clips: Sequence[LabelledClip], *, on_frame: FrameHook | None = None
    ) -> tuple[list[ClipFeatures | str], str | None]:
        """Read the clips of one film, which all have the same path.

        Returns the features of each clip, or the reason why it has none, and a fault of the film in one line. Raises
        `SourceError` for a film that cannot be read.
        """
        spec = self.spec
        stretches = [self._stretch(clip) for clip in clips]
        with open_source(_source(clips[0], spec)) as source:
            for meta, pixels in read_chunks(
                source,
                fps=spec.fps,
                frames_per_chunk=spec.frames_per_chunk,
                height=spec.height,
                width=spec.width,
                resize=spec.resize,
                on_frame=on_frame,
                area=self._area_of(clips[0]),
            ):
                chunk = _new_chunk(meta.start_pts_ns, meta.end_pts_ns, pixels)
                for stretch in stretches:
                    window = stretch.add(meta, chunk)
                    if window is not None:
                        if self._keep_pixels and stretch.pixels is None:
                            stretch.pixels = _stack(window)
                        self._encode(window)
            warning = source.warning
        return [self._finish(clip, stretch, on_frame) for clip, stretch in zip(clips, stretches, strict=True)], warning

    def _area_of(self, clip: LabelledClip) -> PictureArea:
        """Return the part of the picture: the one that was asked for, else the one that the film gives."""
        return self._area if self._area != WHOLE or clip.area is None else clip.area

    def _stretch(self, clip: LabelledClip) -> _Stretch:
        begin_s, end_s = clip.stretch or (-1e9, 1e9)
        return _Stretch(chunks=self.spec.chunks, begin_ns=begin_s * NS, end_ns=end_s * NS, limit=self._limit)

    def _encode(self, window: Sequence[_Chunk]) -> None:
        """Encode the chunks of a window that have no feature yet, and drop their pixels."""
        new = [chunk for chunk in window if chunk.feature is None]
        for begin in range(0, len(new), self._engine.max_batch):
            part = new[begin : begin + self._engine.max_batch]
            slots = np.arange(len(part), dtype=np.int32)
            self._engine.encode(np.stack([chunk.pixels for chunk in part if chunk.pixels is not None]), slots)
            for chunk, feature in zip(part, self._engine.read_features(slots), strict=True):
                chunk.feature, chunk.pixels = feature, None

    def _finish(self, clip: LabelledClip, stretch: _Stretch, on_frame: FrameHook | None) -> ClipFeatures | str:
        windows, pixels = stretch.kept, stretch.pixels
        if not windows:
            try:
                windows = [self._short(clip, on_frame)]
            except SourceError as error:
                return str(error)
            pixels = _stack(windows[0]) if self._keep_pixels else None
            self._encode(windows[0])
        if len(windows) > self._limit:
            chosen = np.linspace(0, len(windows) - 1, self._limit).round().astype(int)
            windows = [windows[number] for number in chosen]
        chunks = list(dict.fromkeys(chunk for window in windows for chunk in window))
        numbers = {chunk: number for number, chunk in enumerate(chunks)}
        features = np.stack([chunk.feature for chunk in chunks if chunk.feature is not None])
        if not np.isfinite(features).all():
            return f"{self.spec.id} computes infinite features for it"
        return ClipFeatures(
            features=features,
            windows=np.array([[numbers[chunk] for chunk in window] for window in windows], np.int32),
            times=np.array([[window[0].start_ns / NS, window[-1].end_ns / NS] for window in windows]),
            thumbs=np.stack([chunk.thumb for chunk in chunks]),
            stills=[_jpeg(window[len(window) // 2].still) for window in windows],
            pixels=pixels,
        )

    def _short(self, clip: LabelledClip, on_frame: FrameHook | None) -> tuple[_Chunk, ...]:
        """Read a clip that is shorter than a window, which it fills as `spec.short_clips` says."""
        begin_s, end_s = clip.stretch or (-1e9, 1e9)
        short = ShortClip(self.spec, self._area_of(clip))
        first = last = None
        with open_source(_source(clip, self.spec)) as source:
            for frame in source:
                if on_frame is not None:
                    on_frame(source, frame)
                if begin_s * NS - EDGE_NS <= frame.pts_ns < end_s * NS:
                    first = frame.pts_ns if first is None else first
                    last = frame.pts_ns
                    short.push(frame)
        if first is None or last is None:
            raise SourceError("it has no frame in this stretch" if clip.stretch else "no frame of it could be read")
        windows = short.windows(path_text(clip.path))
        return tuple(_new_chunk(first, last, pixels) for pixels in windows[0])


def _source(clip: LabelledClip, spec: ModelSpec) -> SourceConfig:
    if clip.is_images:
        return SourceConfig.model_construct(images=str(clip.path), fps=spec.fps, pace="fast")
    return file_stream(clip.path)


def _new_chunk(start_ns: int, end_ns: int, pixels: U8) -> _Chunk:
    middle = pixels[len(pixels) // 2]
    grey = cv2.resize(cv2.cvtColor(middle, cv2.COLOR_RGB2GRAY), (THUMB_SIDE, THUMB_SIDE), interpolation=cv2.INTER_AREA)
    return _Chunk(start_ns, end_ns, pixels, np.asarray(grey, np.uint8), middle.copy())


def _stack(window: Sequence[_Chunk]) -> U8 | None:
    """Return the pixels of a window; None if another stretch of the film has used some of its chunks."""
    pixels = [chunk.pixels for chunk in window if chunk.pixels is not None]
    return np.stack(pixels) if len(pixels) == len(window) else None


def _jpeg(rgb: U8) -> bytes:
    scale = min(1.0, STILL_SIDE / max(rgb.shape[:2]))
    small = cv2.resize(
        rgb, (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))), interpolation=cv2.INTER_AREA
    )
    encoded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, STILL_QUALITY])[1]
    return bytes(encoded)
