"""Claim a folder for a node on this machine, and write the files of its service there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
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
from streamclf.runtime.lease_file import IDLE_STREAM

MAX_NODES: Final = 64
"""Nodes of one fleet on one machine."""
CLAIM_S: Final = 10.0
"""Longest time for the service of an agent's last run to end."""
ANY_PORT: Final = "tcp://127.0.0.1:*"
_AGENT: Final = "agent"


class NodeFolder:
    """The folder of one node: its name, its lock, its configuration and its journal."""

    def __init__(self, parent: Path, wanted: str, owner: str) -> None:
        """Claim the folder `wanted`, or `wanted-2` and so on where another node of this machine has it.

        An agent that is started again gets the folder that its `owner` had, once the service of the run before has
        ended there. So a node keeps its journal.
        """
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", wanted)[:56].lstrip("-._") or "node"
        names = [name if number == 1 else f"{name}-{number}" for number in range(1, MAX_NODES + 1)]
        own = [each for each in names if _read(parent / each / "owner") == owner]
        end_s = time.monotonic() + (CLAIM_S if own else 0.0)
        while (claimed := self._claim(parent, own or names)) is None and time.monotonic() < end_s:
            time.sleep(0.1)
        claimed = claimed or self._claim(parent, names)
        if claimed is None:
            raise UsageError(f"{parent}: {MAX_NODES} nodes of this machine use it already; stop some of them")
        self.name, self.lock_fd = claimed
        self.path = parent / self.name
        self.config = self.path / "node.yaml"
        status = os.fstat(self.lock_fd)
        self.identity = f"{status.st_dev}:{status.st_ino}"
        """Differs from that of a folder in another container, even if both have one name and one kernel."""
        (self.path / "owner").write_text(owner)

    @staticmethod
    def _claim(parent: Path, names: Collection[str]) -> tuple[str, int] | None:
        """Return the first of the folders that no other process has locked, with its lock."""
        for name in names:
            fd = open_locked(make_private_folder(parent / name) / "lock")
            if fd is not None:
                return name, fd
        return None

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


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _with_path(model: str | None, models: ModelStore) -> str | None:
    if model is None or not model.startswith(MODEL_PREFIX):
        return model
    return str(models.path_of(model.removeprefix(MODEL_PREFIX)))
