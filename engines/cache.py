"""Cache compiled engines: one private directory for each cache key, which holds everything that invalidates an engine.

A compiled engine is executable code. The cache returns it only if this user built it on this machine: the file contains
its whole key, its sha256 and a seal (HMAC) made with a secret that never leaves the cache. If one of them does not
match, the engine is built again, and the log says why. A file appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import mmap
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

CacheKey = Mapping[str, str | int]
T = TypeVar("T")

MAGIC: Final = b"streamclf compiled engine 1\n"
SECRET_FILE: Final = "machine.key"  # noqa: S105 - a name
MACHINE_ID: Final = Path("/etc/machine-id")
MAX_MANIFEST_BYTES: Final = 64 * 1024
ALIGNMENT: Final = 64
"""An engine begins at a multiple of so many bytes in its file. So a library can use its arrays in the mapped file."""
WAIT_S: Final = 1800.0
"""Time to wait for another process that compiles the same engine; the slowest TensorRT builds take minutes."""
POLL_S: Final = 0.05

log = logging.getLogger("engine")


class StaleBlobError(Exception):
    """A cached engine cannot be used; the message is the reason."""


def cache_root() -> Path:
    """Return `$STREAMCLF_CACHE`, or the platform's cache directory if that is not set."""
    if explicit := os.environ.get("STREAMCLF_CACHE"):
        return Path(explicit)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "streamclf"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamclf"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledCache:
    """The cache of the engines for one key. Without a directory it keeps nothing, and every engine is built."""

    key: CacheKey
    directory: Path | None

    def get_or_build(
        self,
        name: str,
        *,
        restore: Callable[[memoryview], T],
        build: Callable[[], bytes],
        wait_s: float = WAIT_S,
    ) -> T:
        """Return the engine cached as `name`, or build it and cache its bytes.

        `restore` makes an engine of its bytes and raises `StaleBlobError` if it cannot. The bytes are a private mapping
        of the cached file, which lasts as long as something refers to it. If the file could not be written, they are in
        memory. `build` returns the bytes of a new engine. If several processes need the same engine, one builds it.
        The others wait up to `wait_s` seconds, then build it themselves.
        """
        found = self.get(name, restore)
        if found is not None:
            return found
        with self._build_lock(name, wait_s) as waited:
            if waited and (found := self.get(name, restore)) is not None:
                return found
            self._log_other_builds(name)
            blob = build()
            self.store(name, blob)
            found = self.get(name, restore)
            return restore(memoryview(blob)) if found is None else found

    def load(self, name: str) -> bytes | None:
        """Return the bytes cached as `name`, or None; if they exist but cannot be trusted, delete them and log why."""
        if self.directory is None:
            return None
        blob = self._map(self.directory / name)
        return None if blob is None else bytes(blob)

    def store(self, name: str, blob: bytes) -> None:
        """Cache `blob` as `name`, completely or not at all; if that fails, the log says why."""
        if self.directory is None:
            return
        path = self.directory / name
        manifest = {"key": dict(self.key), "bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
        temporary = None
        try:
            header = MAGIC + json.dumps({**manifest, "seal": _seal(manifest)}, sort_keys=True).encode()
            header += b" " * (-(len(header) + 1) % ALIGNMENT) + b"\n"
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
                "%s: the compiled engine (%.1f MB) cannot be cached: %s; each start will build it again: "
                "free some space, or point STREAMCLF_CACHE elsewhere",
                path,
                len(blob) / 1e6,
                error.strerror or error,
            )

    def get(self, name: str, restore: Callable[[memoryview], T]) -> T | None:
        """Return the engine cached as `name`, or None; build nothing, and do not wait for a build."""
        if self.directory is None:
            return None
        path = self.directory / name
        blob = self._map(path)
        if blob is None:
            return None
        try:
            return restore(blob)
        except StaleBlobError as error:
            self._discard(path, error)
            return None

    def _map(self, path: Path) -> memoryview | None:
        """Map a cached file and return its engine, or None; if it cannot be trusted, delete it and log why.

        No process writes to a file of the cache: `store` replaces it by a new one. So the mapping stays as verified.
        """
        try:
            with path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    raise StaleBlobError("not a file of this cache")
                # OpenVINO accepts writable memory only. What is written stays in this process.
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            return self._verified(data)
        except FileNotFoundError:
            return None
        except (OSError, StaleBlobError) as error:
            self._discard(path, error)
            return None

    def _verified(self, data: mmap.mmap) -> memoryview:
        """Return the engine in a cached file; raise `StaleBlobError` for a damaged or foreign file, or another key."""
        if data[: len(MAGIC)] != MAGIC:
            raise StaleBlobError("not a file of this cache")
        end = data.find(b"\n", len(MAGIC), len(MAGIC) + MAX_MANIFEST_BYTES)
        if end < 0:
            raise StaleBlobError("truncated")
        blob = memoryview(data)[end + 1 :]
        try:
            manifest = json.loads(data[len(MAGIC) : end])
            seal = manifest.pop("seal")
            size, digest, key = manifest["bytes"], manifest["sha256"], manifest["key"]
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise StaleBlobError("its manifest is damaged") from None
        if len(blob) != size:
            raise StaleBlobError(f"truncated: {len(blob)} of {size} bytes")
        if hashlib.sha256(blob).hexdigest() != digest:
            raise StaleBlobError("damaged: its sha256 differs from its manifest")
        if not isinstance(seal, str) or not seal.isascii() or not hmac.compare_digest(seal, _seal(manifest)):
            raise StaleBlobError("not built by this user on this machine")
        if key != dict(self.key):
            raise StaleBlobError(f"built for {_difference(key, self.key)}")
        return blob

    @staticmethod
    def _discard(path: Path, reason: Exception) -> None:
        log.warning("%s: %s; building the engine again", path, reason)
        with contextlib.suppress(OSError):
            path.unlink()

    @contextlib.contextmanager
    def _build_lock(self, name: str, wait_s: float) -> Iterator[bool]:
        """Hold the lock of one engine; yield whether another process held it first."""
        if self.directory is None:
            yield False
            return
        try:
            file = (self.directory / f".{name}.lock").open("w")
        except OSError:
            yield False
            return
        with file:  # closing the file, or the end of the process, releases the lock
            yield _wait_for_lock(file.fileno(), self.directory / name, wait_s)

    def _log_other_builds(self, name: str) -> None:
        """If the cache has this engine for another version or device, log why it cannot be used."""
        if self.directory is None:
            return
        subject = self.directory.name.split("-")[0]
        for other in sorted(self.directory.parent.glob(f"{subject}-*/{name}")):
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
                with other.open("rb") as file:
                    head = file.read(len(MAGIC) + MAX_MANIFEST_BYTES)
                key = json.loads(head[len(MAGIC) :].split(b"\n")[0])["key"]
                log.warning("%s was built for %s; building it for this machine", other, _difference(key, self.key))
                return


