"""Define the messages of the supervisor to its child processes: jobs and changes, one line of JSON each.

They arrive on a child's standard input, never on its command line: the URL of a source may contain a password, and `ps`
shows arguments to everybody. `streamclf.runtime.capture_job` has the messages to a capture process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from streamclf.config.classify import HeadSettings, StreamSettings
from streamclf.config.engine import EngineConfig
from streamclf.events.configuration_status import ConfigurationStatus
from streamclf.events.device_status import DeviceStatus
from streamclf.events.outlet_status import OutletStatus
from streamclf.events.views import ViewDescription


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


class ClassifierJob(LinkedJob):
    """The job of one engine group. Feeds join and leave through `ClassifierChange`."""

    producer: str = "classifier"
    """The name under which the process sends events to the hub, unique in the service."""
    bundles: dict[str, Path]
    """The group's bundles by the name of the model, "" for the model without a name: the same encoder, geometry and
    feature shape. At least one."""
    engine: EngineConfig
    device: int | None = None
    """Number of the GPU that it uses; None for the default. Only a process with a number reports its load."""
    streams: int
    """Number of feeds at the start."""
    capacity: int
    """Largest number of feeds; it sets the size of the bank."""


class ClassifierReady(_Message):
    """The classifier's report that it serves: the first line of its output."""

    engine: str
    failed: dict[str, str] = {}
    """Models that cannot be opened while others of the group can: the reason by the name of the model."""


class ModelReport(_Message):
    """The classifier's report about one model of `ClassifierChange.add_models`: one line of its output for each."""

    model: str
    error: str | None = None
    """Why the model cannot be opened; None if it serves."""


class FeedLeft(_Message):
    """The classifier's report that it has done `ClassifierChange.hand_over`: it does not read the feed any more."""

    feed: str


class ClassifierLoad(_Message):
    """The classifier's report about its load: one line of its output, when that has changed."""

    chunk_s: float
    """Time that it takes to encode one chunk."""
    window_s: dict[str, float]
    """Time that one window takes, by model."""
    busy: float
    """Share of the time that it needs, with every feed served at its own hop. Above 1 it cannot keep up."""
    is_overloaded: bool
    """Whether it serves feeds less often than configured, or not at all."""


ClassifierReport: TypeAlias = ModelReport | FeedLeft | ClassifierLoad
"""One line of the classifier's output after the first. No two of these messages have a key in common."""


class FeedJoin(_Message):
    """A feed to be classified from now on: one view of one stream.

    Its descriptors come with the message: the ring, the read end of its wake pipe, where capture waits for the
    classifier the write end of its progress pipe, and with `card` its channel for chunks in a GPU's memory.
    """

    feed: str
    """Unique in the classifier: the stream's name or, for a region, STREAM/REGION."""
    stream: str
    region: str | None = None
    settings: StreamSettings
    heads: dict[str, HeadSettings]
    """The models that classify the feed, by name. Names that the classifier does not serve yet are kept: such a model
    begins when `add_models` has opened it."""
    card: bool = False
    """Whether a GPU may decode the stream, so that its chunks can stay on the GPU."""
    resumed: bool
    """Whether another classifier read this ring before, so that its chunks may have been classified already."""


class FeedUpdate(_Message):
    """New settings of a feed, complete: a head that is not in `heads` ends on this feed."""

    settings: StreamSettings
    heads: dict[str, HeadSettings]


class ClassifierChange(_Message):
    """Changes for a running classifier, applied in the order of the keys. Keys that are not set change nothing."""

    descriptors: int = 0
    join: FeedJoin | None = None
    leave: str | None = None
    """A feed whose capture has ended: the chunks that wait in its ring are still classified."""
    hand_over: str | None = None
    """A feed that another process classifies next: it leaves, and the classifier answers with `FeedLeft`."""
    add_models: dict[str, Path] = {}
    """Bundles of this group by model, opened while the others go on. The classifier answers with a `ModelReport`."""
    update: dict[str, FeedUpdate] = {}
    """New settings by feed."""
    remove_models: tuple[str, ...] = ()


class StreamDescription(_Message):
    """The part of a stream's configuration that the hub adds to its statuses, for subscribers."""

    name: str | None = None
    """The stream's name for people."""
    actions: tuple[str, ...] = ()
    """Distinct labels that are reported as actions, in any view."""
    views: tuple[ViewDescription, ...] = ()
    """The stream's views; empty for one unnamed model on the whole picture."""


class HubSettings(_Message):
    """The part of the hub's job that changes while it runs."""

    keep_s: float
    keep_bytes: int | None
    streams: dict[str, StreamDescription] | None = None
    """The configured streams; None where nobody configures them."""
    examples: bool = False
    """Whether stretches of streams may be saved on request."""


class HubChange(_Message):
    """Changes for a running hub. Keys that are not set change nothing."""

    settings: HubSettings | None = None
    outlets: dict[str, OutletStatus] | None = None
    """The service's outlets by name, for the next heartbeats."""
    devices: dict[str, DeviceStatus] | None = None
    """The listed GPUs by number, for the next heartbeats."""
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
    """As in `HubSettings`."""
    examples: bool = False
    """As in `HubSettings`."""
    keys: Path | None = None
    """The service's secret key file; together with `allow`, the directory of the public keys that may connect."""
    allow: Path | None = None
    own_key: str | None = None
    """Public key of the service's own outlets, which may connect besides those in `allow`."""
    leases: Path | None = None
    """File of the leases (`streamclf.runtime.lease_file`); None for a service outside a fleet."""
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
