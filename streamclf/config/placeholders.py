"""Replace `${NAME}` in the values of a configuration, and mask the secrets among the values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from streamclf.config.yaml_text import Place
from streamclf.errors import ConfigError
from streamclf.redact import MIN_SECRET_CHARS, credentials_in, register_secrets

PLACEHOLDER: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
SECRET_KEYS: Final = frozenset({"push_secret", "secret", "token"})
_SECRET_NAME: Final = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|CRED|AUTH", re.IGNORECASE)
"""The names of environment variables whose values are masked in all output, in whichever key they are used."""


@dataclass(slots=True)
class Substitution:
    """Replace `${NAME}` from `environ`, and remember where which value was inserted."""

    environ: Mapping[str, str]
    file: str | None = None
    """Name of the file that may also hold variables, for the errors."""
    inserted: dict[Place, dict[str, str]] = field(default_factory=dict)
    """The names and values that each place of the configuration contains."""

    def apply(self, value: Any, place: Place = ()) -> Any:
        """Return `value` with all placeholders replaced. Raises `ConfigError` for a variable that is not set."""
        if isinstance(value, dict):
            return {key: self.apply(item, (*place, str(key))) for key, item in value.items()}
        if isinstance(value, list):
            return [self.apply(item, (*place, number)) for number, item in enumerate(value)]
        if not isinstance(value, str):
            return value

        def replacement(match: re.Match[str]) -> str:
            name = match[1]
            if name not in self.environ:
                where = ".".join(str(part) for part in place)
                or_file = f", or write it into {self.file}" if self.file else ""
                raise ConfigError(f"{where}: environment variable {name} is not set; export it first{or_file}")
            # A password may contain @ : / % ?, which would end the user part of a URL too early.
            in_user_part = "://" in value[: match.start()] and "@" in value[match.end() :]
            text = quote(self.environ[name], safe="") if in_user_part else self.environ[name]
            self.inserted.setdefault(place, {})[name] = text
            if in_user_part or _SECRET_NAME.search(name):
                register_secrets([text])
            return text

        return PLACEHOLDER.sub(replacement, value)

    def hide_values(self, message: str, place: Place) -> str:
        """Return an error's message about `place` with `${NAME}` again where a variable's value is quoted."""
        for where, values in self.inserted.items():
            if where[: len(place)] != place:
                continue
            for name, text in values.items():
                for form in (text, repr(text)[1:-1]):
                    if len(form) >= MIN_SECRET_CHARS:
                        message = message.replace(form, f"${{{name}}}")
        return message


def register_config_secrets(value: Any, key: str = "") -> None:
    """Mask all passwords and secrets in a configuration that has not been validated yet."""
    register_secrets(_secrets_in(value, key))


def _secrets_in(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from credentials_in(str(name))
            yield from _secrets_in(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _secrets_in(item, key)
    elif value is not None and not isinstance(value, bool) and key in SECRET_KEYS:
        yield str(value)
    elif isinstance(value, str):
        yield from credentials_in(value)
