"""Read FLEET.yaml: the configuration of a service, with a section `fleet` and a few more keys in each stream."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from pydantic import Field, ValidationError, field_validator

from streamclf.builtin_models import builtin_models, find_bundle
from streamclf.config.error_text import describe
from streamclf.config.placeholders import Substitution
from streamclf.config.section import Section
from streamclf.config.service import ServiceConfig, parse_config
from streamclf.config.stream import StreamName
from streamclf.config.variables import Variables, variables_path
from streamclf.config.yaml_text import YamlTextError, parse_yaml
from streamclf.errors import ConfigError, UsageError
from streamclf.events.directory import MAX_DIRECTORY_STREAMS, NodeName
from streamclf.fleet.placement import Demand
from streamclf.net.endpoints import ENDPOINT
from streamclf.net.names import MAX_STREAMS
from streamclf.net.trusted_files import read_small_text
from streamclf.supervisor.model_checks import check_models
from streamclf.supervisor.preflight import check_access

MAX_FLEET_BYTES: Final = 16 << 20
DEFAULT_SPARE_STREAMS: Final = 64
"""`engine.spare_streams` of a node: streams of a lost node must not restart the classifiers of the others."""
_PATH_KEYS: Final = ("url", "images", "tls_ca", "push")


class CostConfig(Section):
    """The cost of a stream, from which placement calculates the processors it takes (docs/sizing.md)."""

    fps: float = Field(25.0, gt=0, le=1000, description="Frames per second of a camera.")
    decode_ms: float = Field(2.0, ge=0, le=1000, description="Processor time to decode and scale one frame.")
    encode_ms: float = Field(1.4, ge=0, le=10_000, description="Processor time of one encode; 0 with a GPU.")
    head_ms: float = Field(0.3, ge=0, le=10_000, description="Processor time of one head; 0 with a GPU.")
    other_ms: float = Field(7.0, ge=0, le=1000, description="Further processor time in each second.")
    gpu_ms: float = Field(0.0, ge=0, le=10_000, description="Time of a GPU for one prediction; 0 without a GPU.")


class RolloutConfig(Section):
    """The conditions under which a rolling update goes on to the next node."""

    settle_s: float = Field(90.0, ge=1, le=3600, description="Seconds within which a node has to serve as before.")
    observe_s: float = Field(20.0, ge=1, le=3600, description="Seconds for which the new version is then compared.")
    max_latency_factor: float = Field(
        1.5, ge=1, le=100, description="Largest latency (95 % of predictions) relative to that before, above 50 ms."
    )


class FleetConfig(Section):
    """The section `fleet`."""

    name: StreamName = Field("fleet", description="Name of the fleet, shown to subscribers.")
    directory: str = Field(
        "tcp://127.0.0.1:5550",
        description="ZeroMQ endpoint on the head at which subscribers find the nodes: fleet://HOST:PORT.",
    )
    folder: Path = Field(
        Path("~/.local/state/streamclf/fleet"),
        description="Folder on each machine for journals, models and, on the head, the fleet's state; on a local disk.",
    )
    placement: Literal["spread", "pack"] = Field(
        "spread", description="`spread` loads all nodes equally; `pack` fills one node after the other."
    )
    lease_s: float = Field(
        6.0,
        ge=3,
        le=60,
        description="Seconds without contact after which a node stops publishing, and other nodes take its streams.",
    )
    cpu_share: float = Field(0.85, gt=0, le=1, description="Share of a node's processors that streams may take.")
    gpu_share: float = Field(1.0, gt=0, le=1, description="Share of a node's GPUs that the service may take.")
    drain: tuple[NodeName, ...] = Field((), max_length=1024, description="Nodes whose streams move to other nodes.")
    costs: CostConfig = Field(CostConfig(), description="The cost of a stream that does not set `cpus`.")
    rollout: RolloutConfig = Field(RolloutConfig(), description="When a rolling update halts.")

    @field_validator("directory")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        port = value.rpartition(":")[2]
        is_tcp = ENDPOINT.match(value) and value.startswith("tcp://")
        if not is_tcp or (port != "*" and not 1 <= int(port) <= 65535):  # ZeroMQ would bind 99999 as another port
            raise ValueError(f"{value!r}: like tcp://127.0.0.1:5550")
        return value


class _FleetStream(Section):
    """The keys of a stream that only a fleet has."""

    near: StreamName | None = Field(None, description="Site of the camera: only nodes with this label run the stream.")
    cpus: float | None = Field(None, gt=0, le=1024, description="Processors that the stream takes, from `bench`.")
    gpus: float | None = Field(None, ge=0, le=64, description="Share of a GPU that the stream takes.")


@dataclass(frozen=True, slots=True)
class FleetFile:
    """FLEET.yaml, checked. The values may contain passwords."""

    fleet: FleetConfig
    common: Mapping[str, Any]
    """The configuration of each node's service without its streams. A model that is a directory is its path."""
    streams: Mapping[str, Mapping[str, Any]]
    """The keys of each stream, as the service reads them."""
    demands: Mapping[str, Demand]
    bundles: Mapping[str, Path]
    """The bundles that nodes may not have, by the name of the model, which is "" for `model`."""

    @property
    def publish(self) -> Any:
        """The section `publish` of the nodes."""
        return self.common.get("publish", {})


