"""Define the changes that the page can make to a configuration, and make each of them to its text."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from engines.printable import printable
from streamclf.config.actions import Off, On, UpToADay, UpToAnHour
from streamclf.config.service import ServiceConfig
from streamclf.config.stream import StreamName
from streamclf.config.yaml_edit import remove_value, set_value
from streamclf.config.yaml_text import parse_yaml
from streamclf.errors import ConfigError
from streamclf.events.views import Label
from streamclf.net.names import MAX_NAME_CHARS

THRESHOLDS: Final = ("on", "off", "min_s", "cooldown_s")
_DIGITS: Final = 4
"""Decimals of a threshold in the file."""


class ConfigEdit(BaseModel, ABC):
    """One change to a configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @property
    @abstractmethod
    def description(self) -> str:
        """The edit in words, like `Remove the stream door`."""

    @abstractmethod
    def apply(self, text: str, config: ServiceConfig | None) -> str:
        """Return the configuration `text` with the edit; `config` is the present one, None if it has errors.

        Raises `YamlEditError` and `ConfigError`.
        """


class AddStream(ConfigEdit):
    """Add a stream that reads a camera of this machine, or a URL or file."""

    change: Literal["add_stream"] = "add_stream"
    stream: StreamName = Field(description="Key of the stream in the configuration.")
    name: str | None = Field(None, max_length=MAX_NAME_CHARS, description="Name for people.")
    camera: int | str | None = Field(None, description="Index or device of a webcam. Give camera or url.")
    url: str | None = Field(None, max_length=2048, description="URL or path of a file; `${NAME}` for credentials.")
    user: str | None = Field(None, max_length=256, description="User name for the URL, kept in the file of variables.")
    password: str | None = Field(
        None, max_length=256, repr=False, description="Password for the URL, kept in the file of variables."
    )

    @property
    def description(self) -> str:
        """The edit in words."""
        return f"Add the stream {self.stream}"

    @property
    def source(self) -> dict[str, Any]:
        """The keys of the source, as in the configuration."""
        given = {"camera": self.camera, "url": self.url}
        return {key: value for key, value in given.items() if value is not None and value != ""}

    def apply(self, text: str, config: ServiceConfig | None) -> str:
        """Return the text with the stream."""
        if config is not None and self.stream in config.streams:
            raise ConfigError(f"streams.{self.stream}: exists already; choose another name")
        for key, value in self.source.items():
            if isinstance(value, str) and printable(value) != value:
                raise ConfigError(f"streams.{self.stream}.{key}: a control character or a line break; remove it")
        body = {**({"name": self.name} if self.name else {}), **self.source}
        return set_value(text, ["streams", self.stream], body)


class RemoveStream(ConfigEdit):
    """Remove a stream."""

    change: Literal["remove_stream"] = "remove_stream"
    stream: StreamName

    @property
    def description(self) -> str:
        """The edit in words."""
        return f"Remove the stream {self.stream}"

    def apply(self, text: str, config: ServiceConfig | None) -> str:
        """Return the text without the stream."""
        streams = _section(text, "streams")
        if self.stream not in streams:
            raise ConfigError(f"streams.{self.stream}: no such stream in the file")
        if len(streams) == 1:
            raise ConfigError(f"streams.{self.stream}: the last stream cannot be removed; pause it instead")
        return remove_value(text, ["streams", self.stream])


class PauseStream(ConfigEdit):
    """Pause or continue a stream."""

    change: Literal["pause_stream"] = "pause_stream"
    stream: StreamName
    paused: bool = Field(description="False continues it.")

    @property
    def description(self) -> str:
        """The edit in words."""
        return f"{'Pause' if self.paused else 'Continue'} the stream {self.stream}"

    def apply(self, text: str, config: ServiceConfig | None) -> str:
        """Return the text with the stream's key `enabled`."""
        if self.stream not in _section(text, "streams"):
            raise ConfigError(f"streams.{self.stream}: no such stream in the file")
        return set_value(text, ["streams", self.stream, "enabled"], not self.paused)


