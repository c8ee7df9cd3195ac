"""Claim a folder for a node on this machine, and write the files of its service there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from streamclf.errors import UsageError
from streamclf.fleet.messages import NodeSpec
from streamclf.fleet.model_store import ModelStore
from streamclf.fleet.setup import MODEL_PREFIX
from streamclf.fleet.store import make_private_folder, write_private
from streamclf.net.curve_keys import make_keys
from streamclf.runtime.file_lock import open_locked

MAX_NODES: Final = 64
"""Nodes of one fleet on one machine."""
IDLE_STREAM: Final = "_idle"
"""A paused stream, which a service without streams needs. It keeps the engine loaded and the journal readable."""
ANY_PORT: Final = "tcp://127.0.0.1:*"
_AGENT: Final = "agent"


class NodeFolder:
    """The folder of one node: its name, its lock, its configuration and its journal."""

    def __init__(self, parent: Path, wanted: str) -> None:
        """Claim the folder `wanted`, or `wanted-2` and so on where another node of this machine has it."""
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", wanted)[:56].lstrip("-._") or "node"
        for number in range(1, MAX_NODES + 1):
            self.name = name if number == 1 else f"{name}-{number}"
            self.path = make_private_folder(parent / self.name)
            fd = open_locked(self.path / "lock")
            if fd is not None:
                self.lock_fd = fd
                break
        else:
            raise UsageError(f"{parent}: {MAX_NODES} nodes of this machine use it already")
        self.config = self.path / "node.yaml"

    @property
    def leases(self) -> Path:
        """The file with the leases, which the service reads."""
        return self.path / f"leases-{os.getpid()}.json"

    @property
    def agent_key(self) -> Path:
        """The secret key with which the agent reads the events of its own service."""
        return self.path / f"{_AGENT}.key_secret"

    def remove_old_leases(self) -> None:
        """Remove the files of earlier runs. A service that still ran would refuse every event from then on."""
        for path in self.path.glob("leases-*.json"):
            path.unlink(missing_ok=True)

    def write_config(self, spec: NodeSpec, streams: Collection[str], models: ModelStore) -> dict[str, Any]:
        """Write the configuration of the service for these streams of a specification; return it."""
        common = dict(spec.common)
        common["model"] = _with_path(common.get("model"), models)
        if common["model"] is None:
            del common["model"]
        if "models" in common:
            common["models"] = {name: _with_path(value, models) for name, value in common["models"].items()}
        publish = {"events": ANY_PORT, "replay": ANY_PORT, **(common.get("publish") or {})}
        publish["leases"] = str(self.leases)
        if "allow" in publish:
            publish["allow"] = str(self._copy_allowed(Path(publish["allow"])))
        raw = {stream: spec.streams[stream] for stream in streams}
        config = {
            **common,
            "publish": publish,
            "streams": raw or {IDLE_STREAM: {"push": IDLE_STREAM, "enabled": False}},
        }
        write_private(self.config, orjson.dumps(config, option=orjson.OPT_INDENT_2))  # JSON is YAML
        return config

    def _copy_allowed(self, source: Path) -> Path:
        """Copy the public keys that may connect, and add the agent's own."""
        target = make_private_folder(self.path / "allow")
        if not self.agent_key.exists():
            make_keys(self.path, _AGENT, force=True)
        self.refresh_allowed(source)
        shutil.copyfile(self.path / f"{_AGENT}.key", target / f"{_AGENT}.key")
        return target

    def refresh_allowed(self, source: Path) -> None:
        """Follow the directory of allowed keys: keys may be added and removed while the service runs."""
        target = self.path / "allow"
        with contextlib.suppress(OSError):  # the service goes on with the keys that were allowed before
            found = {path.name: path for path in source.glob("*.key") if path.stem != _AGENT}
            for path in target.glob("*.key"):
                if path.name not in found and path.stem != _AGENT:
                    path.unlink()
            for name, path in found.items():
                copy = target / name
                if not copy.exists() or copy.stat().st_mtime_ns != path.stat().st_mtime_ns:
                    shutil.copy2(path, copy)


def models_of(spec: NodeSpec) -> list[str]:
    """Return the hashes of the bundles that a specification needs besides the built-in ones."""
    named: Mapping[str, str] = spec.common.get("models") or {}
    models = [spec.common.get("model"), *named.values()]
    return [model.removeprefix(MODEL_PREFIX) for model in models if model and model.startswith(MODEL_PREFIX)]


def missing_file(stream: Mapping[str, Any]) -> str | None:
    """Return why a stream cannot run on this machine: its service would refuse its whole configuration."""
    url = str(stream.get("url") or "")
    if url.startswith("/") and not os.access(url, os.R_OK):
        return f"url={url}: no such file on this node"
    for key in ("images", "tls_ca"):
        if (path := stream.get(key)) and not os.access(path, os.R_OK):
            return f"{key}={path}: not on this node"
    return None


def _with_path(model: str | None, models: ModelStore) -> str | None:
    if model is None or not model.startswith(MODEL_PREFIX):
        return model
    return str(models.path_of(model.removeprefix(MODEL_PREFIX)))
