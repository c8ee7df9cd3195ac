"""Edit the YAML file of a service: every edit is checked as an edit by hand is, and never overwrites one."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from engines.bundle import Bundle
from engines.errors import EngineError
from streamclf.config.file_version import file_signature, version_text
from streamclf.config.service import ServiceConfig, parse_config_text
from streamclf.config.variables import Variables
from streamclf.config.views import MODEL_KEY
from streamclf.config.yaml_edit import YamlEditError
from streamclf.config.yaml_text import YamlTextError
from streamclf.errors import ConfigError, UsageError
from streamclf.redact import redact
from streamclf.subscribers.web.settings.config_storage import (
    exclusive,
    read_config_bytes,
    reason_read_only,
    replace_config,
)
from streamclf.subscribers.web.settings.credentials import VariablesFile, separate_credentials
from streamclf.subscribers.web.settings.edits import AddStream, ConfigEdit
from streamclf.subscribers.web.settings.shown_text import difference, masked
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.preflight import preflight

MAX_UNDO: Final = 20
"""Edits that can be undone. They are kept in memory, because a copy on disk would hold passwords in a second place."""
_MAX_SEEN: Final = 32
"""Versions that browsers may have seen, whose text is kept to show what was changed meanwhile."""
_BOM: Final = b"\xef\xbb\xbf"


class ConfigConflictError(ConfigError):
    """The file was changed after the page had read it. `theirs` and `ours` are the two changes, as diffs."""

    def __init__(self, message: str, *, theirs: str, ours: str) -> None:
        super().__init__(message)
        self.theirs, self.ours = theirs, ours


@dataclass(frozen=True, slots=True)
class ConfigVersion:
    """One content of the file.

    `version` identifies the content for the page; `saved` identifies the file as the service's heartbeats do. `config`
    and `bundles`, by the name of the model, are None if the content has an error, which `error` describes.
    """

    text: str
    version: str
    saved: str
    config: ServiceConfig | None
    bundles: Mapping[str, Bundle] | None
    error: str | None

    @property
    def labels(self) -> list[str]:
        """The labels of all models as keys of `actions`: a label of several models is like `camera/covered`."""
        specs = {name or MODEL_KEY: bundle.spec for name, bundle in (self.bundles or {}).items()}
        times = Counter(label for spec in specs.values() for label in spec.labels)
        return [
            label if times[label] == 1 else f"{name}/{label}" for name, spec in specs.items() for label in spec.labels
        ]

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds that the models give for their labels, by every key that `actions` may have for them."""
        specs = {name or MODEL_KEY: bundle.spec for name, bundle in (self.bundles or {}).items()}
        found = {f"{name}/{label}": each for name, spec in specs.items() for label, each in spec.thresholds.items()}
        plain = {label: each for spec in specs.values() for label, each in spec.thresholds.items()}
        return {key: each for key, each in plain.items() if key in self.labels} | found


@dataclass(frozen=True, slots=True)
class Applied:
    """An edit that has been written."""

    description: str
    difference: str
    now: ConfigVersion


@dataclass(frozen=True, slots=True)
class Undoable:
    """An edit that can be undone: the contents before and after it."""

    description: str
    time: datetime
    before: bytes
    after: bytes