def load_fleet(path: Path, environ: Mapping[str, str] = os.environ) -> FleetFile:
    """Read and check FLEET.yaml. Raises `ConfigError`: one line with key and remedy, and no secret."""
    try:
        text = read_small_text(path, max_bytes=MAX_FLEET_BYTES, remedy="give the path of a YAML file")
        raw = parse_yaml(text).value
    except YamlTextError as error:
        raise ConfigError(f"{path}: {error}") from None
    except ConfigError:
        raise
    except UsageError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(raw, dict) or not isinstance(raw.get("streams"), dict) or not raw["streams"]:
        raise ConfigError(f"{path}: needs streams:, like a service's configuration")
    raw = Substitution(Variables(environ, path), variables_path(path).name).apply(raw)
    if len(raw["streams"]) > MAX_DIRECTORY_STREAMS:
        raise ConfigError(f"{path}: streams: {len(raw['streams'])} entries; at most {MAX_DIRECTORY_STREAMS}")
    if raw.get("outlets"):
        raise ConfigError(
            f"{path}: outlets: each node would have its own; leave them out, and run one for the whole fleet, like "
            "`streamclf log fleet://HOST:PORT`"
        )
    fleet = _section(FleetConfig, raw.pop("fleet", None) or {}, path, "fleet")
    own: dict[str, _FleetStream] = {}
    for name, stream in raw["streams"].items():
        if isinstance(stream, dict):
            keys = {key: stream.pop(key) for key in _FleetStream.model_fields if key in stream}
            own[name] = _section(_FleetStream, keys, path, f"streams.{name}")
    return _checked(path, raw, fleet, own)


def _checked(path: Path, raw: dict[str, Any], fleet: FleetConfig, own: Mapping[str, _FleetStream]) -> FleetFile:
    """Check the configuration in parts that one service may have, and make the paths of streams absolute."""
    common = {key: value for key, value in raw.items() if key != "streams"}
    names = [*raw["streams"]]
    streams: dict[str, Mapping[str, Any]] = {}
    demands: dict[str, Demand] = {}
    specs: dict[str, Any] = {}
    config: ServiceConfig | None = None
    for begin in range(0, len(names), MAX_STREAMS):
        part = {name: raw["streams"][name] for name in names[begin : begin + MAX_STREAMS]}
        config = parse_config({**common, "streams": part}, base=path.parent.absolute(), origin=str(path))
        if not specs:
            specs = {
                name: find_bundle(model, f"models.{name}" if name else "model").spec
                for name, model in config.all_models.items()
            }
        check_models(config, specs)
        for name, stream in config.streams.items():
            changed = {
                key: value for key in _PATH_KEYS if (value := getattr(stream, key)) and value != part[name].get(key)
            }
            streams[name] = {**part[name], **changed}
            demands[name] = _demand(name, config, own.get(name, _FleetStream()), fleet.costs, specs)
    assert config is not None
    check_access(config.publish)
    bundles = {name: Path(model) for name, model in config.all_models.items() if model not in builtin_models()}
    paths = {key: str(value) for key in ("keys", "allow") if (value := getattr(config.publish, key))}
    if paths:
        common["publish"] = {**common["publish"], **paths}
    common["engine"] = {"spare_streams": DEFAULT_SPARE_STREAMS, **(common.get("engine") or {})}
    return FleetFile(fleet, common, streams, demands, bundles)


def _demand(name: str, config: ServiceConfig, own: _FleetStream, costs: CostConfig, specs: Mapping[str, Any]) -> Demand:
    """Calculate what one stream takes: c = fps x d + rate x e + (rate / hop) x h + o (docs/sizing.md)."""
    milliseconds, gpu_ms = costs.fps * costs.decode_ms + costs.other_ms, 0.0
    for view in config.views_of(name):
        for model in view.models:
            rate = specs[model].fps / specs[model].frames_per_chunk
            heads = rate / view.settings.hop
            milliseconds += rate * costs.encode_ms + heads * costs.head_ms
            gpu_ms += heads * costs.gpu_ms
    cpus = milliseconds / 1000 if own.cpus is None else own.cpus
    gpus = gpu_ms / 1000 if own.gpus is None else own.gpus
    paused = not config.streams[name].enabled
    return Demand(stream=name, cpus=0.0 if paused else cpus, gpus=0.0 if paused else gpus, near=own.near)


def digest(value: Any) -> str:
    """Return a short text that identifies a value of JSON."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def usable(total: float, share: float) -> float:
    """Return the part of a node's GPUs that the fleet takes: Ray gives several GPUs only as whole ones."""
    part = total * share
    return math.floor(part) if part > 1 else part


def _section(kind: Any, values: object, path: Path, key: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {key}: must be a section of keys, like NAME: VALUE")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        nested = {"costs": CostConfig, "rollout": RolloutConfig}
        text = describe(
            error,
            lines={},
            known_keys=lambda place: list(nested.get(str(place[0]) if len(place) > 1 else "", kind).model_fields),
            fields=frozenset(key for each in (kind, *nested.values()) for key in each.model_fields),
            hide_values=lambda message, _: message,
        )
        raise ConfigError(f"{path}: {key}.{text}") from None
