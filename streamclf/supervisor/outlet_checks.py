"""Check the outlets of a configuration before anything starts: streams, files, secrets and missing libraries."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from streamclf.config.outlet_options import LogConfig, MetricsConfig, MqttConfig, OutletConfig, WebConfig, WebhookConfig
from streamclf.config.outlets import OutletsConfig
from streamclf.config.picture_keys import PictureKeys
from streamclf.errors import ConfigError, UsageError
from streamclf.net.broker_address import parse_broker
from streamclf.net.endpoints import is_loopback_host
from streamclf.net.names import describe_unknown
from streamclf.net.secret_files import read_secret, read_token

_COLLISIONS: Final = {
    "log": ("file", "file"),
    "mqtt": ("broker and prefix", "prefix"),
    "metrics": ("address", "port"),
    "web": ("address", "port"),
}
"""The keys in which two outlets of a kind must differ, and the key to change."""


def outlet_paths(outlets: OutletsConfig) -> Iterator[tuple[str, Path]]:
    """Yield each key of an outlet that holds the path of a file, and its value."""
    for config in outlets.all:
        for key in config.PATHS:
            if (path := getattr(config, key)) is not None:
                yield f"{_place(config)}.{key}", path


def check_outlets(outlets: OutletsConfig, streams: Collection[str], journal: Path) -> None:
    """Raise `ConfigError` that names the first key that cannot work."""
    used: dict[object, str] = {journal.resolve(): "the journal"}
    for config in outlets.all:
        place = _place(config)
        for stream in config.streams or ():
            if stream not in streams:
                text = describe_unknown("stream", stream, streams, "the configuration")
                raise ConfigError(f"{place}.streams: {text}")
        receiver = _check(config, place)
        if receiver is not None and used.setdefault(receiver, place) != place:
            what, remedy = _COLLISIONS[config.KIND]
            raise ConfigError(f"{place}: {used[receiver]} has the same {what}; give another {remedy}")


def _check(config: OutletConfig, place: str) -> object:
    """Check one outlet; return what no other outlet may write to, None if there is no such thing."""
    if isinstance(config, PictureKeys):
        _check_links(config, place)
    match config:
        case LogConfig():
            _check_log(config.file, place)
            return config.file.resolve()
        case MqttConfig():
            # Its parent package is looked up first, so the name alone would raise ModuleNotFoundError.
            if importlib.util.find_spec("paho") is None:
                raise ConfigError(f"{place}: needs paho-mqtt; install it: pip install 'paho-mqtt>=2,<3'")
            return str(parse_broker(config.broker, os.environ)), config.prefix
        case WebhookConfig() if config.secret_file is not None:
            _check_secret_file(config.secret_file, f"{place}.secret_file", is_token=False)
        case MetricsConfig() | WebConfig():
            if isinstance(config, WebConfig):
                _check_web_libraries(place)
            if config.token_file is not None:
                _check_secret_file(config.token_file, f"{place}.token_file", is_token=True)
            elif config.token is None and not is_loopback_host(config.host):
                raise ConfigError(
                    f"{place}.host={config.host}: anybody in the network could read the pages; set token_file, or stay "
                    "on 127.0.0.1"
                )
            return (config.host, config.port) if config.port else None
    return None


def _check_web_libraries(place: str) -> None:
    if importlib.util.find_spec("nicegui") is None:
        raise ConfigError(f"{place}: needs nicegui; install it with: pip install '.[web]' in a clone")


def _check_links(config: PictureKeys, place: str) -> None:
    if config.link_token_file is not None:
        _check_secret_file(config.link_token_file, f"{place}.link_token_file", is_token=True)
    elif config.link is not None and config.link_token is None:
        raise ConfigError(
            f"{place}.link={config.link}: links need the token of the page; set outlets.web.token_file, or "
            "link_token_file"
        )


def _check_secret_file(path: Path, place: str, *, is_token: bool) -> None:
    try:
        _ = read_token(path) if is_token else read_secret(path)
    except UsageError as error:
        raise ConfigError(f"{place}={error}") from None


def _check_log(path: Path, place: str) -> None:
    if not path.parent.is_dir():
        raise ConfigError(f"{place}.file={path}: {path.parent} does not exist; create it first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{place}.file={path}: cannot be written; choose another place or change its permissions")


def _place(config: OutletConfig) -> str:
    return f"outlets.{config.KIND}" + (f"[{config.name}]" if config.name else "")
