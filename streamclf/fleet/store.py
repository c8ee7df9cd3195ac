"""Keep the state of a fleet in files that survive a crash, readable by their owner only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import orjson

from streamclf.errors import UsageError
from streamclf.net.trusted_files import check_owner


def make_private_folder(path: Path) -> Path:
    """Create a folder, mode 0700, and its parents. Raises `UsageError`, also where other users may change it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; set fleet.folder to a folder that can be written") from None
    check_owner(path, path.stat())
    return path


def write_private(path: Path, data: bytes) -> None:
    """Replace a file at once and durably: after a crash, it holds the old bytes or the new ones."""
    temporary = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Store:
    """Values of JSON by name, each in a file of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = make_private_folder(folder)

    def save(self, name: str, value: Any) -> None:
        """Store a value durably."""
        write_private(self._folder / f"{name}.json", orjson.dumps(value))

    def load(self, name: str) -> Any:
        """Return the stored value; None for a name that was never stored.

        A damaged file is renamed, and counts as never stored.
        """
        path = self._folder / f"{name}.json"
        try:
            return orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            path.replace(path.with_name(f"{path.name}.damaged"))
            return None

    def remove(self, name: str) -> None:
        """Forget a value."""
        (self._folder / f"{name}.json").unlink(missing_ok=True)
