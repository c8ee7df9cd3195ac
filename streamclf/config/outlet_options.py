"""Define the options of each kind of outlet. The configuration and the commands share them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from streamclf.config.log_file import Rotation, check_log_file, parse_rotation
from streamclf.config.own_secret import OwnSecret
from streamclf.config.picture_keys import PictureKeys
from streamclf.config.section import Section
from streamclf.config.units import MemoryLimit, Size
from streamclf.errors import UsageError
from streamclf.net.broker_address import parse_broker
from streamclf.net.http_target import parse_target
from streamclf.net.names import STREAM_NAME_PATTERN

MAX_BATCH: Final = 1000
MQTT_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,3}")
MQTT_PREFIX_RULE: Final = "letters, digits, _ and -, in at most 4 levels of 64 characters, like streamclf"
_MAX_STREAMS: Final = 400

EventType: TypeAlias = Literal["prediction", "action", "status", "clip"]

SectionT = TypeVar("SectionT", bound=Section)


def _as_list(value: object) -> object:
    """Split `action, status`; a single text is a list of one."""
    return [each.strip() for each in value.split(",")] if isinstance(value, str) else value


def _check_some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("give at least one, or leave it out")
    return values


Types: TypeAlias = Annotated[tuple[EventType, ...], AfterValidator(_check_some), BeforeValidator(_as_list)]
Streams: TypeAlias = Annotated[
    tuple[Annotated[str, Field(pattern=STREAM_NAME_PATTERN)], ...],
    Field(max_length=_MAX_STREAMS),
    AfterValidator(_check_some),
    BeforeValidator(_as_list),
]
Probability: TypeAlias = Annotated[float, Field(ge=0, le=1)]
_STREAMS_TEXT: Final = "Streams whose events are handed on. If not set, all."
_UPDATES_TEXT: Final = "Also hand on the `update` events of actions, one a second while the action runs."
_MIN_TEXT: Final = (
    "Probability, 0 to 1, below which predictions and actions are left out. For an action its peak counts, so that "
    "each start has its end."
)


def _refuse_usage_error(parse: Any) -> None:
    """Call `parse`; raise its `UsageError` as the `ValueError` that pydantic reports."""
    try:
        parse()
    except UsageError as error:
        raise ValueError(str(error)) from None


class OutletConfig(Section):
    """The keys of every outlet."""

    KIND: ClassVar[str]
    PATHS: ClassVar[tuple[str, ...]] = ()
    """Keys that hold the path of a file."""
    STORES_POSITION: ClassVar[bool] = False
    """Whether the outlet needs a file for its position."""
    ALTERNATIVES: ClassVar[tuple[str, str] | None] = None
    """A key for a secret, and the key for the path of a file with it: at most one of them may be given."""

    name: Annotated[str, Field(pattern=STREAM_NAME_PATTERN)] | None = Field(
        None, description="Name of this outlet among several of its kind: 1 to 64 characters of `A-Z a-z 0-9 _ -`."
    )
    streams: Streams | None = Field(None, description=_STREAMS_TEXT)
    memory_limit: MemoryLimit = Field(
        "500MB",
        validate_default=True,
        description="Memory of the outlet's process beyond which it is restarted, at least 200MB.",
    )

    @model_validator(mode="after")
    def _check_alternatives(self) -> OutletConfig:
        if self.ALTERNATIVES and all(getattr(self, key) is not None for key in self.ALTERNATIVES):
            raise ValueError(f"give {' or '.join(self.ALTERNATIVES)}, not both")
        return self

    @property
    def full_name(self) -> str:
        """The name in logs, in `status` and of the position file, like `webhook` or `webhook-office`."""
        return self.KIND if self.name is None else f"{self.KIND}-{self.name}"


class LogConfig(OutletConfig):
    """Write events to a file, each exactly once."""

    KIND = "log"
    PATHS = ("file",)

    file: Path = Field(description="Path of the log: events.db (SQLite) or events.jsonl.")
    types: Types = Field(
        ("action", "status", "clip"), description="Types of events in the log: prediction, action, status, clip."
    )
    updates: bool = Field(True, description=_UPDATES_TEXT)
    min_probability: Probability = Field(0.0, description=_MIN_TEXT)
    rotate: Annotated[tuple[str, ...], Field(max_length=2), BeforeValidator(_as_list)] = Field(
        (), description="For .jsonl: begin a new file at a size like 100MB, or at an age like 1d, or both."
    )
    keep: int | str | None = Field(
        None,
        description="Age after which events are removed, like 90d; for .jsonl whole files. For .jsonl with `rotate` "
        "also a number of complete files. If not set, no age limits the log.",
    )
    keep_size: Size | None = Field(
        None,
        description="Size of the log beyond which its oldest events are removed; for .jsonl whole files. A number and "
        "KB, MB, GB, TB, KiB, MiB or GiB, at least 1MB. If not set, no size limits the log.",
    )

    @model_validator(mode="after")
    def _check_rotation(self) -> LogConfig:
        _refuse_usage_error(lambda: check_log_file(self.file, self.rotation))
        return self

    @property
    def rotation(self) -> Rotation:
        """The limits of the log's files."""
        return parse_rotation(self.rotate, self.keep, self.keep_size)


