"""Check a configuration before anything starts: its bundle, files, labels, hops and keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from engines.bundle import Bundle
from engines.errors import BundleError
from streamclf.builtin_models import find_bundle
from streamclf.config.publish import PublishConfig
from streamclf.config.service import ServiceConfig
from streamclf.config.stream import StreamConfig
from streamclf.errors import ConfigError, UsageError
from streamclf.events.journal_format import DATABASE_HEAD
from streamclf.net.curve_keys import load_certificate
from streamclf.net.endpoints import is_loopback
from streamclf.net.trusted_files import check_key_directory, read_small_file
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.model_checks import check_models
from streamclf.supervisor.outlet_checks import check_outlets, outlet_paths

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4095
"""The limits of Linux for one name in a path, and for a whole path."""
MAX_TLS_CA_BYTES = 16 << 20
"""The certificates of a whole system are about 0.3 MB."""


def preflight(config: ServiceConfig) -> CheckedConfig:
    """Return the configuration with its bundles, verified.

    Raises `ConfigError` that names the first key that cannot work.
    """
    for key, path in _paths_of(config):
        _check_length(key, path)
    bundles = {name: _find_bundle(name, model) for name, model in config.all_models.items()}
    pushed: dict[str, str] = {}
    for name, stream in config.streams.items():
        if stream.enabled:
            _check_files(f"streams.{name}", stream)
        if stream.push is not None and pushed.setdefault(stream.push, name) != name:
            raise ConfigError(
                f"streams.{name}.push={stream.push}: {pushed[stream.push]} has this address; give another name"
            )
    check_models(config, {name: bundle.spec for name, bundle in bundles.items()})
    _check_journal(config.publish.journal)
    if config.clips is not None:
        _check_clips("clips.folder", config.clips.folder)
    if config.examples is not None:
        _check_clips("examples.folder", config.examples.folder)
        _check_clips("examples.models", config.examples.models)
    check_access(config.publish)
    check_outlets(config.outlets, config.streams, config.publish.journal)
    return CheckedConfig(config, bundles)


def _find_bundle(name: str, model: str) -> Bundle:
    """Return the bundle of a model. The error about one of several models names its key."""
    if not name:
        return find_bundle(model)
    try:
        return find_bundle(model, f"models.{name}")
    except BundleError as error:
        raise ConfigError(f"models.{name}: {error}") from error


def _paths_of(config: ServiceConfig) -> Iterator[tuple[str, object]]:
    """Yield each key that holds the path of a file, and its value."""
    for name, model in config.all_models.items():
        yield f"models.{name}" if name else "model", model
    for key in ("journal", "keys", "allow"):
        yield f"publish.{key}", getattr(config.publish, key)
    if config.clips is not None:
        yield "clips.folder", config.clips.folder
    if config.examples is not None:
        yield "examples.folder", config.examples.folder
        yield "examples.models", config.examples.models
    for name, stream in config.streams.items():
        for key in ("images", "tls_ca"):
            yield f"streams.{name}.{key}", getattr(stream, key)
        if stream.is_file:
            yield f"streams.{name}.url", stream.file_path
    yield from outlet_paths(config.outlets)


def _check_length(key: str, path: object) -> None:
    """Raise `ConfigError` for a path that the file system cannot have, of which the checks below would stop."""
    if path is None:
        return
    try:
        encoded = os.fsencode(str(path))
    except UnicodeEncodeError:
        raise ConfigError(
            f"{key}={path}: file names have the encoding {sys.getfilesystemencoding()} here, which lacks a character "
            "of it; set PYTHONUTF8=1 or LC_ALL=C.UTF-8"
        ) from None
    if max(len(part) for part in encoded.split(b"/")) > MAX_NAME_BYTES:
        raise ConfigError(f"{key}: a file name of more than {MAX_NAME_BYTES} bytes; shorten it")
    if len(encoded) > MAX_PATH_BYTES:
        raise ConfigError(f"{key}: a path of more than {MAX_PATH_BYTES} bytes; shorten it")


def _check_files(key: str, stream: StreamConfig) -> None:
    """Check the files of a stream that is not paused: the file of a paused stream may be gone for now."""
    if stream.images is not None and not Path(stream.images).is_dir():
        raise ConfigError(f"{key}.images={stream.images}: no such folder; give the path of a folder of images")
    if stream.tls_ca is not None:
        try:
            read_small_file(Path(stream.tls_ca), max_bytes=MAX_TLS_CA_BYTES, remedy="give the path of a PEM file")
        except UsageError as error:
            raise ConfigError(f"{key}.tls_ca={error}") from None
    if stream.is_file:
        path = stream.file_path
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
    # The hub renames a damaged journal and begins a new one. It must not do that to a file that was never a journal.
    is_known = os.path.exists(f"{os.path.realpath(path)}.lock")  # noqa: PTH110 - false for a name that is too long
    if not is_known and path.is_file() and os.access(path, os.R_OK):
        with path.open("rb") as file:
            head = file.read(len(DATABASE_HEAD))
        if head not in (b"", DATABASE_HEAD):
            raise ConfigError(f"publish.journal={path}: exists and is not a journal; give another path")


def _check_clips(key: str, folder: Path) -> None:
    """Check that a folder of films can be written. It is created with the first film, but not its parent.

    A missing parent may be a disk that is not mounted; its films must not fill the disk of the system.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{key}={folder}: a file, not a folder; give another path, or remove the file")
    if not folder.parent.is_dir():
        raise ConfigError(f"{key}={folder}: {folder.parent} does not exist; create it first, or mount its disk")
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}={folder}: cannot be written; choose another place or change its permissions")


def check_access(publish: PublishConfig) -> None:
    """Check that endpoints which the network can reach have keys, and that keys can be used."""
    if publish.keys is None or publish.allow is None:
        for key in ("events", "replay"):
            endpoint: str = getattr(publish, key)
            if not endpoint.startswith("ipc://") and not is_loopback(endpoint, f"publish.{key}"):
                raise ConfigError(
                    f"publish.{key}={endpoint}: anybody in the network could read it; set publish.keys and "
                    "publish.allow (docs/security.md), or give 127.0.0.1 and reach it through a tunnel"
                )
        return
    try:
        load_certificate(publish.keys, secret=True)
    except UsageError as error:
        raise ConfigError(f"publish.keys={error}") from error
    try:
        check_key_directory(publish.allow)
    except UsageError as error:
        raise ConfigError(f"publish.allow={error}") from error
