"""The service's configuration: one YAML file, unknown keys refused, every error with key, value and remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engines.backends.names import Backend, Precision
from streamclf.config.actions import UNKNOWN, ActionConfig, ActionOverride, StreamActions, UnknownBelow
from streamclf.config.hours import zone_of
from streamclf.errors import ConfigError, SourceError
from streamclf.net.endpoints import ENDPOINT
from streamclf.net.names import STREAM_NAME_PATTERN
from streamclf.net.push_protocol import MIN_SECRET_CHARS, parse_push_address

MAX_CONFIG_BYTES = 1 << 20
MAX_STREAMS = 400

StreamName = Annotated[str, Field(pattern=STREAM_NAME_PATTERN)]
SOURCES = ("camera", "url", "images", "push")
URL_SCHEMES = ("rtsp", "rtsps", "http", "https", "file")
FROZEN_S = 30.0
"""Cameras that save bits send a key frame every 10 to 20 s, and of an empty room exact copies in between."""
DURATION = re.compile(r"^(\d+(?:\.\d+)?)(s|m|h|d|w)$")
DURATION_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
SIZE = re.compile(r"^(\d+(?:\.\d+)?)(MB|GB|TB)$")
SIZE_BYTES = {"MB": 1e6, "GB": 1e9, "TB": 1e12}
PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EngineConfig(_Section):
    """How the model runs."""

    backend: Backend = "auto"
    precision: Precision = "auto"
    max_batch: int = Field(16, ge=1, le=256, description="chunks in one encode, windows in one classify")
    max_wait_ms: float = Field(
        20.0, ge=0, le=1000, description="a chunk waits for those of other streams, to be encoded together; 0: never"
    )
    max_staleness_ms: float | None = Field(
        None, ge=1, le=3_600_000, description="a window whose newest frame is older is dropped, not classified"
    )
    adaptive: bool = Field(False, description="predict less often while the machine cannot keep up")
    threads: int = Field(0, ge=0, le=256, description="CPU threads of inference, at most; 0: all cores")
    spare_streams: int = Field(
        4, ge=0, le=400, description="streams that may join a running service before its classifier is started anew"
    )


class StreamConfig(_Section):
    """One named source and how it is sampled."""

    camera: int | str | None = Field(None, description="index or device path of a webcam")
    url: str | None = Field(None, min_length=1, max_length=2048, description="RTSP, HTTP, HLS or a file's path")
    images: str | None = Field(None, min_length=1, max_length=1024, description="folder of pictures, by name")
    push: str | None = Field(
        None, min_length=1, max_length=1024, description="name, socket or tcp://127.0.0.1:PORT for streamclf.push"
    )
    push_secret: str | None = Field(None, max_length=1024, description="what a program that pushes has to know")
    fps: float | None = Field(None, gt=0, le=1000, description="images only: pictures per second")
    transport: Literal["tcp", "udp"] = "tcp"
    demuxer: Literal["auto", "rtp", "ffmpeg"] = Field(
        "auto", description="RTSP only: rtp, our own client; ffmpeg, which adds a frame interval; auto, who understands"
    )
    decode: Literal["auto", "cpu", "cuda", "vaapi", "videotoolbox"] = Field(
        "cpu", description="files and URLs: where; auto, the first device that opens; what cannot be had is the cpu's"
    )
    tls_ca: str | None = Field(
        None, max_length=1024, description="rtsps and https: PEM file of the certificates to trust; else the system's"
    )
    tls_verify: bool = Field(True, description="rtsps and https: false trusts whoever answers")
    pace: Literal["realtime", "fast"] = Field("realtime", description="files, images: by their clock, or at once")
    loop: bool = Field(False, description="files, images: begin again at the end")
    hop: int = Field(1, ge=1, le=1024, description="chunks between two predictions")
    adaptive: bool | None = Field(None, description="if it differs here from engine.adaptive")
    max_staleness_ms: float | None = Field(
        None, ge=1, le=3_600_000, description="if it differs here from engine.max_staleness_ms"
    )
    motion_gate: float = Field(
        0.0, ge=0, le=255, description="grey levels by which a chunk must differ to be encoded anew; 0: every chunk is"
    )
    open_timeout_s: float = Field(5.0, gt=0, le=120)
    read_timeout_s: float = Field(2.0, gt=0, le=120)
    actions: dict[str, ActionOverride] = Field(default_factory=dict, description="by label: what differs here")
    unknown_below: UnknownBelow | None = Field(None, description="if it differs here")
    frozen_s: float | None = Field(
        None, ge=0, le=86400, description="seconds without a new picture until the stream is frozen; 0: never"
    )

    @model_validator(mode="after")
    def _one_source(self) -> StreamConfig:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(SOURCES)}; {' and '.join(given) or 'none'} was given")
        if isinstance(self.camera, int) and not 0 <= self.camera <= 99:
            raise ValueError(f"camera={self.camera}: 0 to 99")
        if not self.ends and (self.loop or self.pace == "fast"):
            raise ValueError("pace: fast and loop: true are for files and images; a live source has its own clock")
        if self.url is None and self.decode != "cpu":
            raise ValueError(f"decode: {self.decode} is for files and URLs; leave it out")
        if (self.images is None) != (self.fps is None):
            raise ValueError("images and fps go together: a folder of pictures has no rate of its own, others do")
        self._check_push()
        return self

    def _check_push(self) -> None:
        if self.push is None:
            if self.push_secret is not None:
                raise ValueError("push_secret without push")
            return
        secret = self.push_secret or ""
        if self.push.startswith("tcp:") and len(secret) < MIN_SECRET_CHARS:
            raise ValueError(
                f"push over tcp needs a push_secret of at least {MIN_SECRET_CHARS} characters, like ${{PUSH_SECRET}}"
            )
        try:
            parse_push_address(self.push)
        except SourceError as error:
            raise ValueError(str(error)) from None

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str | None) -> str | None:
        if url is not None and "://" in url:
            scheme = urlsplit(url).scheme.lower()
            if scheme not in URL_SCHEMES:
                raise ValueError(f"scheme {scheme!r}: one of {', '.join(URL_SCHEMES)}, or a file's path")
        return url

    @property
    def frozen_after_s(self) -> float:
        """`frozen_s`, or what suits the source: cameras make noise; films and programs may show one picture."""
        if self.frozen_s is not None:
            return self.frozen_s
        return 0.0 if self.ends or self.push is not None else FROZEN_S

    @property
    def ends(self) -> bool:
        """Whether the source has an end: a file or a folder of images."""
        return self.is_file or self.images is not None

    @property
    def may_pause(self) -> bool:
        """Whether the source may send nothing for longer than `read_timeout_s`: it has an end, or it is HLS.

        An HLS playlist grows by a segment every few seconds.
        """
        return self.ends or ".m3u8" in (self.url or "")

    @property
    def is_file(self) -> bool:
        """Whether the source is a file on this machine."""
        return self.url is not None and ("://" not in self.url or self.url.startswith("file://"))


class PublishConfig(_Section):
    """Where events go."""

    events: str = Field("tcp://127.0.0.1:5555", description="ZeroMQ PUB endpoint")
    replay: str = Field("tcp://127.0.0.1:5556", description="ZeroMQ ROUTER endpoint for snapshot and replay")
    journal: Path = Field(Path("streamclf.db"), description="SQLite file of every event")
    keep: str = Field("7d", description="age after which events leave the journal: 90s, 30m, 12h, 7d, 4w")
    keep_size: str | None = Field(None, description="size at which the oldest leave it sooner: 500MB, 10GB")
    keys: Path | None = Field(None, description="the service's secret key file, of `streamclf keys`")
    allow: Path | None = Field(None, description="directory of the public keys (*.key) that may connect")

    @field_validator("events", "replay")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        match = ENDPOINT.match(value)
        if not match:
            raise ValueError(f"{value!r}: like tcp://127.0.0.1:5555 or ipc:///run/streamclf/events")
        if match[2] and match[2] != "*" and not 1 <= int(match[2]) <= 65535:
            raise ValueError(f"port {match[2]}: 1 to 65535")
        return value

    @field_validator("keep")
    @classmethod
    def _duration(cls, value: str) -> str:
        if not DURATION.match(value):
            raise ValueError(f"{value!r}: a number and s, m, h, d or w, like 7d")
        return value

    @field_validator("keep_size")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        if value is not None and (not (match := SIZE.match(value)) or float(match[1]) * SIZE_BYTES[match[2]] < 1e6):
            raise ValueError(f"{value!r}: a number and MB, GB or TB, like 10GB; at least 1MB")
        return value

    @model_validator(mode="after")
    def _keys_and_allow(self) -> PublishConfig:
        if (self.keys is None) != (self.allow is None):
            raise ValueError("keys and allow go together: the service's own secret, and who may connect")
        return self

    @property
    def keep_bytes(self) -> int | None:
        """Size of the journal beyond which the oldest events leave it; None for no limit."""
        if self.keep_size is None:
            return None
        match = SIZE.match(self.keep_size)
        assert match is not None  # the validator let it through
        return int(float(match[1]) * SIZE_BYTES[match[2]])

    @property
    def keep_s(self) -> float:
        """Retention in seconds."""
        match = DURATION.match(self.keep)
        assert match is not None  # the validator let it through
        return float(match[1]) * DURATION_S[match[2]]


class ServiceConfig(_Section):
    """Everything `streamclf run` needs."""

    model: str = Field("camera-events", min_length=1, description="a bundle's directory, or a built-in name")
    engine: EngineConfig = EngineConfig()
    streams: dict[StreamName, StreamConfig] = Field(min_length=1, max_length=MAX_STREAMS)
    actions: dict[str, ActionConfig] = Field(default_factory=dict, description="by label")
    unknown_below: UnknownBelow = 0.0
    timezone: str | None = Field(
        None, max_length=128, description="of `active`, like Europe/Berlin; else the machine's"
    )
    publish: PublishConfig = PublishConfig()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        zone_of(value)
        return value

    @model_validator(mode="after")
    def _actions_of_streams(self) -> ServiceConfig:
        for name in self.streams:
            self.actions_of(name)
        return self

    def actions_of(self, stream: str) -> StreamActions:
        """What is reported of one stream: the common actions, and what is otherwise there."""
        own = self.streams[stream]
        labels = dict(self.actions)
        for label, override in own.actions.items():
            labels[label] = override.over(self.actions.get(label), f"streams.{stream}.actions.{label}")
        unknown_below = self.unknown_below if own.unknown_below is None else own.unknown_below
        if unknown_below > 0:
            labels.setdefault(UNKNOWN, ActionConfig())
        return StreamActions(labels=labels, unknown_below=unknown_below, timezone=self.timezone)


def load_config(path: Path, environ: Mapping[str, str] = os.environ) -> ServiceConfig:
    """Read the YAML file `path`; relative paths in it are relative to its directory.

    `${NAME}` in a value is replaced from `environ`. Raises `ConfigError`, in one line, naming key and remedy.
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
    """Validate `raw`; paths are taken relative to `base`, errors begin with `origin`."""
    try:
        config = ServiceConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {'; '.join(_messages(error))}") from None  # its text would show passwords
    return _anchored(config, base)


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: a key given twice is refused, since it would silently lose the first stream of that
    name, and only true and false are booleans, since `on` and `off` are keys of ours."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class keeps it so
        letter: [item for item in resolvers if item[0] != "tag:yaml.org,2002:bool"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"key {key!r} stands twice, again in line {key_node.start_mark.line + 1}")
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
        # A password may hold @ : / % ?, which would end the user part of a URL early.
        in_user_part = "://" in value[: match.start()] and "@" in value[match.end() :]
        return quote(environ[name], safe="") if in_user_part else environ[name]

    return PLACEHOLDER.sub(replacement, value)


def _anchored(config: ServiceConfig, base: Path) -> ServiceConfig:
    streams = {name: stream.model_copy(update=_anchored_paths(stream, base)) for name, stream in config.streams.items()}
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


def _anchored_paths(stream: StreamConfig, base: Path) -> dict[str, str]:
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