class ConfigEditor:
    """Edit one configuration file. Methods may be called in any thread; edits are made one after the other."""

    def __init__(self, path: Path, check: Callable[[ServiceConfig], CheckedConfig] = preflight) -> None:
        self.path = path
        self._check = check
        self._key = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, bytes] = OrderedDict()
        self._undo: deque[Undoable] = deque(maxlen=MAX_UNDO)
        self._read: tuple[str, bytes, ConfigVersion] | None = None

    @property
    def read_only(self) -> str | None:
        """Why the file cannot be edited, or None if it can."""
        return reason_read_only(self.path)

    def undoable(self, now: ConfigVersion) -> Undoable | None:
        """Return the edit that `undo` takes back; None if there is none, or if the file was changed after it."""
        with self._lock:
            last = self._undo[-1] if self._undo else None
            return last if last and _text(last.after) == now.text else None

    def read(self) -> ConfigVersion:
        """Read and check the present content. Raises `UsageError` if the file cannot be read."""
        with self._lock:
            return self._present()[1]

    def apply(self, edit: ConfigEdit, version: str) -> Applied:
        """Make an edit to the content that the page has seen as `version`, and write the file.

        Raises `ConfigError` for an edit that the checks refuse, and `ConfigConflictError` if the file has another
        content by now.
        """
        separated = separate_credentials(edit, self.path) if isinstance(edit, AddStream) else None
        edit = separated.edit if separated else edit
        variables = VariablesFile(self.path) if separated and separated.variables else None
        with self._lock, exclusive(self.path):
            data, present = self._present()
            if present.version != version:
                raise self._conflict(data, version, edit)
            self._check_writable()
            if variables and separated:
                variables.add(separated.variables)
            try:
                return self._write(data, self._edited(edit, data, present.config), edit.description)
            except BaseException:
                if variables:
                    variables.restore()
                raise

    def undo(self, version: str) -> Applied:
        """Take the last edit back; the content before it has to pass the checks of today."""
        with self._lock, exclusive(self.path):
            data, present = self._present()
            if not self._undo:
                raise ConfigError("there is no change to undo; the page was restarted, or all were undone")
            last = self._undo[-1]
            if data != last.after or present.version != version:
                raise ConfigConflictError(
                    f"{self.path}: the file was changed after {last.description!r}; nothing was undone",
                    theirs=difference(_text(last.after), _text(data)),
                    ours=difference(_text(last.after), _text(last.before)),
                )
            self._check_writable()
            applied = self._write(data, last.before, f"Undo: {last.description}")
            self._undo.pop()  # the undo itself
            self._undo.pop()
            return applied

    def _present(self) -> tuple[bytes, ConfigVersion]:
        """Return the content and what is known of it; the checks run only for a new content or a new save."""
        saved = version_text(file_signature(self.path))
        data = read_config_bytes(self.path)
        version = hmac.new(self._key, data, hashlib.sha256).hexdigest()[:24]
        self._seen[version] = data
        self._seen.move_to_end(version)
        while len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        if self._read and self._read[0] == saved and self._read[1] == data:
            return data, self._read[2]
        try:
            text = _text(data)
            checked = self._checked(text)
            found = ConfigVersion(text, version, saved, checked.config, checked.bundles, None)
        except ConfigError as error:
            found = ConfigVersion(data.decode("utf-8", "replace"), version, saved, None, None, redact(str(error)))
        if found.error is None:
            self._read = (saved, data, found)
        return data, found

    def _checked(self, text: str) -> CheckedConfig:
        """Check a content as the service does. Raises `ConfigError`."""
        try:
            config = parse_config_text(text, self.path, Variables(os.environ, self.path))
            return self._check(config)
        except (UsageError, EngineError) as error:
            raise ConfigError(str(error)) from None

    def _edited(self, edit: ConfigEdit, data: bytes, config: ServiceConfig | None) -> bytes:
        try:
            text = edit.apply(_text(data), config)
        except (YamlEditError, YamlTextError) as error:
            raise ConfigError(f"{self.path}: {error}") from None
        return (_BOM if data.startswith(_BOM) else b"") + text.encode()

    def _check_writable(self) -> None:
        if reason := reason_read_only(self.path):
            raise ConfigError(reason)

    def _write(self, before: bytes, after: bytes, description: str) -> Applied:
        self._checked(_text(after))
        if read_config_bytes(self.path) != before:  # somebody saved it while the checks ran
            raise ConfigConflictError(
                f"{self.path}: the file was changed in this moment; nothing was written",
                theirs=difference(_text(before), _text(read_config_bytes(self.path))),
                ours=difference(_text(before), _text(after)),
            )
        replace_config(self.path, after)
        self._undo.append(Undoable(description, datetime.now(timezone.utc), before, after))
        return Applied(description, difference(_text(before), _text(after)), self._present()[1])

    def _conflict(self, data: bytes, version: str, edit: ConfigEdit) -> ConfigConflictError:
        base = self._seen.get(version)
        if base is None:
            return ConfigConflictError(
                f"{self.path}: the page shows an older version of the file; nothing was written",
                theirs=masked(_text(data)),
                ours="",
            )
        try:
            ours = difference(_text(base), _text(self._edited(edit, base, None)))
        except ConfigError:
            ours = ""
        return ConfigConflictError(
            f"{self.path}: the file was changed after the page had read it; nothing was written",
            theirs=difference(_text(base), _text(data)),
            ours=ours,
        )


def _text(data: bytes) -> str:
    """Return the text of a content. Raises `ConfigError` if it is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"not a text file in UTF-8 (byte {error.start})") from None
