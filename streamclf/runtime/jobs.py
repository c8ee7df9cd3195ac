"""What the supervisor tells each child process, as one line of JSON on its standard input.

Never on the command line: a source's URL may carry a password, and `ps` shows arguments to everybody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from streamclf.config.actions import StreamActions
from streamclf.config.service import EngineConfig, StreamConfig


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Job(_Message):
    """What every child is told."""

    link: str
    """ZeroMQ endpoint on which the hub takes events from producers."""
    liveness_fd: int | None = None
    """Shared memory for signs of life (`streamclf.runtime.liveness`); None where nobody watches."""
    liveness_row: int = 0


class CaptureJob(Job):
    """One stream: read `source`, sample it, write chunks of (t, H, W, 3) uint8 RGB into the ring."""

    stream: str
    source: StreamConfig
    fps: float
    frames_per_chunk: int
    height: int
    width: int
    resize: Literal["stretch", "crop", "letterbox"]
    ring_fd: int
    wake_fd: int
    """Write end of a non-blocking pipe: one byte after each committed chunk."""
    progress_fd: int | None = None
    """Read end of a pipe that says how far the ring has been read; None where the stream waits for nobody."""


class ClassifierJob(Job):
    """One engine; the streams that it serves join and leave through `ClassifierChange`."""

    bundle: Path
    engine: EngineConfig
    streams: int
    """How many streams it will begin with."""
    capacity: int
    """How many streams its bank must have room for."""


class StreamSettings(_Message):
    """What of a stream is the classifier's business alone, and may change while it runs."""

    hop: int
    actions: StreamActions
    adaptive: bool = False
    max_staleness_ms: float | None = None
    motion_gate: float = 0.0


class FeedJoin(_Message):
    """A stream that is to be classified from now on. Its ring's descriptor comes with it, then the read end of its wake
    pipe, then, where capture waits for the classifier, the write end of its progress pipe."""

    stream: str
    settings: StreamSettings
    resumed: bool
    """Another classifier read this ring before: what it holds may have been classified already."""


class ClassifierChange(_Message):
    """What is different for a running classifier; absent keys change nothing."""

    descriptors: int = 0
    join: FeedJoin | None = None
    leave: str | None = None
    """A stream whose capture has ended: what waits in its ring is still classified."""
    update: dict[str, StreamSettings] = {}
    """By stream."""


class HubChange(_Message):
    """What is different for a running hub."""

    keep_s: float
    keep_bytes: int | None


class HubJob(Job):
    """The journal and the sockets of the outside world."""

    events: str
    replay: str
    journal: Path
    keep_s: float
    keep_bytes: int | None = None
    keys: Path | None = None
    """The service's secret key file; together with `allow`, the directory of the public keys that may connect."""
    allow: Path | None = None
    high_water: int = 2000
    """Messages kept for one slow subscriber."""