class MqttConfig(PictureKeys, OutletConfig):
    """Publish events to an MQTT broker."""

    KIND = "mqtt"
    PATHS = ("clips", "link_token_file")
    STORES_POSITION = True

    broker: str = Field(
        max_length=2048,
        description="Address of the broker, mqtt[s]://[USER:PASSWORD@]HOST[:PORT]. Without a user in it, "
        "STREAMCLF_MQTT_USER and STREAMCLF_MQTT_PASSWORD count.",
    )
    prefix: str = Field("streamclf", description="First part of all topics.")
    discovery: bool = Field(True, description="Publish the messages by which Home Assistant finds the entities.")
    types: Types = Field(
        ("action",), description="Types of events that are published whole: prediction, action, status, clip."
    )
    updates: bool = Field(False, description=_UPDATES_TEXT)
    min_probability: Probability = Field(0.0, description=_MIN_TEXT)
    from_start: bool = Field(
        False, description="At the first start, begin with the oldest event of the journal, not with new events."
    )

    @field_validator("broker")
    @classmethod
    def _check_broker(cls, value: str) -> str:
        _refuse_usage_error(lambda: parse_broker(value, os.environ))
        return value

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        if not MQTT_PREFIX.fullmatch(value):
            raise ValueError(MQTT_PREFIX_RULE)
        return value


class WebhookConfig(PictureKeys, OutletConfig):
    """Post events to a web address."""

    KIND = "webhook"
    ALTERNATIVES = ("secret", "secret_file")
    PATHS = ("secret_file", "clips", "link_token_file")
    STORES_POSITION = True

    url: str = Field(max_length=2048, description="Address to which events are posted, http(s)://….")
    secret: OwnSecret | None = Field(
        None, description="Key that signs each request, at least 16 characters, like `${WEBHOOK_SECRET}`."
    )
    secret_file: Path | None = Field(None, description="Path of a file with this key, instead of `secret`.")
    types: Types = Field(("action",), description="Types of events that are posted: prediction, action, status, clip.")
    updates: bool = Field(False, description=_UPDATES_TEXT)
    min_probability: Probability = Field(0.0, description=_MIN_TEXT)
    batch: int = Field(1, ge=1, le=MAX_BATCH, description="Largest number of events in one request.")
    from_start: bool = Field(
        False, description="At the first start, begin with the oldest event of the journal, not with new events."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        _refuse_usage_error(lambda: parse_target(value))
        return value


class MetricsConfig(OutletConfig):
    """Serve /metrics and /healthz over HTTP."""

    KIND = "metrics"
    ALTERNATIVES = ("token", "token_file")
    PATHS = ("token_file",)

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        max_length=255,
        description="Address to listen on; other than loopback needs a token.",
    )
    port: int = Field(9108, ge=0, le=65535, description="Port to listen on; 0 takes any free port.")
    token: OwnSecret | None = Field(
        None, description="Token that clients must send, at least 16 characters, like `${METRICS_TOKEN}`."
    )
    token_file: Path | None = Field(None, description="Path of a file with this token, instead of `token`.")
    stalled_after: float = Field(
        60.0, ge=1, le=86400, description="Seconds that a stream may be down before /healthz reports it."
    )


class WebConfig(OutletConfig):
    """Serve the page: live pictures, events, health and settings in a browser."""

    KIND = "web"
    ALTERNATIVES = ("token", "token_file")
    PATHS = ("token_file", "clips", "config")
    STORES_POSITION = True

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        max_length=255,
        description="Address to listen on; other than loopback needs a token.",
    )
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes any free port.")
    token: OwnSecret | None = Field(
        None, description="Token for the login, at least 16 characters, like `${PAGE_TOKEN}`."
    )
    token_file: Path | None = Field(None, description="Path of a file with this token, instead of `token`.")
    clips: Path | None = Field(
        None, description="Path of the folder with the clips. If not set, the folder of the service's own clips."
    )
    config: Path | None = Field(
        None,
        description="Path of the configuration that the page changes. If not set, the file of the service itself.",
    )
