"""Keep bundles by their hash, and copy them in bounded pieces between machines."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from engines.bundle import GOLDEN_FILE, INT8_ENCODER_FILE, INT8_HEAD_FILE, REQUIRED_FILES, SPEC_FILE, load_bundle
from streamclf.errors import ConfigError
from streamclf.fleet.store import make_private_folder

PIECE_BYTES: Final = 4 << 20
MAX_MODEL_BYTES: Final = 20 << 30
LEFTOVER_S: Final = 86400.0
"""Age at which a bundle that is not complete is removed."""
_PARTIAL: Final = ".partial-"
_NAMES: Final = frozenset({SPEC_FILE, GOLDEN_FILE, INT8_ENCODER_FILE, INT8_HEAD_FILE, *REQUIRED_FILES})
_HASH: Final = re.compile(r"[0-9a-f]{64}")

Files: TypeAlias = Mapping[str, tuple[int, str]]
"""Size and SHA-256 of each file of a bundle, by its name."""
ReadPiece: TypeAlias = Callable[[str, str, int], bytes]
"""Return up to `PIECE_BYTES` of a model's file from an offset: (hash of the model, name, offset) -> bytes."""


def describe_bundle(path: Path) -> tuple[str, dict[str, tuple[int, str]]]:
    """Return the hash of a bundle, and its files."""
    files = {name: _describe(path / name) for name in sorted(_NAMES) if (path / name).is_file()}
    return hash_of(files), files


def hash_of(files: Files) -> str:
    """Return the hash of a bundle with these files."""
    text = "".join(f"{name} {size} {sha256}\n" for name, (size, sha256) in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()


class ModelStore:
    """A folder of bundles, each in a folder called like its hash. A bundle appears there complete or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = make_private_folder(folder)

    def path_of(self, model: str) -> Path:
        """Return the folder of a bundle, which may be absent. Raises `ConfigError` for a text that is no hash."""
        if not _HASH.fullmatch(model):
            raise ConfigError(f"model {model[:80]!r}: not a SHA-256")
        return self._folder / model

    def has(self, model: str) -> bool:
        """Return whether the bundle is complete here."""
        return self.path_of(model).is_dir()

    def files(self, model: str) -> dict[str, tuple[int, str]]:
        """Return the files of a bundle that is here."""
        return describe_bundle(self.path_of(model))[1]

    def read_piece(self, model: str, name: str, offset: int) -> bytes:
        """Return the next piece of a file, empty at its end."""
        if name not in _NAMES:
            raise ConfigError(f"file {name[:80]!r}: no file of a bundle")
        with (self.path_of(model) / name).open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)

    def fetch(self, model: str, files: Files, read_piece: ReadPiece) -> None:
        """Copy a bundle here, unless it is here already.

        Raises `ConfigError` for files that are not those of the hash, and `BundleError` for a bundle that is damaged.
        """
        if self.has(model):
            return
        with self.receiving(model, files) as folder:
            for name, (size, _) in files.items():
                _fetch_file(folder / name, model, size, read_piece)

    @contextlib.contextmanager
    def receiving(self, model: str, files: Files) -> Iterator[Path]:
        """Yield a new folder for the files of a bundle; verify them at the end, and put the bundle into its place."""
        if hash_of(files) != model or not files.keys() <= _NAMES:
            raise ConfigError(f"model {model[:12]}: the list of its files does not have this hash")
        self._remove_leftovers()
        total = sum(size for size, _ in files.values())
        if total > MAX_MODEL_BYTES:
            raise ConfigError(f"model {model[:12]}: {total} bytes; at most {MAX_MODEL_BYTES}")
        if total > shutil.disk_usage(self._folder).free:
            raise ConfigError(f"model {model[:12]}: {total / 1e6:.0f} MB do not fit on the disk of {self._folder}")
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self._folder))
        try:
            yield partial
            for name, expected in files.items():
                if _describe(partial / name) != expected:
                    raise ConfigError(f"model {model[:12]}: {name} arrived damaged; it is fetched again")
            load_bundle(partial)
            if not self.has(model):
                partial.replace(self.path_of(model))
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove what processes that were killed have left of bundles. Other nodes may receive some at this moment."""
        oldest_s = time.time() - LEFTOVER_S
        for partial in self._folder.glob(f"{_PARTIAL}*"):
            with contextlib.suppress(OSError):  # another process removes it
                if partial.stat().st_mtime < oldest_s:
                    shutil.rmtree(partial, ignore_errors=True)


class Upload:
    """A bundle that arrives in pieces, from a program that this one cannot ask for them."""

    def __init__(self, store: ModelStore, model: str, files: Files) -> None:
        self._files = files
        self._stack = contextlib.ExitStack()
        self._folder = self._stack.enter_context(store.receiving(model, files))

    def add(self, name: str, offset: int, piece: bytes) -> None:
        """Append a piece to a file. Raises `ConfigError` for one that does not belong there."""
        with (self._folder / name if name in self._files else self._folder / SPEC_FILE).open("ab") as file:
            if name not in self._files or file.tell() != offset or offset + len(piece) > self._files[name][0]:
                raise ConfigError(f"piece at {offset} of {name[:80]!r}: does not belong there; start again")
            file.write(piece)

    def finish(self) -> None:
        """Verify the bundle and put it into its place. Raises as `ModelStore.fetch` does."""
        self._stack.close()

    def abandon(self) -> None:
        """Remove the pieces."""
        with contextlib.suppress(InterruptedError):
            self._stack.__exit__(InterruptedError, InterruptedError(), None)


def _fetch_file(path: Path, model: str, size: int, read_piece: ReadPiece) -> None:
    done = 0
    with path.open("wb") as file:
        while done < size:
            piece = read_piece(model, path.name, done)
            if not piece or done + len(piece) > size:
                raise ConfigError(f"model {model[:12]}: {path.name} does not have {size} bytes at its source")
            file.write(piece)
            done += len(piece)


def _describe(path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        return file.tell(), digest.hexdigest()
