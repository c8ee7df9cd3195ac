"""Read the variables of a configuration: from the environment, and from the file `NAME.env` beside `NAME.yaml`.

The form of the file is what a shell, systemd's `EnvironmentFile=` and Compose's `env_file` read as well.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

from streamclf.errors import ConfigError, UsageError
from streamclf.net.trusted_files import check_secrecy, read_key_file

MAX_BYTES: Final = 1 << 16
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


def variables_path(config: Path) -> Path:
    """Return the path of the file of variables that belongs to the configuration at `config`."""
    return config.with_suffix(".env")


class Variables(Mapping[str, str]):
    """The variables that a configuration may use; the environment has precedence over the file.

    The file is read only when a variable is not in the environment. So a file that systemd or Compose reads, and this
    user cannot, does no harm. Look-ups raise `ConfigError` for a file that cannot be used.
    """

    def __init__(self, environ: Mapping[str, str], config: Path) -> None:
        self._environ = environ
        self.path = variables_path(config)

    def __getitem__(self, name: str) -> str:
        return self._environ[name] if name in self._environ else self._from_file[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._from_file, **self._environ})

    def __len__(self) -> int:
        return len({**self._from_file, **self._environ})

    @cached_property
    def _from_file(self) -> Mapping[str, str]:
        return read_variables(self.path) if self.path.exists() else {}


def read_variables(path: Path) -> dict[str, str]:
    """Return the variables in a file of lines `NAME=VALUE`, which only its owner can read.

    Quotes have the meaning that they have in a shell. Raises `ConfigError`, which quotes no value.
    """
    try:
        data, mode = read_key_file(path, max_bytes=MAX_BYTES, remedy="give each variable a line NAME=VALUE")
        check_secrecy(path, mode)
        return _parse(data.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
    except UsageError as error:
        raise ConfigError(str(error)) from None


def add_variables(text: str, variables: Mapping[str, str]) -> str:
    """Return the text of a file with `variables` at its end; other lines of `text` stay, comments too."""
    kept = [line for line in text.splitlines() if _name_in(line) not in variables]
    return "\n".join([*kept, *(f"{name}={shlex.quote(value)}" for name, value in variables.items())]) + "\n"


def _name_in(line: str) -> str:
    match = _ASSIGNMENT.match(line.strip().removeprefix("export "))
    return match[1] if match else ""


def _parse(text: str, path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip().removeprefix("export ")
        if not stripped or stripped.startswith("#"):
            continue
        try:
            words = shlex.split(stripped)
        except ValueError:
            raise ConfigError(f"{path}: line {number}: quotes that do not end; close them") from None
        match = _ASSIGNMENT.fullmatch(words[0]) if len(words) == 1 else None
        if match is None:
            raise ConfigError(f"{path}: line {number}: write NAME=VALUE; put a value with blanks into single quotes")
        found[match[1]] = match[2]
    return found
