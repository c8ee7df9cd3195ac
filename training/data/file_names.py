"""Tell clips from the files that systems and tools leave beside them, and find clips by their listed names."""

from __future__ import annotations

import errno
import posixpath
import unicodedata
from pathlib import Path, PurePosixPath

from engines.regular_file import NotRegularFileError, open_regular
from streamclf.sources.film_files import SYSTEM_NAMES


def is_listed_by_mistake(path: str) -> bool:
    """Tell whether a listed path leads to no clip: a `._` file of macOS, or a file in a system's folder."""
    *folders, name = PurePosixPath(path).parts or ("",)
    in_copies = any(folder.lower() in SYSTEM_NAMES or folder == ".ipynb_checkpoints" for folder in folders)
    return name.startswith("._") or in_copies


def as_label(name: str) -> str:
    """Return the label that a list or a folder gives: composed Unicode (NFC), without spaces at its ends.

    macOS stores decomposed names, so the same word from two machines could otherwise become two classes.
    """
    return unicodedata.normalize("NFC", name).strip()


def listed_path(base: Path, name: str) -> str:
    """Return `name` of a list, relative to `base`, as the file system has it.

    Where no file has that name, try Windows' separators and both compositions of Unicode. Returns `name` where no
    file is found.
    """
    if name.isascii() and "\\" not in name and not name.startswith("/"):
        return posixpath.normpath(name)
    # Some published lists begin each path with a slash, although it is relative to the data set's folder.
    for form in dict.fromkeys((name, name.replace("\\", "/"), name.replace("\\", "/").lstrip("/"))):
        for candidate in (form, unicodedata.normalize("NFC", form), unicodedata.normalize("NFD", form)):
            if exists(base / candidate):
                return posixpath.normpath(candidate)
    return name


def exists(path: Path) -> bool:
    """Tell whether `path` leads to a file or folder; False also where its name is too long."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def unreadable_reason(path: Path) -> str:
    """Return why `path` cannot be read as a clip; "" where it is a regular file that opens."""
    try:
        open_regular(path).close()
        return ""
    except NotRegularFileError:
        return "not a file"
    except ValueError as error:
        return str(error)
    except OSError as error:
        if error.errno == errno.ENOENT and path.is_symlink():
            return "a link to a file that does not exist"
        return {errno.ENOENT: "no such file", errno.EACCES: "no permission to read it"}.get(
            error.errno or 0, error.strerror or type(error).__name__
        )
