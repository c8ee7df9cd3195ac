"""Read the service's configuration from one YAML file; every error names key, value and remedy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator, model_validator

from engines.backends.names import Backend, Precision
from engines.printable import printable
from streamclf.config.actions import UNKNOWN, ActionConfig, ActionOverride, StreamActions, UnknownBelow, compose_labels
from streamclf.config.classify import ClassifyConfig, FeedOptions, StreamSettings
from streamclf.config.clips import ClipsConfig
from streamclf.config.defaults import SOURCE_KEYS, StreamDefaults, merge_defaults
from streamclf.config.error_text import describe
from streamclf.config.hours import zone_of
from streamclf.config.outlets import OUTLETS, OutletsConfig
from streamclf.config.placeholders import Substitution, register_config_secrets
from streamclf.config.section import Section
from streamclf.config.source import SourceConfig
from streamclf.config.units import MAX_DURATION_S, MAX_SIZE_BYTES, Duration, MemoryLimit, Size
from streamclf.config.variables import Variables, variables_path
from streamclf.config.yaml_text import Place, YamlTextError, parse_yaml
from streamclf.errors import ConfigError, UsageError
from streamclf.net.endpoints import ENDPOINT
from streamclf.net.names import MAX_NAME_CHARS, STREAM_NAME_PATTERN
from streamclf.net.trusted_files import read_small_text
from streamclf.redact import redact

MAX_CONFIG_BYTES = 1 << 20
MAX_STREAMS = 400

_KINDS: Final[Mapping[type, str]] = {list: "a list", str: "a text"}
StreamName = Annotated[str, Field(pattern=STREAM_NAME_PATTERN)]


class EngineConfig(Section):
    """The options of the engine, for all streams together."""

    backend: Backend = Field(
        "auto",
        description="Inference library: `auto` takes TensorRT where it and a GPU are available, else OpenVINO, else "
        "onnxruntime.",
    )
    precision: Precision = Field(
        "auto",
        description="Numerical precision: `auto` takes the fastest that reproduces the model's reference clip on this "
        "device, at worst fp32.",
    )
    max_batch: int = Field(
        16, ge=1, le=256, description="Most chunks in one encode, and most windows in one classification."
    )
    max_wait_ms: float = Field(
        20.0,
        ge=0,
        le=1000,
        description="Milliseconds that a chunk waits at most for chunks of other streams, to be encoded together. 0 "
        "never waits.",
    )
    max_staleness_ms: float | None = Field(
        None,
        ge=1,
        le=3_600_000,
        description="Age in milliseconds of a window's newest frame beyond which the window is dropped instead of "
        "classified. If not set, there is no limit.",
    )
    adaptive: bool = Field(False, description="Predict less often, with longer hops, while the machine cannot keep up.")
    threads: int = Field(0, ge=0, le=256, description="Most CPU threads of inference; 0 uses all cores.")
    spare_streams: int = Field(
        4,
        ge=0,
        le=400,
        description="Streams that may be added to a running service before its classifier has to restart.",
    )
    memory_limit: MemoryLimit | None = Field(
        None,
        description="Memory of the classifier's process beyond which it is restarted, at least 200MB. If not set, "
        "there is no limit, because models differ too much.",
    )


class StreamConfig(ClassifyConfig, SourceConfig):
    """One named stream: its source, and how it is classified."""

    name: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_NAME_CHARS,
        description="Name for people, shown by outlets such as Home Assistant: any text on one line. If not set, the "
        "stream's key.",
    )

    enabled: bool = Field(
        True,
        description="`false` pauses the stream: it stays in the configuration, but nothing reads its source. Its state "
        "is `offline`, with `paused: true`.",
    )

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if printable(value) != value:
            raise ValueError(f"{value!r}: holds a control character or a line break; give text on one line")
        if not value.strip():
            raise ValueError("blank; give a text, or leave name out")
        return value.strip()

    @property
    def source(self) -> SourceConfig:
        """The keys of `SourceConfig` alone, for the capture process."""
        return SourceConfig.model_construct(**{key: getattr(self, key) for key in SourceConfig.model_fields})


class PublishConfig(Section):
    """The endpoints, the journal and the keys of the service."""

    events: str = Field(
        "tcp://127.0.0.1:5555",
        description="ZeroMQ endpoint of live events (PUB), tcp:// or ipc://. Port * takes a free one.",
    )
    replay: str = Field(
        "tcp://127.0.0.1:5556", description="ZeroMQ endpoint for snapshots and replay (ROUTER), tcp:// or ipc://."
    )
    journal: Path = Field(Path("streamclf.db"), description="Path of the SQLite file in which every event is stored.")
    keep: Duration = Field(
        "7d",
        validate_default=True,
        description="Age after which events are removed from the journal: a number and s, m, h, d or w, at most "
        f"{MAX_DURATION_S // 86400}d.",
    )
    keep_size: Size | None = Field(
        None,
        description="Size of the journal beyond which the oldest events are removed sooner: a number and KB, MB, GB, "
        f"TB, KiB, MiB or GiB, 1MB to {MAX_SIZE_BYTES // 10**12}TB.",
    )
    keys: Path | None = Field(
        None, description="Path of the service's secret key file, made by `streamclf keys`. Needs `allow`."
    )
    allow: Path | None = Field(
        None, description="Path of a directory with the public keys (*.key) that may connect. Needs `keys`."
    )
    memory_limit: MemoryLimit = Field(
        "1GB",
        validate_default=True,
        description="Memory of the hub's process beyond which it is restarted, at least 200MB. It needs 50 to 100 MB.",
    )

    @field_validator("events", "replay")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        match = ENDPOINT.match(value)
        if not match:
            raise ValueError(f"{value!r}: like tcp://127.0.0.1:5555 or ipc:///run/streamclf/events")
        if match[2] and match[2] != "*" and not 1 <= int(match[2]) <= 65535:
            raise ValueError(f"port {match[2]}: 1 to 65535")
        return value

    @model_validator(mode="after")
    def _check_pairs(self) -> PublishConfig:
        if (self.keys is None) != (self.allow is None):
            raise ValueError("keys and allow go together: the service's own secret, and who may connect")
        if self.events == self.replay and not self.events.endswith(":*"):
            raise ValueError(f"events and replay are both {self.events}; give each its own")
        return self


class ServiceConfig(Section):
    """The whole configuration of `streamclf run`."""

    model: str = Field(
        "camera-events",
        min_length=1,
        description="Name of a built-in model, or path of a bundle's directory, relative to the configuration.",
    )
    engine: EngineConfig = Field(EngineConfig(), description="How the model runs.")
    defaults: StreamDefaults = Field(
        StreamDefaults(),
        description="Keys of `streams`, for every stream that does not set them itself; all but name, enabled, camera, "
        "url, images, push and fps.",
    )
    streams: dict[StreamName, StreamConfig] = Field(
        min_length=1, max_length=MAX_STREAMS, description=f"Streams by name, 1 to {MAX_STREAMS}."
    )
    actions: Annotated[dict[str, ActionConfig], AfterValidator(compose_labels)] = Field(
        default_factory=dict, description="Labels that are reported as actions, with their thresholds and times."
    )
    unknown_below: UnknownBelow = 0.0
    timezone: str | None = Field(
        None,
        max_length=128,
        description="Time zone of the hours in `active`, like Europe/Berlin. If not set, the machine's.",
    )
    clips: ClipsConfig | None = Field(None, description="Films of the actions. If not set, there are none.")
    publish: PublishConfig = Field(PublishConfig(), description="Where events are published and kept.")
    outlets: OutletsConfig = Field(OutletsConfig(), description="Other systems that get the events.")

    @model_validator(mode="before")
    @classmethod
    def _fill_empty_clips(cls, values: Any) -> Any:
        """Take `clips:` without keys for clips with their defaults."""
        if isinstance(values, Mapping) and "clips" in values and values["clips"] is None:
            return {**values, "clips": {}}
        return values

    @field_validator("timezone")
    @classmethod
    def _check_zone(cls, value: str | None) -> str | None:
        zone_of(value)
        return value

    @model_validator(mode="after")
    def _check_overrides(self) -> ServiceConfig:
        for name in self.streams:
            self.actions_of(name)
        return self

    def actions_of(self, stream: str) -> StreamActions:
        """Return the actions of one stream: the actions of all streams, with this stream's overrides."""
        own = self.streams[stream]
        labels = dict(self.actions)
        for label, override in own.actions.items():
            labels[label] = override.applied_to(self.actions.get(label), f"streams.{stream}.actions.{label}")
        unknown_below = self.unknown_below if own.unknown_below is None else own.unknown_below
        if unknown_below > 0:
            labels.setdefault(UNKNOWN, ActionConfig())
        return StreamActions(labels=labels, unknown_below=unknown_below, timezone=self.timezone)

    def settings_of(self, stream: str) -> StreamSettings:
        """Return how the classifier treats one stream; keys that it does not set take the values of `engine`."""
        own = self.streams[stream]
        options = {key: getattr(own, key) for key in FeedOptions.model_fields}
        common = {key: getattr(self.engine, key) for key, value in options.items() if value is None}
        return StreamSettings(**{**options, **common}, actions=self.actions_of(stream))


