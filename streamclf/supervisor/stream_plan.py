"""What runs between the processes of one stream: its ring and pipes, and the job of its capture process."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Final, Literal

from engines.bundle import ModelSpec
from streamclf.classifier.feed import ring_slots
from streamclf.config.actions import StreamActions
from streamclf.config.service import EngineConfig, StreamConfig
from streamclf.runtime.jobs import CaptureJob, StreamSettings
from streamclf.windows.ring import create_ring, ring_bytes

OF_THE_CLASSIFIER: Final = ("hop", "adaptive", "max_staleness_ms", "motion_gate", "actions", "unknown_below")
"""Keys of a stream that its capture process has nothing to do with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What a model wants of a stream: models that agree in it can take over from each other without a new ring."""

    fps: float
    frames_per_chunk: int
    height: int
    width: int
    resize: Literal["stretch", "crop", "letterbox"]
    slots: int

    @classmethod
    def of(cls, spec: ModelSpec) -> Geometry:
        """That of one model."""
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
        """Shared memory of one stream."""
        return ring_bytes(self.slots, self.chunk_shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """What one stream is to be."""

    source: StreamConfig
    geometry: Geometry
    actions: StreamActions
    engine: EngineConfig
    """For what a stream may have of its own, and else all have in common."""

    @property
    def waits(self) -> bool:
        """A file read as fast as possible waits for the classifier; everything else has a clock that does not."""
        return self.source.pace == "fast"

    @property
    def settings(self) -> StreamSettings:
        """What of it is the classifier's business alone."""
        own, common = self.source, self.engine
        return StreamSettings(
            hop=own.hop,
            actions=self.actions,
            adaptive=common.adaptive if own.adaptive is None else own.adaptive,
            max_staleness_ms=own.max_staleness_ms or common.max_staleness_ms,
            motion_gate=own.motion_gate,
        )

    def same_capture(self, other: StreamPlan) -> bool:
        """Whether the capture process of one would do for the other."""
        mine = {key: getattr(self.source, key) for key in OF_THE_CLASSIFIER}
        return self.same_channels(other) and self.source == other.source.model_copy(update=mine)

    def same_channels(self, other: StreamPlan) -> bool:
        """Whether ring and pipes of one would do for the other."""
        return self.geometry == other.geometry and self.waits == other.waits


@dataclass(slots=True, kw_only=True)
class StreamChannels:
    """A stream's ring and pipes, open in the supervisor for as long as the stream is there: processes come and go."""

    ring: int
    wake_read: int
    wake_write: int
    progress_read: int | None
    progress_write: int | None

    @classmethod
    def open(cls, plan: StreamPlan) -> StreamChannels:
        """Make them. Raises `RingError` where there is no memory for the ring."""
        ring = create_ring(plan.geometry.slots, plan.geometry.chunk_shape)
        wake = _pipe()
        progress = _pipe() if plan.waits else (None, None)
        return cls(
            ring=ring,
            wake_read=wake[0],
            wake_write=wake[1],
            progress_read=progress[0],
            progress_write=progress[1],
        )

    def close(self) -> None:
        """Close all of them; the memory goes with the last process that has it mapped."""
        for each in fields(self):
            fd = getattr(self, each.name)
            if fd is not None:
                os.close(fd)

    @property
    def capture_fds(self) -> list[int]:
        """What the capture process inherits."""
        return _given(self.ring, self.wake_write, self.progress_read)

    @property
    def classifier_fds(self) -> list[int]:
        """What is sent to the classifier, in the order of `streamclf.runtime.jobs.FeedJoin`."""
        return _given(self.ring, self.wake_read, self.progress_write)

    def capture_job(self, stream: str, plan: StreamPlan, link: str, liveness_fd: int, liveness_row: int) -> CaptureJob:
        """The job of this stream's capture process."""
        geometry = plan.geometry
        return CaptureJob(
            link=link,
            liveness_fd=liveness_fd,
            liveness_row=liveness_row,
            stream=stream,
            source=plan.source,
            fps=geometry.fps,
            frames_per_chunk=geometry.frames_per_chunk,
            height=geometry.height,
            width=geometry.width,
            resize=geometry.resize,
            ring_fd=self.ring,
            wake_fd=self.wake_write,
            progress_fd=self.progress_read,
        )


def _pipe() -> tuple[int, int]:
    """(read end, write end), neither of which ever blocks."""
    ends = os.pipe()
    for fd in ends:
        os.set_blocking(fd, False)
    return ends


def _given(*fds: int | None) -> list[int]:
    return [fd for fd in fds if fd is not None]