class SetAction(ConfigEdit):
    """Change the thresholds of a label, or report it as an action from now on; of all streams, or of one."""

    change: Literal["set_action"] = "set_action"
    label: Label
    stream: StreamName | None = Field(None, description="Only this stream; null for all streams.")
    on: On = Field(description="Smoothed probability at which the action starts.")
    off: Off = Field(description="Smoothed probability below which it ends; lower than `on`.")
    min_s: UpToAnHour = Field(description="Seconds at `on` or above until it starts.")
    cooldown_s: UpToADay = Field(description="Seconds after an end in which it does not start again.")

    @property
    def description(self) -> str:
        """The edit in words."""
        return f"Set the thresholds of {self.label!r} for {_scope(self.stream)}"

    def apply(self, text: str, config: ServiceConfig | None) -> str:
        """Return the text with the values that differ from the present ones."""
        keys = _action_keys(text, self.label, self.stream)
        is_new = not _has(text, keys)
        present = {} if is_new and self.stream is None else _thresholds(config, self.label, self.stream)
        values = {key: _rounded(getattr(self, key)) for key in THRESHOLDS}
        changed = {key: value for key, value in values.items() if present.get(key) != value}
        if not changed:
            raise ConfigError(f"{'.'.join(keys)}: these are the present values; change one of them first")
        if is_new:
            return set_value(text, keys, changed)
        for key, value in changed.items():
            text = set_value(text, [*keys, key], value)
        return text


class RemoveAction(ConfigEdit):
    """Stop reporting a label as an action on all streams, or remove the thresholds of one stream."""

    change: Literal["remove_action"] = "remove_action"
    label: Label
    stream: StreamName | None = Field(None, description="Only the thresholds of this stream; null for all streams.")

    @property
    def description(self) -> str:
        """The edit in words."""
        return f"Remove the action {self.label!r} of {_scope(self.stream)}"

    def apply(self, text: str, config: ServiceConfig | None) -> str:
        """Return the text without the action; a section that would be empty goes with it."""
        keys = _action_keys(text, self.label, self.stream)
        if not _has(text, keys):
            raise ConfigError(
                f"{'.'.join(keys)}: not in the file; it may come from `defaults`, or be set for all streams"
            )
        is_last = len(_section(text, *keys[:-1])) == 1
        return remove_value(text, keys[:-1] if is_last else keys)


Edit: TypeAlias = Annotated[
    AddStream | RemoveStream | PauseStream | SetAction | RemoveAction, Field(discriminator="change")
]
EDIT: Final[TypeAdapter[AddStream | RemoveStream | PauseStream | SetAction | RemoveAction]] = TypeAdapter(Edit)


def _scope(stream: str | None) -> str:
    return "all streams" if stream is None else f"the stream {stream}"


def _section(text: str, *keys: str) -> Mapping[str, Any]:
    value = parse_yaml(text).value
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _has(text: str, keys: list[str]) -> bool:
    return keys[-1] in _section(text, *keys[:-1])


def _action_keys(text: str, label: str, stream: str | None) -> list[str]:
    """Return the place of an action. The file may write an accent of the label in another form."""
    section = ["actions"] if stream is None else ["streams", stream, "actions"]
    wanted = unicodedata.normalize("NFC", label)
    known = (key for key in _section(text, *section) if unicodedata.normalize("NFC", str(key)) == wanted)
    return [*section, next(known, wanted)]


def _thresholds(config: ServiceConfig | None, label: str, stream: str | None) -> dict[str, float]:
    if config is None or (stream is not None and stream not in config.streams):
        return {}
    labels = config.actions if stream is None else config.actions_of(stream).labels
    action = labels.get(unicodedata.normalize("NFC", label))
    if action is None:
        return {}
    # `on` and `off` that the file does not set may follow the model, so their values here are not those in use.
    known = [key for key in THRESHOLDS if key not in ("on", "off") or key in action.model_fields_set]
    return {key: _rounded(getattr(action, key)) for key in known}


def _rounded(value: float) -> int | float:
    rounded = round(value, _DIGITS)
    return int(rounded) if rounded == int(rounded) else rounded
