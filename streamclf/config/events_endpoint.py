"""Read the endpoint of a service's events from its configuration, so that commands accept that file as ENDPOINT."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from streamclf.config.placeholders import Substitution
from streamclf.config.publish import PublishConfig
from streamclf.config.service import MAX_CONFIG_BYTES
from streamclf.config.variables import Variables, variables_path
from streamclf.config.yaml_text import YamlTextError, parse_yaml
from streamclf.errors import ConfigError, UsageError
from streamclf.net.trusted_files import read_small_text

CONFIG_SUFFIXES: Final = (".yaml", ".yml")
_HOST_AND_PORT: Final = re.compile(r"[\w.-]+:\d{1,5}", re.ASCII)
DEFAULT_ENDPOINT: Final[str] = PublishConfig.model_fields["events"].default


def find_endpoint(text: str) -> str:
    """Return `text`, or if it is the path of a configuration, the endpoint in it.

    Raises `UsageError` for a text that is neither an address nor a file, and `ConfigError` for a configuration without
    an endpoint.
    """
    if "://" in text:
        return text
    if text.lower().endswith(CONFIG_SUFFIXES):
        return load_endpoint(Path(text))
    if not Path(text).exists():
        nearest = f"did you mean tcp://{text}? " if _HOST_AND_PORT.fullmatch(text) else ""
        raise UsageError(
            f"endpoint {text!r}: no such file; {nearest}give an address like tcp://127.0.0.1:5555, the service's "
            "configuration (.yaml), or a key file from `streamclf keys`"
        )
    return text


def load_endpoint(path: Path, environ: Mapping[str, str] = os.environ) -> str:
    """Return `publish.events` of the configuration `path`. Its other sections are not checked. Raises `ConfigError`."""
    try:
        document = parse_yaml(read_small_text(path, max_bytes=MAX_CONFIG_BYTES, remedy="give a YAML file"))
    except UsageError as error:
        raise ConfigError(str(error)) from None
    except YamlTextError as error:
        raise ConfigError(f"{path}: {error}; `streamclf check {path}` shows more") from None
    section = document.value.get("publish") if isinstance(document.value, dict) else None
    substitution = Substitution(Variables(environ, path), variables_path(path).name)
    try:
        publish = PublishConfig.model_validate(substitution.apply(section or {}, ("publish",)))
    except ValidationError:
        raise ConfigError(f"{path}: publish: cannot be used; `streamclf check {path}` shows why") from None
    if publish.keys is not None:
        raise ConfigError(
            f"{path}: this service admits only programs with keys; give your key file (`streamclf keys`) instead"
        )
    if publish.events.endswith(":*"):
        raise ConfigError(
            f"{path}: publish.events={publish.events}: the port is chosen at each start; give the endpoint that the "
            "service's log shows"
        )
    if publish.events.startswith("ipc://") and not publish.events.startswith("ipc:///"):
        raise ConfigError(
            f"{path}: publish.events={publish.events}: relative to the service's directory; give it whole"
        )
    return publish.events.replace("//*:", "//127.0.0.1:").replace("//0.0.0.0:", "//127.0.0.1:")
