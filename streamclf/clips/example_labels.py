"""Name the folder of a label, which may be any text, and read the label of a folder again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import unicodedata
from pathlib import Path
from typing import Final

from engines.printable import printable
from streamclf.clips.names import label_slug
from streamclf.errors import ClipError
from streamclf.events.views import MAX_LABEL_CHARS

LABEL_FILE: Final = ".label"
"""File in a folder whose name cannot be the label; it holds the label in UTF-8."""
MAX_PLAIN_BYTES: Final = 100
_UNSAFE: Final = frozenset('/\\:*?"<>|\0')
_HASH_CHARS: Final = 10


def clean_label(label: str) -> str:
    """Return a label in its stored form: NFC, without spaces around it. Raises `ClipError` for one that is no label."""
    label = unicodedata.normalize("NFC", label).strip()
    if not label:
        raise ClipError("the label is blank; give it a name, like open")
    if len(label) > MAX_LABEL_CHARS:
        raise ClipError(f"a label of {len(label)} characters: at most {MAX_LABEL_CHARS}")
    if printable(label) != label:
        raise ClipError(f"{printable(label)}: holds a control character or a line break; remove it")
    return label


def label_folder(label: str) -> str:
    """Return the name of the folder of a label: the label itself where it is a safe name, else a slug and a hash."""
    label = clean_label(label)
    is_plain = (
        len(label.encode()) <= MAX_PLAIN_BYTES
        and not _UNSAFE & set(label)
        and label[0] != "."
        and label[-1] not in " ."
    )
    if is_plain:
        return label
    return f"{label_slug(label)}-{hashlib.sha256(label.encode()).hexdigest()[:_HASH_CHARS]}"


def make_label_folder(parent: Path, label: str) -> Path:
    """Create the folder of a label in `parent`, with the file that holds the label where its name cannot.

    Raises `ClipError`.
    """
    label = clean_label(label)
    folder = parent / label_folder(label)
    try:
        folder.mkdir(exist_ok=True)
        if folder.is_symlink():
            raise ClipError(f"{printable(str(folder))}: a link; examples follow none inside their folder")
        if folder.name != label and not (folder / LABEL_FILE).exists():
            draft = folder / f"{LABEL_FILE}.{os.getpid()}.new"
            draft.write_text(label, encoding="utf-8")
            draft.replace(folder / LABEL_FILE)
    except OSError as error:
        raise ClipError(f"{printable(str(folder))}: {error.strerror}; check the folder of the examples") from error
    return folder


def read_label(folder: Path) -> str:
    """Return the label of a folder: the text of its file `.label` if there is one, else the folder's name."""
    with contextlib.suppress(OSError, UnicodeDecodeError, ClipError):
        file = folder / LABEL_FILE
        if file.is_file() and not file.is_symlink() and file.stat().st_size <= 4 * MAX_LABEL_CHARS:
            return clean_label(file.read_text(encoding="utf-8"))
    return unicodedata.normalize("NFC", folder.name)
