"""Keep the credentials of a stream that somebody types on the page in the file of variables, never in the YAML.

The file of variables is `NAME.env` beside `NAME.yaml` (`streamclf.config.variables`). Only its owner can read it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from streamclf.config.placeholders import PLACEHOLDER
from streamclf.config.variables import Variables, read_variables, variables_path
from streamclf.errors import ConfigError
from streamclf.net.urls import UrlError, split_url
from streamclf.redact import register_secrets
from streamclf.runtime.durable_files import replace_file
from streamclf.subscribers.web.settings.edits import AddStream
from streamclf.subscribers.web.settings.shown_text import find_plain_secret

_REMEDY = "type it into the fields for user and password, or set a variable and write ${NAME} in its place"


@dataclass(frozen=True, slots=True)
class SeparatedCredentials:
    """An edit whose URL has placeholders, and the values of those that are new."""

    edit: AddStream
    variables: Mapping[str, str]


def separate_credentials(edit: AddStream, path: Path) -> SeparatedCredentials:
    """Replace the user and the password of a new stream by placeholders. Raises `ConfigError`, which quotes neither."""
    user, password, url = edit.user or "", edit.password or "", edit.url or ""
    register_secrets(filter(None, [password]))
    if url and "://" in url and find_plain_secret(url):
        try:
            parts = split_url(PLACEHOLDER.sub("x", url))
        except UrlError as error:
            raise ConfigError(f"url: {error}") from None
        if parts.password is None or PLACEHOLDER.search(url) or user or password:
            raise ConfigError(f"url: may hold a password in plain text; {_REMEDY}")
        user, password = unquote(parts.username or ""), unquote(parts.password)
        url = url.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1)
        if find_plain_secret(url):
            raise ConfigError(f"url: may hold a password or token in plain text; {_REMEDY}")
    elif url and find_plain_secret(url):
        raise ConfigError(f"url: may hold a password in plain text; {_REMEDY}")
    if not user and not password:
        return SeparatedCredentials(edit.model_copy(update={"user": None, "password": None}), {})
    return _with_placeholders(edit, path, url, user, password)


def _with_placeholders(edit: AddStream, path: Path, url: str, user: str, password: str) -> SeparatedCredentials:
    if "://" not in url or urlsplit(PLACEHOLDER.sub("x", url)).username is not None:
        raise ConfigError("user, password: only for a URL like rtsp://HOST/PATH without a user name of its own")
    if any(ord(char) < 32 or ord(char) == 127 for char in user + password):
        raise ConfigError("user, password: a line break or control character; remove it")
    known = Variables(os.environ, path)
    stem = re.sub(r"[^A-Z0-9]", "_", edit.stream.upper())
    stem = stem if stem[0].isalpha() else f"STREAM_{stem}"
    number = 1
    while f"{stem}_USER" in known or f"{stem}_PASSWORD" in known:
        number += 1
        stem = f"{stem.removesuffix(f'_{number - 1}')}_{number}"
    variables = {f"{stem}_USER": user} if user else {}
    part = f"${{{stem}_USER}}" if user else ""
    if password:
        variables[f"{stem}_PASSWORD"] = password
        part += f":${{{stem}_PASSWORD}}"
    scheme, _, rest = url.partition("://")
    update = {"url": f"{scheme}://{part}@{rest}", "user": None, "password": None}
    return SeparatedCredentials(edit.model_copy(update=update), variables)


class VariablesFile:
    """The file of variables of one configuration: `add` writes to it, and `restore` undoes that."""

    def __init__(self, config: Path) -> None:
        self._path = Path(os.path.realpath(variables_path(config)))  # a link stays a link
        self._before: bytes | None = None
        self._existed = False

    def add(self, variables: Mapping[str, str]) -> None:
        """Add variables at the end; the rest of the file stays. Raises `ConfigError`."""
        try:
            self._existed = self._path.exists()
            if self._existed:
                read_variables(self._path)  # checks its owner and mode
                self._before = self._path.read_bytes()
            text = self._before or b"# Credentials of the streams. Keep this file secret.\n"
            text += b"" if text.endswith(b"\n") else b"\n"
            lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
            replace_file(self._path, text + lines.encode())
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written ({error.strerror}); nothing was changed") from None

    def restore(self) -> None:
        """Restore the content before `add`, because the edit was refused."""
        try:
            if self._existed:
                replace_file(self._path, self._before or b"")
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be restored ({error.strerror})") from None
