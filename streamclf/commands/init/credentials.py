"""Take passwords and tokens out of URLs, so that a configuration holds `${NAME}` in their place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

from streamclf.config.placeholders import PLACEHOLDER
from streamclf.errors import UsageError
from streamclf.redact import MIN_TOKEN_CHARS, register_secret, replace_secret_parameters

_AUTHORITY: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*)@(.*)", re.DOTALL)


class Credentials:
    """The passwords and tokens of a new configuration, by the names of their variables."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.variables: dict[str, str] = {}

    @contextmanager
    def undone_by_errors(self) -> Iterator[None]:
        """Forget the values that were taken since, if an error ends the `with` statement."""
        before = dict(self.variables)
        try:
            yield
        except UsageError:
            self.variables.clear()
            self.variables.update(before)
            raise

    def take_from(self, url: str, owner: str) -> str:
        """Return a valid `url` with `${OWNER_PASSWORD}` in place of its password, and so for tokens in its query.

        Remember the values. A value that is a placeholder already stays. Raises `UsageError` for a password that is not
        text of one line.
        """
        match = _AUTHORITY.fullmatch(url)
        if match is None:
            return replace_secret_parameters(url, lambda value: self._placeholder(value, value, owner, "SECRET"))
        scheme, user_part, rest = match.groups()
        user, colon, password = user_part.partition(":")
        if password:
            user_part = f"{user}:{self._placeholder(password, _plain(password), owner, 'PASSWORD')}"
        elif not colon and len(user) >= MIN_TOKEN_CHARS:
            user_part = self._placeholder(user, _plain(user), owner, "TOKEN")
        # The service percent-encodes a variable's value only before an @.
        rest = replace_secret_parameters(rest, lambda value: self._placeholder(value, value, owner, "SECRET"))
        return f"{scheme}{user_part}@{rest}"

    def _placeholder(self, text: str, value: str, owner: str, kind: str) -> str:
        if PLACEHOLDER.search(text):
            return text
        register_secret(value)
        if not value.isprintable():
            raise UsageError(f"{owner}: the password holds a control character; the service cannot use it")
        base = re.sub(r"[^A-Z0-9]", "_", f"{owner}_{kind}".upper())
        base = base if not base[0].isdigit() else f"CAMERA_{base}"
        name, number = base, 2
        # A variable of the environment has precedence over the file, so one with another value cannot be used.
        while self.variables.get(name, value) != value or self._environ.get(name, value) != value:
            name, number = f"{base}_{number}", number + 1
        self.variables[name] = value
        return f"${{{name}}}"


def _plain(encoded: str) -> str:
    """Return a user name or password without percent-encoding."""
    try:
        return unquote_to_bytes(encoded).decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(
            f"the password ({len(unquote(encoded))} characters) is not percent-encoded UTF-8; write % itself as %25"
        ) from None
