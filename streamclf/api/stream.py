"""Classify one live stream whose frames a program pushes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import numpy.typing as npt

from engines.arrays import U8
from streamclf.api.shared_engine import BankRegion
from streamclf.api.window import ClassifiedWindow, to_window
from streamclf.classifier.window_classifier import WindowClassifier, WindowResult
from streamclf.errors import UsageError
from streamclf.sources.array import (
    check_fps,
    check_image,
    check_one_clock,
    check_time,
    is_array,
    live_frames,
    rate_frames,
    split_array,
)
from streamclf.units import NS
from streamclf.windows.chunks import ChunkBuilder, ListSink
from streamclf.windows.sampling import ChunkSampler

if TYPE_CHECKING:
    from streamclf.sources.frame import Frame


class ModelStream:
    """One stream of frames, with the features of its last chunks: each chunk is encoded once. See `Model.new_stream`.

    Usable in a `with` block. One thread at a time pushes to a stream; another one gets `UsageError`.
    """

    def __init__(self, region: BankRegion, hop: int) -> None:
        self._region, self._hop = region, hop
        self._busy = threading.Lock()
        self._closed = False
        self._is_live: bool | None = None
        self._rate: Fraction | None = None
        self._begin()

    def __enter__(self) -> ModelStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def push(
        self,
        frames: npt.ArrayLike | Sequence[npt.ArrayLike],
        fps: SupportsFloat | None = None,
        *,
        pts_s: SupportsFloat | Iterable[SupportsFloat] | None = None,
    ) -> list[ClassifiedWindow]:
        """Add the next frames, and return the windows that they complete, in order; often none.

        `frames`: (T, H, W, 3) uint8 RGB, or (H, W, 3) for one frame, or a list of frames of any sizes. Each is resized
        to the model's size. They may be changed after the call.

        Give `fps`, the frames per second, for a source without gaps; its media time begins at 0. Or give `pts_s`, the
        media time of each frame in seconds, for a live source. There, a time that goes back, or an interval longer than
        a chunk, begins a new segment, and no window spans two. A stream takes the one or the other until `reset`.

        Raises `UsageError` for wrong arguments, and the stream stays as it was. Raises `ModelError` if the model fails,
        and `SourceError` for a frame that is too elongated for the model; the stream is then reset.
        """
        with self._in_use():
            images = _images(frames)
            check_one_clock(fps, pts_s)
            times_ns = None if pts_s is None else _times(pts_s, len(images))
            rate = None if fps is None else check_fps(fps)
            if not images:
                return []
            if self._is_live not in (None, rate is None):
                raise UsageError("fps and pts_s: this stream began with the other one; give that one, or reset() first")
            self._is_live = rate is None
            _copy_last(images, times_ns)
            try:
                timed = live_frames(images, times_ns) if times_ns is not None else self._rate_frames(images, rate)
                return self._classify(timed)
            except BaseException:
                self._begin()  # some of the frames may be missing
                raise

    def reset(self) -> None:
        """Forget all frames: the next one begins a new segment, and with `fps` media time begins at 0 again."""
        with self._in_use():
            self._begin()

    def close(self) -> None:
        """Give the stream's memory back to the model. May be called twice."""
        self._closed = True
        self._region.close()

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise UsageError("another thread is using this stream; give each thread its own: model.new_stream()")
        try:
            if self._closed:
                raise UsageError("the stream is closed; make another one: model.new_stream()")
            yield
        finally:
            self._busy.release()

    def _begin(self) -> None:
        spec = self._region.spec
        sampler = ChunkSampler(spec.fps, spec.frames_per_chunk)
        self._sink = ListSink(spec.chunk_shape)
        self._builder = ChunkBuilder(sampler, self._sink, height=spec.height, width=spec.width, resize=spec.resize)
        self._classifier = WindowClassifier(self._region, self._hop)
        self._is_live = self._rate = None
        self._start_ns = self._count = 0

    def _rate_frames(self, images: Sequence[U8], rate: Fraction | None) -> Iterator[Frame]:
        """Continue media time, also after a change of the rate."""
        assert rate is not None
        if self._rate not in (None, rate):
            assert self._rate is not None
            self._start_ns += round(self._count * NS / self._rate)
            self._count = 0
        self._rate, first = rate, self._count
        self._count += len(images)
        return rate_frames(images, rate, start_ns=self._start_ns, first=first)

    def _classify(self, frames: Iterator[Frame]) -> list[ClassifiedWindow]:
        waiting: list[Any] = []
        results: list[WindowResult] = []
        for frame in frames:
            self._builder.push(frame)
            waiting += self._sink.pop_all()
            while len(waiting) >= self._region.max_batch:
                results += self._classifier.classify(waiting[: self._region.max_batch])
                del waiting[: self._region.max_batch]
        if waiting:
            results += self._classifier.classify(waiting)
        return [to_window(result, self._region.spec) for result in results]


def _images(frames: Any) -> list[U8]:
    if is_array(frames):
        return split_array(frames)
    if isinstance(frames, (list, tuple)):
        return [check_image(image, f"frames[{number}]") for number, image in enumerate(frames)]
    raise UsageError(
        f"frames: {type(frames).__name__}; must be an array (T, H, W, 3), or a list of frames. For an iterator use "
        "streamclf.classify"
    )


def _copy_last(images: list[U8], times_ns: Sequence[int] | None) -> None:
    """Copy the last image: it may still fill a point of the time grid when the next one comes.

    Of images with the same time the first counts.
    """
    last = len(images) - 1
    while times_ns is not None and last > 0 and times_ns[last - 1] == times_ns[last]:
        last -= 1
    images[last] = np.array(images[last])


def _times(pts_s: Any, count: int) -> list[int]:
    is_many = isinstance(pts_s, Iterable) and not isinstance(pts_s, str) and getattr(pts_s, "ndim", 1) != 0
    times = list(islice(pts_s, count + 1)) if is_many else [pts_s]
    if len(times) != count:
        counts = "fewer" if len(times) < count else "more"
        raise UsageError(f"pts_s: {counts} times than frames; give one for each frame")
    return [check_time(time_s, f"pts_s[{number}]") for number, time_s in enumerate(times)]