def open_cache(key: CacheKey, *, subject: tuple[str, ...]) -> CompiledCache:
    """Open the cache of the engines for `key`, in a directory of mode 0700.

    `subject` lists the entries of `key` that define what an engine computes. The other entries are versions and
    devices: the same computation may have been compiled before for others. A directory that other users may write to
    is not used.
    """
    name = f"{_hash_key({part: key[part] for part in subject})}-{_hash_key(key)}"
    path = cache_root() / "engines" / name
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        refusal = _refusal(path)
    except OSError as error:
        refusal = f"{error.strerror or error}; set STREAMCLF_CACHE to another directory"
    if refusal:
        log.warning("%s: compiled engines are not cached: %s", path, refusal)
    return CompiledCache(key=key, directory=None if refusal else path)


def _refusal(path: Path) -> str:
    """Return why a directory cannot hold compiled engines, with the remedy; empty if it can."""
    status = path.stat()
    if status.st_uid != os.getuid():
        return "the directory belongs to another user; set STREAMCLF_CACHE to another directory"
    if status.st_mode & 0o022:
        return "other users may write there; run chmod go-w, or set STREAMCLF_CACHE to another directory"
    if not os.access(path, os.W_OK):
        return "the directory is read-only; make it writable, or set STREAMCLF_CACHE to another directory"
    return ""


def _wait_for_lock(descriptor: int, path: Path, wait_s: float) -> bool:
    """Lock the file, waiting up to `wait_s`, and return whether another process held the lock.

    After `wait_s`, or on a file system without locks, return without the lock.
    """
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
                log.warning(
                    "%s: another process is still compiling it after %.0f s; building it here too", path, wait_s
                )
                return waited
            time.sleep(POLL_S)
        except OSError:
            return (
                waited  # a file system without locks: both processes build, and the later file replaces the earlier one
            )
        else:
            return waited


def _seal(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(dict(manifest), sort_keys=True).encode()
    return hmac.new(_secret(), text, hashlib.sha256).hexdigest()


def _secret() -> bytes:
    """Return this user's secret for this machine; create it at first use.

    It depends on the machine's id, so that a cache copied to another machine is not trusted.
    """
    path = cache_root() / SECRET_FILE
    if not path.exists():
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{SECRET_FILE}-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # the file is complete when it appears, and the first of two processes wins
        finally:
            Path(temporary).unlink()  # also where the disk is full
    try:
        machine = MACHINE_ID.read_bytes().strip()
    except OSError:
        machine = b""
    return hashlib.sha256(path.read_bytes() + machine).digest()


def _hash_key(key: CacheKey) -> str:
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:16]


def _difference(theirs: Any, ours: CacheKey) -> str:
    """Describe which entries of two keys differ."""
    if not isinstance(theirs, dict):
        return "something else"
    parts = [f"{name} {theirs.get(name)} (here: {ours[name]})" for name in ours if theirs.get(name) != ours[name]]
    return ", ".join(parts)[:500] or "something else"
