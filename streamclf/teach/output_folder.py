"""Write a bundle into its folder: whole or not at all, also where an older bundle is replaced."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from engines.bundle import SPEC_FILE
from engines.printable import path_text
from streamclf.errors import OutputError, UsageError
from streamclf.runtime.file_lock import open_locked

_PREFIX: Final = ".teach-"
_LOCK_FILE: Final = "lock"
_NEW: Final = "new"
_OLD_PREFIX: Final = "old-"


def check_output(output: Path, examples: Path | None, *, replace: bool) -> None:
    """Raise `UsageError` if `output` cannot become a bundle. `replace`: an older bundle there may be replaced."""
    try:
        if output.is_symlink() or (output.exists() and not output.is_dir()):
            raise UsageError(f"-o {path_text(output)}: is a file or a link; give a folder for the bundle")
        if output.is_dir() and any(output.iterdir()):
            if not (output / SPEC_FILE).is_file():
                raise UsageError(f"-o {path_text(output)}: holds other files, and is no bundle; give another folder")
            if not replace:
                raise UsageError(
                    f"-o {path_text(output)}: a bundle is there; --add goes on from its examples, --force replaces it"
                )
        target = output.resolve()
        if target in (Path.cwd(), *Path.cwd().parents):  # it is renamed when another bundle takes its place
            raise UsageError(f"-o {path_text(output)}: is the present folder; give another one for the bundle")
        root = None if examples is None else examples.resolve()
    except (OSError, ValueError) as error:
        raise UsageError(f"-o {path_text(output)}: cannot be used ({getattr(error, 'strerror', error)})") from None
    if root is not None and (target == root or root in target.parents):
        raise UsageError(
            f"-o {path_text(output)}: is in the folder of the examples, where it would be a label; give another folder"
        )
    _check_writable(output)


def _check_writable(output: Path) -> None:
    """Raise `UsageError` if no folder can be made where `output` will be: before the work, and not after it."""
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    try:
        Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).rmdir()
    except OSError as error:
        raise UsageError(
            f"-o {path_text(output)}: {path_text(parent)} cannot be written ({error.strerror}); give another folder"
        ) from None


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Give an empty folder beside `output`, which takes the place of `output` if the block ends without an exception.

    Raises `OutputError` where the folder cannot be written.
    """
    parent, work, lock = output.parent, None, None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(parent)
        work = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = open_locked(work / _LOCK_FILE)
        folder = work / _NEW
        folder.mkdir()
        yield folder
        _sync(folder)
        _exchange(folder, output, work / f"{_OLD_PREFIX}{output.name}")
    except OSError as error:
        raise OutputError(
            f"-o {path_text(output)}: cannot be written ({error.strerror or error}); free space or give another folder"
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _exchange(folder: Path, output: Path, old: Path) -> None:
    """Rename `folder` to `output`. A bundle that is there moves away first, and comes back if the rename fails."""
    if not output.exists():
        folder.rename(output)
        return
    try:
        output.rename(old)
        folder.rename(output)
    except BaseException:
        if old.exists() and not output.exists():
            old.rename(output)
        raise


def _sync(folder: Path) -> None:
    """Write the files to the disk before they replace others: after a power cut there must be one of the two."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_leftovers(parent: Path) -> None:
    """Remove folders of processes that were killed. A bundle that had moved away is kept if its place is empty.

    A process in another container may have the same number, so its lock tells whether it still works.
    """
    for work in parent.glob(f"{_PREFIX}*"):
        if work.is_symlink() or not (work / _LOCK_FILE).is_file():
            continue
        lock = open_locked(work / _LOCK_FILE)
        if lock is None:
            continue
        try:
            for old in work.glob(f"{_OLD_PREFIX}*"):
                if not (place := parent / old.name.removeprefix(_OLD_PREFIX)).exists():
                    old.rename(place)
            shutil.rmtree(work, ignore_errors=True)
        finally:
            os.close(lock)
