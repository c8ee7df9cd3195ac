"""Sample one stream for its views: each has its own rate, size, ring and pipes; all take the same decoded frames."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from streamclf.config.picture_area import PictureArea
from streamclf.config.picture_shapes import EVERYTHING, Rectangle
from streamclf.errors import RingError
from streamclf.runtime.capture_job import CaptureChange, ViewJob
from streamclf.runtime.profiling import Stages
from streamclf.sources import Frame
from streamclf.sources.picture_part import RegionTooSmallError
from streamclf.windows.card_slots import CardSlots
from streamclf.windows.chunks import ChunkBuilder
from streamclf.windows.ring import CommitCallback, RingWriter
from streamclf.windows.ring_progress import ProgressWaiter
from streamclf.windows.sampling import ChunkMeta, ChunkSampler

DESCRIPTORS: Final = ("ring_fd", "wake_fd", "progress_fd", "card_fd")
"""The fields of a `ViewJob` whose descriptors come with a `CaptureChange`, in this order."""
COUNTERS: Final = {
    "chunks": "completed",
    "sampled": "sampled",
    "dropped_partial": "dropped_partial",
    "dropped_corrupt": "dropped_corrupt",
}
"""The counters of a status that samplers count, and their names there."""


class View:
    """One view: its sampler, and the ring that it fills."""

    def __init__(
        self,
        job: ViewJob,
        stream: str,
        stop: threading.Event,
        stages: Stages,
        on_commit: CommitCallback,
        wants_pixels: Callable[[], bool] = lambda: True,
    ) -> None:
        """Attach to the ring. Raises `RingError` if it is not the ring of this job. `on_commit` gets each chunk.

        `wants_pixels`: whether `on_commit` uses the pixels of the next chunk. Pixels may be in a GPU's memory.
        """
        self.job = job
        self._stages = stages
        progress = None if job.progress_fd is None else ProgressWaiter(job.progress_fd, stop)
        self._ring = RingWriter(job.ring_fd, progress=progress, on_commit=[on_commit, self._wake_reader])
        shape = (job.frames_per_chunk, job.height, job.width, 3)
        if self._ring.chunk_shape != shape:
            raise RingError(
                f"stream {stream}: the ring holds {self._ring.chunk_shape}, the job needs {shape}; "
                "restart the whole service"
            )
        self.fault: str | None = None
        """Why the view shows nothing; None while it does."""
        self.card = None if job.card_fd is None else CardSlots(self._ring, job.card_fd, wants_pixels=wants_pixels)
        self.sampler = ChunkSampler(job.fps, job.frames_per_chunk, first_segment=self._ring.next_segment)
        self.connect()

    @property
    def shown_share(self) -> float:
        """The share of the picture that the view shows."""
        left, top, right, bottom = self.job.area.region or EVERYTHING
        return (right - left) * (bottom - top)

    @property
    def gpu_chunks(self) -> int:
        """Chunks whose pixels stayed on the GPU."""
        return 0 if self.card is None else self.card.chunks

    def connect(self) -> None:
        """Begin a new connection: the next frame does not follow the frames before it."""
        job = self.job
        self._builder = ChunkBuilder(
            self.sampler,
            self._ring,
            height=job.height,
            width=job.width,
            resize=job.resize,
            area=job.area,
            card=self.card,
        )
        self._is_first = True

    def set_area(self, area: PictureArea) -> None:
        """Show another part of the picture from now on, in a new segment."""
        self.job = replace(self.job, area=area)
        self.connect()

    def add(self, frame: Frame) -> None:
        """Sample the next frame, and render it if it belongs to a chunk.

        A frame that is too small for the region is left out: the other views of the stream go on.
        """
        if self.job.area.region is not None and frame.image is not None:
            try:
                frame.size_of(self.job.area)
            except RegionTooSmallError as error:
                region = self.job.view.partition("/")[2]
                self.fault, self._is_first = f"{region}: {error}" if region else str(error), True
                return
            self.fault = None
        if placements := self._builder.sample(frame, discontinuity=self._is_first):
            with self._stages("convert"):
                self._builder.render(placements)
        self._is_first = False

    def wait_until_read(self) -> None:
        """Wait until the classifier has read all chunks, if capture waits for it."""
        self._ring.wait_until_read()

    def close(self) -> None:
        """Release the ring and the descriptors, which belong to this process."""
        del self._builder  # it holds the memory of the next chunk
        if self.card is not None:
            self.card.close()
        self._ring.close()
        for fd in (self.job.ring_fd, self.job.wake_fd, self.job.progress_fd):
            if fd is not None:
                os.close(fd)

    def _wake_reader(self, chunk: ChunkMeta, pixels: object) -> None:
        # A full pipe already holds enough bytes to wake the classifier; a broken one means that it is being restarted.
        # Capture waits for neither.
        with self._stages("ring"), contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self.job.wake_fd, b"\1")


class ViewSet:
    """The views of one stream, which may change while it is read.

    It is also the source's frame selector: a frame is needed if a view may need it.
    """

    def __init__(
        self,
        jobs: Sequence[ViewJob],
        stream: str,
        stop: threading.Event,
        stages: Stages,
        on_commit: CommitCallback,
        *,
        wants_pixels: bool = True,
    ) -> None:
        """Open the views. `on_commit` gets the chunks of the view that shows most of the picture.

        `wants_pixels`: whether it uses the chunks' pixels.
        """
        self._stream, self._stop, self._stages, self._on_commit = stream, stop, stages, on_commit
        self._wants_pixels = wants_pixels
        self._views: dict[str, View] = {}
        self._removed: Counter[str] = Counter()
        """Counters of the views that were removed: a stream's counters never decrease."""
        for job in jobs:
            self._add(job)

    def __iter__(self) -> Iterator[View]:
        return iter(self._views.values())

    @property
    def counters(self) -> dict[str, int]:
        """The counters of all views together, by their names in a status."""
        views = tuple(self._views.values())  # the thread `status` asks, too
        counters = {
            name: self._removed[name] + sum(getattr(view.sampler, key) for view in views)
            for name, key in COUNTERS.items()
        }
        if any(view.card is not None for view in views):
            counters["gpu_chunks"] = self._removed["gpu_chunks"] + sum(view.gpu_chunks for view in views)
        return counters

    def areas(self) -> dict[str, Rectangle]:
        """Return the rectangle of each region by name, "" for one without a name; any thread may call it."""
        jobs = [view.job for view in tuple(self._views.values())]
        return {job.region or "": job.area.region for job in jobs if job.area.region is not None}

    def apply(self, change: CaptureChange, fds: Sequence[int]) -> None:
        """Remove a view, add one, which takes its descriptors from `fds`, and change the areas of others."""
        if change.remove is not None and (view := self._views.pop(change.remove, None)):
            for name, key in COUNTERS.items():
                self._removed[name] += getattr(view.sampler, key)
            self._removed["gpu_chunks"] += view.gpu_chunks
            view.close()
        if change.add is not None:
            ring_fd, wake_fd, *progress = fds
            progress_fd = progress[0] if progress else None
            self._add(replace(change.add, ring_fd=ring_fd, wake_fd=wake_fd, progress_fd=progress_fd))
        for name, area in change.update.items():
            if view := self._views.get(name):
                view.set_area(area)

    @property
    def fault(self) -> str | None:
        """Why some views show nothing, in one line; None while all do."""
        faults = [view.fault for view in self._views.values() if view.fault is not None]
        return "; ".join(dict.fromkeys(faults)) or None

    def may_need(self, before_ns: int, at_ns: int, after_ns: int, longest_ns: int) -> bool:
        """See `FrameSelector`."""
        return any(view.sampler.may_need(before_ns, at_ns, after_ns, longest_ns) for view in self)

    def may_need_previous(self, before_ns: int, at_ns: int, shortest_ns: int) -> bool:
        """See `FrameSelector`."""
        return any(view.sampler.may_need_previous(before_ns, at_ns, shortest_ns) for view in self)

    def _add(self, job: ViewJob) -> None:
        def is_largest() -> bool:
            return max(self, key=lambda view: (view.fault is None, view.shown_share)).job.view == job.view

        def on_commit(chunk: ChunkMeta, pixels: object) -> None:
            if is_largest():
                self._on_commit(chunk, pixels)  # type: ignore[arg-type]

        def wants_pixels() -> bool:
            return self._wants_pixels and is_largest()

        self._views[job.view] = View(job, self._stream, self._stop, self._stages, on_commit, wants_pixels)
