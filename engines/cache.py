"""Where compiled engines are kept: one private directory for each combination of everything that invalidates them.

A compiled engine is executable code. It is taken back only if this user built it on this machine: the file carries
its whole key, its sha256 and a seal (HMAC) made with a secret that never leaves the cache. Whatever does not fit is
built again, with a notice; nothing is ever half written, since a file appears under its name only when complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

Key = Mapping[str, str | int]
T = TypeVar("T")

MAGIC: Final = b"streamclf compiled engine 1\n"
SECRET_FILE: Final = "machine.key"  # noqa: S105 - a name
MACHINE_ID: Final = Path("/etc/machine-id")
MAX_MANIFEST_BYTES: Final = 64 * 1024
WAIT_S: Final = 1800.0
"""How long to wait for another process that compiles the same engine; the slowest TensorRT builds take minutes."""
POLL_S: Final = 0.05

log = logging.getLogger("engine")


class StaleBlobError(Exception):
    """A kept engine that its own library does not take back; the message is the reason."""


def cache_root() -> Path:
    """`$STREAMCLF_CACHE`, else the platform's cache directory."""
    if explicit := os.environ.get("STREAMCLF_CACHE"):
        return Path(explicit)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "streamclf"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamclf"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledCache:
    """Engines compiled under one key. Without a directory nothing is kept and everything is built."""

    key: Key
    directory: Path | None

    def get(
        self,
        name: str,
        *,
        restore: Callable[[bytes], T],
        build: Callable[[], tuple[T, bytes]],
        wait_s: float = WAIT_S,
    ) -> T:
        """`restore` the engine kept as `name`, else `build` it and keep its bytes.

        Of several processes that want the same engine one builds, the others wait up to `wait_s`, then build for
        themselves. `restore` raises `StaleBlobError` for bytes that it does not take.
        """
        found = self.restored(name, restore)
        if found is not None:
            return found
        with self._turn(name, wait_s) as waited:
            if waited and (found := self.restored(name, restore)) is not None:
                return found
            self._tell_of_others(name)
            value, blob = build()
            self.store(name, blob)
            return value

    def load(self, name: str) -> bytes | None:
        """The bytes kept as `name`, or None, with a notice where they are there and cannot be trusted."""
        if self.directory is None:
            return None
        path = self.directory / name
        try:
            return self._verified(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, StaleBlobError) as error:
            self._refuse(path, error)
            return None

    def store(self, name: str, blob: bytes) -> None:
        """Keep `blob` as `name`, whole or not at all; where that fails a notice says why."""
        if self.directory is None:
            return
        path = self.directory / name
        manifest = {"key": dict(self.key), "bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
        temporary = None
        try:
            header = MAGIC + json.dumps({**manifest, "seal": _seal(manifest)}, sort_keys=True).encode() + b"\n"
            descriptor, temporary = tempfile.mkstemp(dir=self.directory, prefix=f".{name}-")  # mode 0600
            with os.fdopen(descriptor, "wb") as file:
                file.write(header)
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            log.warning(
                "%s: the compiled engine (%.1f MB) is not kept: %s; it will be built at each start: "
                "free some space, or point STREAMCLF_CACHE elsewhere",
                path,
                len(blob) / 1e6,
                error.strerror or error,
            )

    def restored(self, name: str, restore: Callable[[bytes], T]) -> T | None:
        """The engine kept as `name`, or None: nothing is built, and nobody is waited for."""
        blob = self.load(name)
        if blob is None:
            return None
        assert self.directory is not None  # nothing was kept without one
        try:
            return restore(blob)
        except StaleBlobError as error:
            self._refuse(self.directory / name, error)
            return None

    def _verified(self, data: bytes) -> bytes:
        """The engine in a kept file. Raises `StaleBlobError` for one that is damaged, foreign or of another key."""
        if not data.startswith(MAGIC):
            raise StaleBlobError("not a file of ours")
        line, newline, blob = data[len(MAGIC) :].partition(b"\n")
        if not newline or len(line) > MAX_MANIFEST_BYTES:
            raise StaleBlobError("truncated")
        try:
            manifest = json.loads(line)
            seal = manifest.pop("seal")
            size, digest, key = manifest["bytes"], manifest["sha256"], manifest["key"]
        except (ValueError, KeyError, AttributeError, TypeError):
            raise StaleBlobError("its manifest is damaged") from None
        if len(blob) != size:
            raise StaleBlobError(f"truncated: {len(blob)} of {size} bytes")
        if hashlib.sha256(blob).hexdigest() != digest:
            raise StaleBlobError("damaged: its sha256 is not the manifest's")
        if not isinstance(seal, str) or not hmac.compare_digest(seal, _seal(manifest)):
            raise StaleBlobError("not built by this user on this machine")
        if key != dict(self.key):
            raise StaleBlobError(f"built for {_difference(key, self.key)}")
        return blob

    @staticmethod
    def _refuse(path: Path, reason: Exception) -> None:
        log.warning("%s: %s; building the engine again", path, reason)
        with contextlib.suppress(OSError):
            path.unlink()

    @contextlib.contextmanager
    def _turn(self, name: str, wait_s: float) -> Iterator[bool]:
        """Hold the key's lock for one engine; yields whether another process had it first."""
        if self.directory is None:
            yield False
            return
        try:
            file = (self.directory / f".{name}.lock").open("w")
        except OSError:
            yield False
            return
        with file:  # closing lets the lock go, and so does the death of the process
            yield _lock(file.fileno(), self.directory / name, wait_s)

    def _tell_of_others(self, name: str) -> None:
        """Say why a build is needed where one for another version, device or precision is there."""
        if self.directory is None:
            return
        subject = self.directory.name.split("-")[0]
        for other in sorted(self.directory.parent.glob(f"{subject}-*/{name}")):
            with contextlib.suppress(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
                with other.open("rb") as file:
                    head = file.read(len(MAGIC) + MAX_MANIFEST_BYTES)
                key = json.loads(head[len(MAGIC) :].split(b"\n")[0])["key"]
                log.warning("%s was built for %s; building it for this machine", other, _difference(key, self.key))
                return


def open_cache(key: Key, *, subject: tuple[str, ...]) -> CompiledCache:
    """The cache of engines compiled under `key`, in a directory of mode 0700.

    `subject`: the names in `key` of what an engine computes; the others are versions and devices, for which the
    same thing may have been compiled before. A directory that other users may write to is not used.
    """
    name = f"{_short({part: key[part] for part in subject})}-{_short(key)}"
    path = cache_root() / "engines" / name
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        private = not status.st_mode & 0o022 and status.st_uid == os.getuid() and os.access(path, os.W_OK)
    except OSError as error:
        log.warning("%s: %s; compiled engines are not kept: set STREAMCLF_CACHE", path, error.strerror)
        return CompiledCache(key=key, directory=None)
    if not private:
        log.warning(
            "%s: others may write there; compiled engines are not kept: chmod go-w, or set STREAMCLF_CACHE", path
        )
    return CompiledCache(key=key, directory=path if private else None)


def _lock(descriptor: int, path: Path, wait_s: float) -> bool:
    """Take the lock, waiting up to `wait_s`; whether another process had it."""
    deadline = time.monotonic() + wait_s
    waited = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # noqa: PERF203 - each one may fail
            if not waited:
                log.info("%s: another process is compiling this engine; waiting up to %.0f s", path, wait_s)
                waited = True
            if time.monotonic() >= deadline:
                log.warning("%s: another process still compiles it after %.0f s; building it here too", path, wait_s)
                return waited
            time.sleep(POLL_S)
        except OSError:
            return waited  # a file system without locks: both build, the later file replaces the earlier
        else:
            return waited


def _seal(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(dict(manifest), sort_keys=True).encode()
    return hmac.new(_secret(), text, hashlib.sha256).hexdigest()


def _secret() -> bytes:
    """This user's secret for this machine; made at first use. A cache copied to another machine is not believed."""
    path = cache_root() / SECRET_FILE
    if not path.exists():
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{SECRET_FILE}-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # complete when it appears, and the first of two processes wins
        finally:
            Path(temporary).unlink()  # also where the disk is full
    try:
        machine = MACHINE_ID.read_bytes().strip()
    except OSError:
        machine = b""
    return hashlib.sha256(path.read_bytes() + machine).digest()


def _short(key: Key) -> str:
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:16]


def _difference(theirs: Any, ours: Key) -> str:
    """Which parts of a key differ, in words."""
    if not isinstance(theirs, dict):
        return "something else"
    parts = [f"{name} {theirs.get(name)} (here: {ours[name]})" for name in ours if theirs.get(name) != ours[name]]
    return ", ".join(parts)[:500] or "something else"
