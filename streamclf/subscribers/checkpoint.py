"""Store the position of an outlet. The file is replaced as a whole after a delivery, so `kill -9` loses nothing."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamclf.errors import JournalError, UsageError
from streamclf.events.positions import Position
from streamclf.events.types import Epoch, Offset
from streamclf.runtime.durable_files import replace_file
from streamclf.runtime.file_lock import open_locked

MAX_POSITION_BYTES = 16 << 20
MAX_JOURNALS = 16_384
"""Journals of a fleet: a node has another one each time that its old one was lost."""


class _StoredPosition(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    v: Literal[1] = 1
    outlet: Annotated[str, Field(max_length=32)]
    epoch: Epoch
    offset: Offset
    others: Annotated[tuple[tuple[Epoch, Offset], ...], Field(max_length=MAX_JOURNALS)] = ()
    """Offsets in the other journals of a fleet."""
    memory: dict[str, Any] = Field(default_factory=dict)


class PositionFile:
    """The position file of one outlet, locked by one process.

    `position` is None in a new file. `memory` holds the other state that the outlet needs when it starts again.
    Raises `UsageError` for a file of another outlet or program, and `JournalError` for a file that cannot be used.
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
        self.position = None if stored is None else Position(stored.epoch, stored.offset, stored.others)
        self.memory: dict[str, Any] = {} if stored is None else stored.memory

    def __enter__(self) -> PositionFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def save(self, position: Position, memory: dict[str, Any]) -> None:
        """Store position and memory together; both are on disk when this returns. Raises `JournalError`."""
        stored = _StoredPosition(
            outlet=self._outlet, epoch=position.epoch, offset=position.offset, others=position.others, memory=memory
        )
        try:
            unused = None if position.others else {"others"}
            replace_file(self.path, stored.model_dump_json(exclude=unused).encode() + b"\n")
        except OSError as error:
            raise JournalError(
                f"{self.path}: {error.strerror}; no event is lost, but some may be delivered again: "
                "free space or repair the disk, and start this command again"
            ) from error
        self.position, self.memory = position, memory

    def close(self) -> None:
        """Release the lock, so that another process can use the file."""
        os.close(self._lock_fd)

    def _lock(self, path: Path) -> int:
        try:
            # The lock has a file of its own: each save replaces the position file, and with it a lock on it.
            fd = open_locked(path)
        except OSError as error:
            raise JournalError(f"{path}: cannot be opened ({error.strerror}); give a writable path") from error
        if fd is None:
            raise JournalError(f"{self.path}: another process uses it; stop that process, or give another path")
        return fd

    def _load(self) -> _StoredPosition | None:
        try:
            with self.path.open("rb") as file:
                text = file.read(MAX_POSITION_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be read ({error.strerror}); give another path") from error
        try:
            stored = _StoredPosition.model_validate_json(text)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
            raise UsageError(
                f"{self.path}: not a position file of streamclf ({fault[:200]}); give another path, "
                "or remove the file to start anew"
            ) from None
        if stored.outlet != self._outlet:
            raise UsageError(
                f"{self.path}: belongs to `streamclf {stored.outlet}`; "
                f"give `streamclf {self._outlet}` a position file of its own"
            )
        return stored