def load_config(path: Path, environ: Mapping[str, str] = os.environ) -> ServiceConfig:
    """Read the configuration in the YAML file `path`; relative paths in it are relative to its directory.

    `${NAME}` in a value is replaced from `environ`, else from the file `NAME.env` beside `path`. Raises `ConfigError`:
    one line with key and remedy, and no secret.
    """
    try:
        text = read_small_text(path, max_bytes=MAX_CONFIG_BYTES, remedy="give the path of a YAML file")
    except UsageError as error:
        raise ConfigError(str(error)) from None
    return parse_config_text(text, path, Variables(environ, path))


def parse_config_text(text: str, path: Path, environ: Mapping[str, str]) -> ServiceConfig:
    """Validate the text of the YAML file `path`, as `load_config` does; the file need not exist."""
    try:
        document = parse_yaml(text)
    except YamlTextError as error:
        raise ConfigError(f"{path}: {error}") from None
    raw = document.value
    if raw is None:
        raise ConfigError(f"{path}: is empty; it needs at least streams:")
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: holds {_KINDS.get(type(raw), 'a single value')}, not keys and values; it needs at least streams:"
        )
    substitution = Substitution(environ, variables_path(path).name)
    config = _validate(substitution.apply(raw), path.parent, str(path), document.lines, substitution.hide_values)
    clips = config.clips.folder if config.clips else None
    return config.model_copy(update={"outlets": config.outlets.with_service_paths(config=path.absolute(), clips=clips)})


