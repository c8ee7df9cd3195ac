"""Read the service's configuration from one YAML file; every error names key, value and remedy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from streamclf.builtin_models import DEFAULT_MODEL
from streamclf.config.actions import UNKNOWN, ActionConfig, StreamActions, UnknownBelow, compose_labels
from streamclf.config.classify import FeedOptions, StreamSettings
from streamclf.config.clips import ClipsConfig
from streamclf.config.defaults import StreamDefaults, merge_defaults
from streamclf.config.engine import EngineConfig
from streamclf.config.error_text import describe
from streamclf.config.examples import ExamplesConfig
from streamclf.config.hours import zone_of
from streamclf.config.known_keys import field_names, known_keys
from streamclf.config.outlets import OutletsConfig
from streamclf.config.placeholders import Substitution, register_config_secrets
from streamclf.config.publish import PublishConfig
from streamclf.config.regions import region_area
from streamclf.config.section import Section
from streamclf.config.stream import StreamConfig, StreamName
from streamclf.config.variables import Variables, variables_path
from streamclf.config.views import MODEL_KEY, UNNAMED, StreamView
from streamclf.config.yaml_text import Place, YamlTextError, parse_yaml
from streamclf.errors import ConfigError, UsageError
from streamclf.net.names import MAX_STREAMS, describe_unknown
from streamclf.net.trusted_files import read_small_text
from streamclf.redact import redact

MAX_CONFIG_BYTES = 1 << 20
MAX_MODELS = 16

_KINDS: Final[Mapping[type, str]] = {list: "a list", str: "a text"}


class ServiceConfig(Section):
    """The whole configuration of `streamclf run`."""

    model: str | None = Field(
        None,
        min_length=1,
        description="Name of a built-in model, or path of a bundle's directory, relative to the configuration. If "
        f"neither `model` nor `models` is set, {DEFAULT_MODEL}.",
    )
    models: dict[StreamName, Annotated[str, Field(min_length=1)]] = Field(
        default_factory=dict,
        max_length=MAX_MODELS,
        description=f"Further models by name, at most {MAX_MODELS}. Predictions and actions have the name of their "
        "model.",
    )
    engine: EngineConfig = Field(EngineConfig(), description="How the model runs.")
    defaults: StreamDefaults = Field(
        StreamDefaults(),
        description="Keys of `streams`, for every stream that does not set them itself; all but name, enabled, camera, "
        "url, images, push, fps, region and regions.",
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
    examples: ExamplesConfig | None = Field(
        None, description="Example films for teaching models on the page. If not set, none can be saved."
    )
    publish: PublishConfig = Field(PublishConfig(), description="Where events are published and kept.")
    outlets: OutletsConfig = Field(OutletsConfig(), description="Other systems that get the events.")

    @model_validator(mode="before")
    @classmethod
    def _fill_empty(cls, values: Any) -> Any:
        """Take `clips:` and `examples:` without keys for their defaults, and no model at all for the default model."""
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        filled |= {key: {} for key in ("clips", "examples") if key in filled and filled[key] is None}
        if filled.get("model") is None and not filled.get("models"):
            filled |= {"model": DEFAULT_MODEL, "models": {}}
        return filled

    @field_validator("models", mode="before")
    @classmethod
    def _check_models_kind(cls, value: object) -> object:
        if isinstance(value, list | str):
            raise ValueError("give each model a name, like {hands: gestures}")
        return value

    @field_validator("models")
    @classmethod
    def _check_model_names(cls, value: dict[str, str]) -> dict[str, str]:
        if MODEL_KEY in value:
            raise ValueError(f"{MODEL_KEY}: lists of models call the top-level `model` so; give another name")
        return value

    @field_validator("timezone")
    @classmethod
    def _check_zone(cls, value: str | None) -> str | None:
        zone_of(value)
        return value

    @model_validator(mode="after")
    def _check_overrides(self) -> ServiceConfig:
        for name in self.streams:
            self.actions_of(name)
            self.views_of(name)
        return self

    @property
    def all_models(self) -> dict[str, str]:
        """All models by name; `UNNAMED` is the name of `model`."""
        return ({} if self.model is None else {UNNAMED: self.model}) | self.models

    def actions_of(self, stream: str, region: str | None = None) -> StreamActions:
        """Return the actions of one stream, or of one of its regions: those of all streams, with its overrides."""
        own = self.streams[stream]
        labels = dict(self.actions)
        for label, override in own.actions.items():
            labels[label] = override.applied_to(self._action_for(label, labels), f"streams.{stream}.actions.{label}")
        unknown_below = self.unknown_below if own.unknown_below is None else own.unknown_below
        if region is not None:
            part, place = own.regions[region], f"streams.{stream}.regions.{region}.actions"
            for label, override in part.actions.items():
                labels[label] = override.applied_to(self._action_for(label, labels), f"{place}.{label}")
            unknown_below = unknown_below if part.unknown_below is None else part.unknown_below
        if unknown_below > 0:
            labels.setdefault(UNKNOWN, ActionConfig())
        return StreamActions(labels=labels, unknown_below=unknown_below, timezone=self.timezone)

    def _action_for(self, key: str, actions: Mapping[str, ActionConfig]) -> ActionConfig | None:
        """Return the action of `key` among `actions`; for MODEL/LABEL also that of LABEL."""
        model, _, label = key.partition("/")
        return actions.get(key) or (actions.get(label) if model in self._model_keys else None)

    def views_of(self, stream: str) -> list[StreamView]:
        """Return the views of one stream. Raises `ValueError` for a model that is not there."""
        own = self.streams[stream]
        default = self._models_named(own.models, f"streams.{stream}.models") or tuple(self._model_keys.values())
        views = []
        for region in own.regions or (None,):
            part = None if region is None else own.regions[region]
            models = part and self._models_named(part.models, f"streams.{stream}.regions.{region}.models")
            views.append(
                StreamView(
                    region=region,
                    area=region_area(own, own.regions, region),
                    models=models or default,
                    settings=self.settings_of(stream, region),
                    actions=self.actions_of(stream, region),
                )
            )
        return views

    def _models_named(self, keys: Sequence[str] | None, place: str) -> tuple[str, ...] | None:
        for key in keys or ():
            if key not in self._model_keys:
                unknown = describe_unknown("model", key, list(self._model_keys), "the configuration")
                raise ValueError(f"{place}: {unknown}")
        return None if keys is None else tuple(self._model_keys[key] for key in keys)

    @property
    def _model_keys(self) -> dict[str, str]:
        """The names of all models, by the names that lists of models and keys of actions have for them."""
        return {name or MODEL_KEY: name for name in self.all_models}

    def settings_of(self, stream: str, region: str | None = None) -> StreamSettings:
        """Return how a classifier treats one stream, or a region of it.

        Keys that a region does not set take the stream's values, and those that neither sets take those of `engine`.
        """
        own = self.streams[stream]
        part = None if region is None else own.regions[region]
        options = {
            key: getattr(part if part is not None and key in part.model_fields_set else own, key)
            for key in FeedOptions.model_fields
        }
        common = {key: getattr(self.engine, key) for key, value in options.items() if value is None}
        return StreamSettings(**{**options, **common})


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
        known = partial(known_keys, service=ServiceConfig)
        fields = field_names(ServiceConfig)
        text = describe(error, lines=lines, known_keys=known, fields=fields, hide_values=hide_values)
        raise ConfigError(f"{origin}: {redact(text)}") from None  # pydantic's text may show passwords
    return _with_absolute_paths(config, base)


def _with_absolute_paths(config: ServiceConfig, base: Path) -> ServiceConfig:
    streams = {name: stream.model_copy(update=_absolute_paths(stream, base)) for name, stream in config.streams.items()}
    publish = config.publish.model_copy(
        update={
            key: base / path
            for key in ("journal", "keys", "allow", "leases")
            if (path := getattr(config.publish, key)) is not None
        }
    )
    model = None if config.model is None else _absolute_model(config.model, base)
    models = {name: _absolute_model(each, base) for name, each in config.models.items()}
    outlets = config.outlets.with_absolute_paths(base)
    clips = config.clips and config.clips.model_copy(update={"folder": base / config.clips.folder})
    examples = config.examples and config.examples.model_copy(
        update={"folder": base / config.examples.folder, "models": base / config.examples.models}
    )
    return config.model_copy(
        update={
            "streams": streams,
            "publish": publish,
            "model": model,
            "models": models,
            "outlets": outlets,
            "clips": clips,
            "examples": examples,
        }
    )


def _absolute_model(model: str, base: Path) -> str:
    """Return the path of a bundle's directory as an absolute path, and the name of a built-in model as it is."""
    local_bundle = base / model
    return str(local_bundle) if local_bundle.is_dir() else model


def _absolute_paths(stream: StreamConfig, base: Path) -> dict[str, str]:
    found = {"images": stream.images, "tls_ca": stream.tls_ca}
    if stream.is_file and not stream.is_file_url:
        found["url"] = stream.url
    if stream.push is not None and "/" in stream.push and "://" not in stream.push:
        found["push"] = stream.push
    return {key: str(base / path) for key, path in found.items() if path is not None}
