"""Read the service's configuration from one YAML file; every error names key, value and remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from engines.backends.names import Backend, Precision
from streamclf.config.actions import UNKNOWN, ActionConfig, ActionOverride, StreamActions, UnknownBelow
from streamclf.config.classify import ClassifyConfig, FeedOptions, StreamSettings
from streamclf.config.hours import zone_of
from streamclf.config.section import Section
from streamclf.config.source import SourceConfig
from streamclf.config.units import Duration, Size
from streamclf.errors import ConfigError
from streamclf.net.endpoints import ENDPOINT
from streamclf.net.names import STREAM_NAME_PATTERN

MAX_CONFIG_BYTES = 1 << 20
MAX_STREAMS = 400

StreamName = Annotated[str, Field(pattern=STREAM_NAME_PATTERN)]
PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


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


class StreamConfig(ClassifyConfig, SourceConfig):
    """One named stream: its source, and how it is classified."""

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
        description="Age after which events are removed from the journal: a number and s, m, h, d or w.",
    )
    keep_size: Size | None = Field(
        None,
        description="Size of the journal beyond which the oldest events are removed sooner: a number and KB, MB, GB, "
        "TB, KiB, MiB or GiB, at least 1MB.",
    )
    keys: Path | None = Field(
        None, description="Path of the service's secret key file, made by `streamclf keys`. Needs `allow`."
    )
    allow: Path | None = Field(
        None, description="Path of a directory with the public keys (*.key) that may connect. Needs `keys`."
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
    def _check_keys_and_allow(self) -> PublishConfig:
        if (self.keys is None) != (self.allow is None):
            raise ValueError("keys and allow go together: the service's own secret, and who may connect")
        return self


class ServiceConfig(Section):
    """The whole configuration of `streamclf run`."""

    model: str = Field(
        "camera-events",
        min_length=1,
        description="Name of a built-in model, or path of a bundle's directory, relative to the configuration.",
    )
    engine: EngineConfig = Field(EngineConfig(), description="How the model runs.")
    streams: dict[StreamName, StreamConfig] = Field(
        min_length=1, max_length=MAX_STREAMS, description=f"Streams by name, 1 to {MAX_STREAMS}."
    )
    actions: dict[str, ActionConfig] = Field(
        default_factory=dict, description="Labels that are reported as actions, with their thresholds and times."
    )
    unknown_below: UnknownBelow = 0.0
    timezone: str | None = Field(
        None,
        max_length=128,
        description="Time zone of the hours in `active`, like Europe/Berlin. If not set, the machine's.",
    )
    publish: PublishConfig = Field(PublishConfig(), description="Where events are published and kept.")

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

    `${NAME}` in a value is replaced from `environ`. Raises `ConfigError`: one line with key and remedy.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: {path.stat().st_size} bytes; a configuration has at most {MAX_CONFIG_BYTES}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8 (byte {error.start}); give a YAML file") from error
    try:
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds {type(raw).__name__}, not keys and values; it needs at least streams:")
    return parse_config(_substitute(raw, environ, ()), base=path.parent, origin=str(path))


def parse_config(raw: Mapping[str, Any], *, base: Path, origin: str) -> ServiceConfig:
    """Validate a configuration. Relative paths in it are relative to `base`; errors begin with `origin`."""
    try:
        config = ServiceConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {'; '.join(_messages(error))}") from None  # its text may show passwords
    return _with_absolute_paths(config, base)


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses repeated keys and reads only true and false as booleans.

    A repeated key would silently lose the first stream of that name; `on` and `off` are keys of an action.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - a class attribute of the base class, too
        letter: [item for item in resolvers if item[0] != "tag:yaml.org,2002:bool"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"key {key!r} appears twice, again in line {key_node.start_mark.line + 1}")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _substitute(value: Any, environ: Mapping[str, str], where: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(item, environ, (*where, str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, environ, (*where, str(i))) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        name = match[1]
        if name not in environ:
            raise ConfigError(f"{'.'.join(where)}: environment variable {name} is not set; export it first")
        # A password may contain @ : / % ?, which would end the user part of a URL too early.
        in_user_part = "://" in value[: match.start()] and "@" in value[match.end() :]
        return quote(environ[name], safe="") if in_user_part else environ[name]

    return PLACEHOLDER.sub(replacement, value)


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
    return config.model_copy(update={"streams": streams, "publish": publish, "model": model})


def _absolute_paths(stream: StreamConfig, base: Path) -> dict[str, str]:
    found = {"images": stream.images, "tls_ca": stream.tls_ca}
    if stream.is_file and stream.url is not None:
        found["url"] = stream.url.removeprefix("file://")
    if stream.push is not None and "/" in stream.push and "://" not in stream.push:
        found["push"] = stream.push
    return {key: str(base / path) for key, path in found.items() if path is not None}


def _messages(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"] if part != "[key]")
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key; known here: {', '.join(_known_keys(item['loc']))}"
        elif isinstance(item.get("input"), (bool, int, float)) or (
            isinstance(item.get("input"), str) and item["loc"][-1] not in ("url", "push_secret")
        ):
            where = f"{where}={item['input']}"
        yield f"{where}: {message}" if where else message


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "engine": EngineConfig,
        "streams": StreamConfig,
        "actions": ActionConfig,
        "publish": PublishConfig,
    }
    section = sections.get(str(loc[0]), ServiceConfig) if len(loc) > 1 else ServiceConfig
    if len(loc) > 3 and loc[0] == "streams" and loc[2] == "actions":
        section = ActionOverride
    return list(section.model_fields)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
