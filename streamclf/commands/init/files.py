"""Write new files in one step: a crash or a full disk leaves no part of one, and no file is replaced unasked."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from streamclf.errors import UsageError


def refuse_existing(path: Path) -> None:
    """Raise `UsageError` if there is something at `path`."""
    if os.path.lexists(path):
        raise UsageError(f"{path}: exists; give another name, or --force to replace it")


def write_file(path: Path, text: str, *, mode: int, replace: bool) -> None:
    """Write `text` to `path` with these permissions. Raises `UsageError`, also if it exists and `replace` is false."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                temporary.replace(path)
            else:
                os.link(temporary, path)  # unlike a rename, this fails if another process has made the file meanwhile
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    except FileExistsError:
        refuse_existing(path)
        raise
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}; choose another place") from None
