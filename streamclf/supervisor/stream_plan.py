"""Plan one stream: the ring and pipes between its processes, and the job of its capture process."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Literal

from engines.bundle import ModelSpec
from streamclf.classifier.feed import ring_slots
from streamclf.config.classify import HeadSettings, StreamSettings
from streamclf.config.clips import ClipsConfig
from streamclf.config.examples import ExamplesConfig
from streamclf.config.service import ServiceConfig
from streamclf.config.source import SourceConfig
from streamclf.config.views import UNNAMED
from streamclf.runtime.jobs import CaptureJob, FeedUpdate, ViewJob
from streamclf.windows.ring import create_ring, ring_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The properties of a stream that depend on the model. Models with the same geometry can use the same ring."""

    fps: float
    frames_per_chunk: int
    height: int
    width: int
    resize: Literal["stretch", "crop", "letterbox"]
    slots: int

    @classmethod
    def of(cls, spec: ModelSpec) -> Geometry:
        """Return the geometry of a model."""
        return cls(
            fps=spec.fps,
            frames_per_chunk=spec.frames_per_chunk,
            height=spec.height,
            width=spec.width,
            resize=spec.resize,
            slots=ring_slots(spec),
        )

    @property
    def chunk_shape(self) -> tuple[int, int, int, int]:
        """(t, H, W, 3)."""
        return (self.frames_per_chunk, self.height, self.width, 3)

    @property
    def ring_bytes(self) -> int:
        """Shared memory of one stream in bytes."""
        return ring_bytes(self.slots, self.chunk_shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """Everything that defines one stream: for its capture process, and for the classifier."""

    source: SourceConfig
    geometry: Geometry
    settings: StreamSettings
    head: HeadSettings
    clips: ClipsConfig | None = None
    examples: ExamplesConfig | None = None

    @property
    def capture_waits(self) -> bool:
        """Whether capture waits for the classifier: true for a file that is read as fast as possible."""
        return self.source.pace == "fast"

    @property
    def classification(self) -> FeedUpdate:
        """The settings of the stream in the classifier."""
        return FeedUpdate(settings=self.settings, heads={UNNAMED: self.head})

    def same_capture(self, other: StreamPlan) -> bool:
        """Return whether the same capture process can serve both plans."""
        films = self.clips == other.clips and self.examples == other.examples
        return self.same_channels(other) and self.source == other.source and films

    def same_channels(self, other: StreamPlan) -> bool:
        """Return whether the same ring and pipes can serve both plans."""
        return self.geometry == other.geometry and self.capture_waits == other.capture_waits


@dataclass(slots=True, kw_only=True)
class StreamChannels:
    """A stream's ring and pipes. The supervisor keeps them open while the stream exists; processes come and go."""

    ring: int
    wake_read: int
    wake_write: int
    progress_read: int | None
    progress_write: int | None

    @classmethod
    def open(cls, plan: StreamPlan) -> StreamChannels:
        """Create the ring and the pipes. Raises `RingError` where there is no memory for the ring."""
        ring = create_ring(plan.geometry.slots, plan.geometry.chunk_shape)
        wake = _pipe()
        progress = _pipe() if plan.capture_waits else (None, None)
        return cls(
            ring=ring,
            wake_read=wake[0],
            wake_write=wake[1],
            progress_read=progress[0],
            progress_write=progress[1],
        )

    def close(self) -> None:
        """Close all descriptors. The memory is freed with the last process that has mapped it."""
        for each in fields(self):
            fd = getattr(self, each.name)
            if fd is not None:
                os.close(fd)

    @property
    def capture_fds(self) -> list[int]:
        """The descriptors that the capture process inherits."""
        return _present(self.ring, self.wake_write, self.progress_read)

    @property
    def classifier_fds(self) -> list[int]:
        """The descriptors that are sent to the classifier, in the order of `streamclf.runtime.jobs.FeedJoin`."""
        return _present(self.ring, self.wake_read, self.progress_write)

    def capture_job(self, stream: str, plan: StreamPlan, link: str, liveness_fd: int, liveness_row: int) -> CaptureJob:
        """Return the job of this stream's capture process."""
        geometry = plan.geometry
        view = ViewJob(
            view=stream,
            fps=geometry.fps,
            frames_per_chunk=geometry.frames_per_chunk,
            height=geometry.height,
            width=geometry.width,
            resize=geometry.resize,
            ring_fd=self.ring,
            wake_fd=self.wake_write,
            progress_fd=self.progress_read,
        )
        return CaptureJob(
            link=link,
            liveness_fd=liveness_fd,
            liveness_row=liveness_row,
            memory_limit=plan.source.memory_limit,
            stream=stream,
            source=plan.source,
            views=(view,),
            clips=plan.clips,
            examples=plan.examples,
        )


def _pipe() -> tuple[int, int]:
    """Make a pipe that never blocks; return its read end and its write end."""
    ends = os.pipe()
    for fd in ends:
        os.set_blocking(fd, False)
    return ends


def _present(*fds: int | None) -> list[int]:
    return [fd for fd in fds if fd is not None]


def plan_streams(config: ServiceConfig, spec: ModelSpec) -> dict[str, StreamPlan]:
    """Plan each stream that the configuration does not pause. Only a stream with actions gets clips."""
    geometry = Geometry.of(spec)
    plans = {}
    for name, stream in config.streams.items():
        if stream.enabled:
            settings = config.settings_of(name)
            head = HeadSettings(actions=config.actions_of(name).with_thresholds(spec.thresholds))
            clips = config.clips if head.actions.labels else None
            plans[name] = StreamPlan(
                source=stream.source,
                geometry=geometry,
                settings=settings,
                head=head,
                clips=clips,
                examples=config.examples,
            )
    return plans
