"""Write the text of a new configuration, with a comment for each part that a user may want to change."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from engines.printable import printable

DOCUMENTATION: Final = "docs/configuration.md"
RULES: Final = "{on: 0.8, off: 0.5}"
_PLAIN: Final = re.compile(r"(?!(true|false|null|yes|no|on|off)$)[A-Za-z][A-Za-z0-9_-]*", re.IGNORECASE)
"""Texts that YAML takes neither for a number nor for a truth value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLines:
    """A stream in the file. `notes` are comments above it; one that is not `enabled` is a comment itself."""

    name: str
    keys: Mapping[str, str | int | bool]
    notes: Sequence[str] = ()
    enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The content of a new configuration."""

    file: str
    model: str
    labels: Sequence[str]
    """Labels that are reported as actions."""
    streams: Sequence[StreamLines]
    events: str
    replay: str
    journal: str
    variables_file: str | None = None
    """Name of the file with the passwords; None if there are none."""
    outlets: Mapping[str, Mapping[str, str | int]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    """Libraries that are missing for an outlet, by its kind; such outlets are comments."""

    def text(self) -> str:
        """Return the YAML text."""
        return "\n".join([*self._head(), *self._streams(), *self._actions(), *self._publish(), *self._outlets(), ""])

    def _head(self) -> list[str]:
        return [
            f"# A service of streamclf. {DOCUMENTATION} describes every key.",
            f"#   streamclf check --connect {self.file}    tries every camera and outlet",
            f"#   streamclf run {self.file}                runs the service; it applies changes of this file",
            "",
            f"model: {_value(self.model)}          # a built-in model, or the folder of a bundle",
            "",
        ]

    def _streams(self) -> list[str]:
        lines = []
        if self.variables_file:
            lines += [f"# ${{NAME}} is a variable in {self.variables_file}, or of the environment."]
        lines += ["streams:"]
        for stream in self.streams:
            lines += [f"  # {note}" for note in stream.notes]
            lines.append(f"  {'' if stream.enabled else '# '}{_value(stream.name)}: {_section(stream.keys)}")
        return [*lines, ""]

    def _actions(self) -> list[str]:
        width = max(map(len, map(_value, self.labels)), default=0)
        return [
            "# A label is reported as an action: it starts when its probability stays at or above `on`, and ends below",
            "# `off`. Outlets send actions to other systems. Remove the labels that you do not need.",
            "actions:",
            *(f"  {_value(label) + ':':<{width + 1}} {RULES}" for label in self.labels),
            "",
        ]

    def _publish(self) -> list[str]:
        return [
            "publish:",
            f"  events: {self.events}   # for programs on this machine; for others: docs/security.md",
            f"  replay: {self.replay}",
            f"  journal: {_value(self.journal)}   # the file that holds every event, relative to this file",
            "  keep: 7d   # age after which events are removed",
            "",
            "# Remove the # to keep a film of each action (docs/clips.md).",
            "# clips: {folder: clips, keep: 7d, keep_size: 20GB}",
            "",
        ]

    def _outlets(self) -> list[str]:
        lines = ["# Other systems that get the events: log, mqtt, webhook, metrics, web (docs/outlets.md)."]
        is_empty = self.outlets.keys() <= self.missing.keys()
        lines.append("# outlets:" if is_empty else "outlets:")
        for kind, keys in self.outlets.items():
            if need := self.missing.get(kind):
                lines.append(f"  # {kind}: {_section(keys)}   # needs: {need}; then remove the # before {kind}")
            else:
                lines.append(f"  {kind}: {_section(keys)}")
        lines.append("  # log: {file: events.db, keep: 90d}   # actions and statuses, for `streamclf query`")
        return lines


def _section(keys: Mapping[str, str | int | bool]) -> str:
    return "{" + ", ".join(f"{key}: {_value(value)}" for key, value in keys.items()) + "}"


def _value(value: str | int | bool) -> str:
    """Return a value as YAML; a text is quoted unless it is a plain word."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=printable(value) != value)  # YAML takes U+0085 and U+2028 for line breaks