def parse_config(raw: Mapping[str, Any], *, base: Path, origin: str) -> ServiceConfig:
    """Validate a configuration. Relative paths in it are relative to `base`; errors begin with `origin`.

    The passwords and secrets in it are masked in all output from now on.
    """
    return _validate(raw, base, origin, {}, lambda message, _: message)


def _validate(
    raw: Mapping[str, Any],
    base: Path,
    origin: str,
    lines: Mapping[Place, int],
    hide_values: Callable[[str, Place], str],
) -> ServiceConfig:
    register_config_secrets(raw)
    raw = merge_defaults(raw)
    try:
        config = ServiceConfig.model_validate(raw)
    except ValidationError as error:
        text = describe(error, lines=lines, known_keys=_known_keys, fields=_FIELDS, hide_values=hide_values)
        raise ConfigError(f"{origin}: {redact(text)}") from None  # pydantic's text may show passwords
    return _with_absolute_paths(config, base)


def _with_absolute_paths(config: ServiceConfig, base: Path) -> ServiceConfig:
    streams = {name: stream.model_copy(update=_absolute_paths(stream, base)) for name, stream in config.streams.items()}
    publish = config.publish.model_copy(
        update={
            key: base / path
            for key in ("journal", "keys", "allow")
            if (path := getattr(config.publish, key)) is not None
        }
    )
    local_bundle = base / config.model
    model = str(local_bundle) if local_bundle.is_dir() else config.model
    outlets = config.outlets.with_absolute_paths(base)
    clips = config.clips and config.clips.model_copy(update={"folder": base / config.clips.folder})
    return config.model_copy(
        update={"streams": streams, "publish": publish, "model": model, "outlets": outlets, "clips": clips}
    )


def _absolute_paths(stream: StreamConfig, base: Path) -> dict[str, str]:
    found = {"images": stream.images, "tls_ca": stream.tls_ca}
    if stream.is_file and not stream.is_file_url:
        found["url"] = stream.url
    if stream.push is not None and "/" in stream.push and "://" not in stream.push:
        found["push"] = stream.push
    return {key: str(base / path) for key, path in found.items() if path is not None}


def _known_keys(loc: Place) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "engine": EngineConfig,
        "defaults": StreamDefaults,
        "streams": StreamConfig,
        "actions": ActionConfig,
        "publish": PublishConfig,
        "clips": ClipsConfig,
        "outlets": OutletsConfig,
    }
    section = sections.get(str(loc[0]), ServiceConfig) if len(loc) > 1 else ServiceConfig
    if (len(loc) > 3 and loc[0] == "streams" and loc[2] == "actions") or (
        len(loc) > 2 and loc[0] == "defaults" and loc[1] == "actions"
    ):
        section = ActionOverride
    elif len(loc) > 2 and loc[0] == "outlets":
        section = OUTLETS[str(loc[1])]
    return [key for key in section.model_fields if section is not StreamDefaults or key not in SOURCE_KEYS]


_SECTIONS: Final[tuple[type[BaseModel], ...]] = (
    ServiceConfig,
    EngineConfig,
    StreamConfig,
    ActionConfig,
    PublishConfig,
    ClipsConfig,
    *OUTLETS.values(),
)
_FIELDS: Final = frozenset(key for section in _SECTIONS for key in section.model_fields)
