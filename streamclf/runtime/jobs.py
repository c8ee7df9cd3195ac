"""Define the messages of the supervisor to its child processes: jobs and changes, one line of JSON each.

They arrive on a child's standard input, never on its command line: the URL of a source may contain a password, and `ps`
shows arguments to everybody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from streamclf.config.classify import StreamSettings
from streamclf.config.service import EngineConfig
from streamclf.config.source import SourceConfig


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Job(_Message):
    """The part of a job that every child gets."""

    link: str
    """ZeroMQ endpoint on which the hub receives events from producers."""
    liveness_fd: int | None = None
    """Shared memory for liveness deadlines (`streamclf.runtime.liveness`); None where nobody watches them."""
    liveness_row: int = 0
    memory_limit: int | None = None
    """Bytes of private memory that the process may use; None for no limit."""


class CaptureJob(Job):
    """The job of one stream: read `source`, sample it, and write chunks of (t, H, W, 3) uint8 RGB into the ring."""

    stream: str
    source: SourceConfig
    fps: float
    frames_per_chunk: int
    height: int
    width: int
    resize: Literal["stretch", "crop", "letterbox"]
    ring_fd: int
    wake_fd: int
    """Write end of a non-blocking pipe: capture writes one byte after each committed chunk."""
    progress_fd: int | None = None
    """Read end of a pipe that reports how far the classifier has read; None where capture does not wait for it."""


class ClassifierJob(Job):
    """The job of one engine. Its streams join and leave through `ClassifierChange`."""

    bundle: Path
    engine: EngineConfig
    streams: int
    """Number of streams at the start."""
    capacity: int
    """Largest number of streams; it sets the size of the bank."""


class FeedJoin(_Message):
    """A stream to be classified from now on.

    Its descriptors come with the message: the ring, the read end of its wake pipe and, where capture waits for the
    classifier, the write end of its progress pipe.
    """

    stream: str
    settings: StreamSettings
    resumed: bool
    """Whether another classifier read this ring before, so that its chunks may have been classified already."""


class ClassifierChange(_Message):
    """Changes for a running classifier. Keys that are not set change nothing."""

    descriptors: int = 0
    join: FeedJoin | None = None
    leave: str | None = None
    """A stream whose capture has ended: the chunks that wait in its ring are still classified."""
    update: dict[str, StreamSettings] = {}
    """New settings by stream."""


class StreamDescription(_Message):
    """The part of a stream's configuration that the hub adds to its statuses, for subscribers."""

    name: str | None = None
    """The stream's name for people."""
    actions: tuple[str, ...] = ()
    """Labels that are reported as actions."""


class HubChange(_Message):
    """Changes for a running hub."""

    keep_s: float
    keep_bytes: int | None
    streams: dict[str, StreamDescription] | None = None
    """The configured streams; None where nobody configures them."""


class HubJob(Job):
    """The job of the hub: the journal, and the sockets to the outside."""

    events: str
    replay: str
    journal: Path
    keep_s: float
    keep_bytes: int | None = None
    streams: dict[str, StreamDescription] | None = None
    """As in `HubChange`."""
    keys: Path | None = None
    """The service's secret key file; together with `allow`, the directory of the public keys that may connect."""
    allow: Path | None = None
    high_water: int = 2000
    """Messages kept for one slow subscriber."""
