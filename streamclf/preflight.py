"""What can be known of a configuration before anything starts: bundle, files, labels, hops."""

from __future__ import annotations

import os
from pathlib import Path

from engines.bundle import Bundle, ModelSpec
from streamclf.builtin import find_bundle
from streamclf.config import ServiceConfig, StreamConfig
from streamclf.errors import ConfigError


def preflight(config: ServiceConfig) -> Bundle:
    """The configuration's bundle, verified. Raises `ConfigError` naming the first key that cannot work here."""
    bundle = find_bundle(config.model)
    for name, stream in config.streams.items():
        _check_stream(f"streams.{name}", stream, bundle.spec)
    for label in config.actions:
        if label not in bundle.spec.labels:
            raise ConfigError(
                f"actions.{label}: {bundle.spec.id} has no such label; it has {_listed(bundle.spec.labels)}"
            )
    _check_journal(config.publish.journal)
    return bundle


def _check_stream(key: str, stream: StreamConfig, spec: ModelSpec) -> None:
    if stream.hop > spec.tokens:
        raise ConfigError(f"{key}.hop={stream.hop}: at most {spec.tokens} (tokens in a window of {spec.id})")
    if stream.is_file:
        path = Path(stream.url or "")
        if not path.exists():
            raise ConfigError(f"{key}.url={path}: no such file; give the path of a video, or a URL like rtsp://…")
        if not path.is_file() or not os.access(path, os.R_OK):
            raise ConfigError(f"{key}.url={path}: not a file that can be read; check its type and permissions")


def _check_journal(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"publish.journal={path}: is a directory; give the path of a file in it")
    if not path.parent.is_dir():
        raise ConfigError(f"publish.journal={path}: {path.parent} does not exist; create it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"publish.journal={path}: cannot be written; choose another place or change its permissions")


def _listed(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:12]) + (f" and {len(labels) - 12} more" if len(labels) > 12 else "")
