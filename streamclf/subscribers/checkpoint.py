"""How far an outlet has come, on disk: replaced as a whole after a delivery is confirmed, so kill -9 loses nothing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamclf.errors import JournalError, UsageError
from streamclf.events.positions import Position
from streamclf.events.types import Epoch, Offset
from streamclf.runtime.file_lock import open_locked

MAX_POSITION_BYTES = 16 << 20


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    v: Literal[1] = 1
    outlet: Annotated[str, Field(max_length=32)]
    epoch: Epoch
    offset: Offset
    memory: dict[str, Any] = Field(default_factory=dict)


class PositionFile:
    """One outlet's file, held by one process. `memory` is what else that outlet must know when it starts again.

    Raises `UsageError` for a file that is not this outlet's, `JournalError` where none can be had.
    """

    def __init__(self, path: Path, outlet: str) -> None:
        self.path = path
        self._outlet = outlet
        if not path.parent.is_dir():
            raise UsageError(f"{path}: directory {path.parent} does not exist; create it first")
        self._lock_fd = self._lock(path.with_name(path.name + ".lock"))
        try:
            stored = self._load()
        except BaseException:
            self.close()
            raise
        self.position = None if stored is None else Position(stored.epoch, stored.offset)
        self.memory: dict[str, Any] = {} if stored is None else stored.memory

    def __enter__(self) -> PositionFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def save(self, position: Position, memory: dict[str, Any]) -> None:
        """Both together, on the disk when this returns."""
        stored = _Stored(outlet=self._outlet, epoch=position.epoch, offset=position.offset, memory=memory)
        try:
            replace_file(self.path, stored.model_dump_json().encode() + b"\n")
        except OSError as error:
            raise JournalError(
                f"{self.path}: {error.strerror}; nothing is lost, but some events may be delivered again: "
                "free space or mend it, and start this command again"
            ) from error
        self.position, self.memory = position, memory

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._lock_fd)

    def _lock(self, path: Path) -> int:
        try:
            # Not the file itself: that one is replaced by each save, and a lock belongs to what was replaced.
            fd = open_locked(path)
        except OSError as error:
            raise JournalError(f"{path}: cannot be opened ({error.strerror}); give a writable path") from error
        if fd is None:
            raise JournalError(f"{self.path}: another process works with it; stop that one, or give another path")
        return fd

    def _load(self) -> _Stored | None:
        try:
            with self.path.open("rb") as file:
                text = file.read(MAX_POSITION_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be read ({error.strerror}); give another path") from error
        try:
            stored = _Stored.model_validate_json(text)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
            raise UsageError(
                f"{self.path}: not a position of ours ({fault[:200]}); give another path, or remove it to begin anew"
            ) from None
        if stored.outlet != self._outlet:
            raise UsageError(
                f"{self.path}: the position of `streamclf {stored.outlet}`; "
                f"give `streamclf {self._outlet}` a file of its own"
            )
        return stored


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` in the place of `path`: after a crash there is the old content or the new, never half of one."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)  # what a crash left, with whatever rights it has
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    finally:
        os.close(fd)
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # the rename itself is data of the directory
    finally:
        os.close(directory)
