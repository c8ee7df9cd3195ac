"""Make a taught model live, or remove it, by edits of the service's configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from streamclf.builtin_models import DEFAULT_MODEL
from streamclf.config.service import ServiceConfig
from streamclf.config.stream import StreamName
from streamclf.config.views import MODEL_KEY
from streamclf.config.yaml_edit import remove_value, set_value
from streamclf.config.yaml_text import parse_yaml
from streamclf.errors import ConfigError
from streamclf.events.example_request import ProjectName
from streamclf.events.views import Label
from streamclf.subscribers.web.settings.edits import ConfigEdit

MAX_LABELS: Final = 64


class GoLive(ConfigEdit):
    """Serve a model beside those that are there, on one stream or one of its regions, with its labels as actions."""

    change: Literal["go_live"] = "go_live"
    model: ProjectName
    bundle: str = Field(max_length=1024, description="Path of the bundle, as the file has it.")
    stream: StreamName
    region: StreamName | None = None
    labels: tuple[Label, ...] = Field((), max_length=MAX_LABELS)

    @property
    def description(self) -> str:
        """The edit in words."""
        place = self.stream if self.region is None else f"{self.stream}, region {self.region}"
        return f"Serve the model {self.model} on {place}"

    def apply(self, text: str, config: ServiceConfig | None) -> str:
        """Return the text with the model. Only this view gets it: the lists of the others are made explicit."""
        if config is None:
            raise ConfigError("the configuration has an error; correct it first")
        if self.stream not in config.streams:
            raise ConfigError(f"streams.{self.stream}: no such stream; it was removed or renamed")
        if self.region is not None and self.region not in config.streams[self.stream].regions:
            raise ConfigError(f"streams.{self.stream}.regions.{self.region}: no such region; it was removed or renamed")
        if self.model in config.models:
            raise ConfigError(f"models.{self.model}: exists already")
        raw = _document(text)
        known = [name or MODEL_KEY for name in config.all_models]
        served = {view.region: [name or MODEL_KEY for name in view.models] for view in config.views_of(self.stream)}
        if raw.get("model") is None and not raw.get("models"):
            text = set_value(text, ["model"], DEFAULT_MODEL)  # else `models` would replace the default model
        if _others_follow(raw, self.stream, self.region):
            text = set_value(text, ["defaults", "models"], known)
        place = ["streams", self.stream]
        if self.region is not None:
            place += ["regions", self.region]
            text = _with_section(text, place)
        text = set_value(text, ["models", self.model], self.bundle)
        text = set_value(text, [*place, "models"], [*served.get(self.region, known), self.model])
        for label in self.labels:
            text = set_value(text, [*place, "actions", f"{self.model}/{label}"], {})
        return text


class EnableExamples(ConfigEdit):
    """Add the section `examples`, so that each stream holds its last minute."""

    change: Literal["enable_examples"] = "enable_examples"

    @property
    def description(self) -> str:
        """The edit in words."""
        return "Hold the last minute of each stream"

    def apply(self, text: str, config: ServiceConfig | None) -> str:
        """Return the text with the section."""
        if "examples" in _document(text):
            raise ConfigError("examples: is in the file already")
        return set_value(text, ["examples", "last_s"], 60)


class RemoveModel(ConfigEdit):
    """Stop serving a model: remove it from `models`, from the lists of all streams, and its actions."""

    change: Literal["remove_model"] = "remove_model"
    model: ProjectName

    @property
    def description(self) -> str:
        """The edit in words."""
        return f"Stop serving the model {self.model}"

    def apply(self, text: str, config: ServiceConfig | None) -> str:
        """Return the text without the model. Its bundle stays on disk."""
        raw = _document(text)
        models = raw.get("models")
        if not isinstance(models, Mapping) or self.model not in models:
            raise ConfigError(f"models.{self.model}: not in the file")
        for place, section in _sections(raw):
            text = self._without(text, place, section)
        return remove_value(text, ["models"] if len(models) == 1 else ["models", self.model])

    def _without(self, text: str, place: list[str], section: Mapping[str, Any]) -> str:
        """Return the text without the model in one section of a stream, of a region, or of the whole file."""
        listed = section.get("models")
        if isinstance(listed, list) and self.model in listed:
            rest = [name for name in listed if name != self.model]
            if not rest:
                where = ".".join(place)
                raise ConfigError(f"{where}: {self.model} is its only model; add another one first")
            text = set_value(text, [*place, "models"], rest)
        actions = section.get("actions")
        if isinstance(actions, Mapping):
            own = [key for key in actions if str(key).startswith(f"{self.model}/")]
            if own and len(own) == len(actions):
                text = remove_value(text, [*place, "actions"])
            else:
                for key in own:
                    text = remove_value(text, [*place, "actions", key])
        return text


def bundle_text(bundle: Path, config_file: Path) -> str:
    """Return the path of a bundle as a configuration has it: relative to the file's folder where it is below that."""
    try:
        return bundle.relative_to(config_file.parent).as_posix()
    except ValueError:
        return str(bundle)


def _document(text: str) -> Mapping[str, Any]:
    raw = parse_yaml(text).value
    return raw if isinstance(raw, Mapping) else {}


def _section(raw: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    value: Any = raw
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _sections(raw: Mapping[str, Any]) -> list[tuple[list[str], Mapping[str, Any]]]:
    """Return each section that may list models or actions, with its place."""
    found = [([], {"actions": raw.get("actions")}), (["defaults"], _section(raw, "defaults"))]
    for stream, each in _section(raw, "streams").items():
        found.append((["streams", stream], each if isinstance(each, Mapping) else {}))
        for region in _section(raw, "streams", stream, "regions"):
            place = ["streams", stream, "regions", region]
            found.append((place, _section(raw, *place)))
    return found


def _others_follow(raw: Mapping[str, Any], stream: str, region: str | None) -> bool:
    """Return whether a view other than the given one has no list of models, so that it would get every new model."""
    if _section(raw, "defaults").get("models"):
        return False
    for name, each in _section(raw, "streams").items():
        own = each if isinstance(each, Mapping) else {}
        if own.get("models"):
            continue
        if name != stream:
            return True
        regions = _section(own, "regions")
        if any(other != region and not _section(regions, other).get("models") for other in regions):
            return True
    return False


def _with_section(text: str, place: list[str]) -> str:
    """Return the text with a section for a region that the file has as a list."""
    value: Any = _document(text)
    for key in place:
        value = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(value, list):
        return text
    regions = _section(_document(text), *place[:-1])
    if len(regions) == 1:  # a section in block style must not become empty
        text = remove_value(text, place[:-1])
        return set_value(text, place[:-1], {place[-1]: {"region": value}})
    return set_value(remove_value(text, place), place, {"region": value})
