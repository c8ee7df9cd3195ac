"""Define the messages of the supervisor to its child processes: jobs and changes, one line of JSON each.

They arrive on a child's standard input, never on its command line: the URL of a source may contain a password, and `ps`
shows arguments to everybody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamclf.config.classify import StreamSettings
from streamclf.config.clips import ClipsConfig
from streamclf.config.service import EngineConfig
from streamclf.config.source import SourceConfig
from streamclf.events.configuration_status import ConfigurationStatus
from streamclf.events.outlet_status import OutletStatus


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Job(_Message):
    """The part of a job that every child gets."""

    liveness_fd: int | None = None
    """Shared memory for liveness deadlines (`streamclf.runtime.liveness`); None where nobody watches them."""
    liveness_row: int = 0
    memory_limit: int | None = None
    """Bytes of private memory that the process may use; None for no limit."""


class LinkedJob(Job):
    """The part of a job that the hub and the producers of events get."""

    link: str
    """ZeroMQ endpoint on which the hub receives events from producers."""


class CaptureJob(LinkedJob):
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
    clips: ClipsConfig | None = None
    """Films of the stream's actions; None for none."""


class ClassifierJob(LinkedJob):
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


class HubSettings(_Message):
    """The part of the hub's job that changes while it runs."""

    keep_s: float
    keep_bytes: int | None
    streams: dict[str, StreamDescription] | None = None
    """The configured streams; None where nobody configures them."""


class HubChange(_Message):
    """Changes for a running hub. Keys that are not set change nothing."""

    settings: HubSettings | None = None
    outlets: dict[str, OutletStatus] | None = None
    """The service's outlets by name, for the next heartbeats."""
    configuration: ConfigurationStatus | None = None
    """The result of the last reading of the configuration file, for the next heartbeats."""


class HubJob(LinkedJob):
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
    own_key: str | None = None
    """Public key of the service's own outlets, which may connect besides those in `allow`."""
    high_water: int = 2000
    """Messages kept for one slow subscriber."""


class HubReady(_Message):
    """The hub's report that it is ready: its endpoints as bound, and the newest event in its journal."""

    events: str
    replay: str
    epoch: str
    head: int


class OutletAccess(_Message):
    """The CURVE keys with which an outlet connects to the hub of its service, Z85."""

    public: str
    secret: str = Field(repr=False)
    server: str


class OutletJob(Job):
    """The job of one outlet."""

    name: str
    """Its name in the log, like `webhook-office`."""
    kind: str
    options: dict[str, Any] = Field(repr=False)
    """The keys of its section of the configuration; they may hold secrets."""
    events: str
    access: OutletAccess | None = None
    """None for a service without keys."""
    position: Path | None = None
    """File of the position; None for an outlet that needs none."""
    begin: tuple[str, int] | None = None
    """(epoch, offset) after which an outlet without a stored position begins; None for the next event."""


class OutletChange(_Message):
    """A change for a running outlet: end as soon as everything that is in the journal now has been handed on."""

    finish: Literal[True] = True
