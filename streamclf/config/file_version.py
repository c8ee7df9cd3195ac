"""Identify a saved version of the configuration file, without reading it."""

from __future__ import annotations

from pathlib import Path


def file_signature(path: Path) -> tuple[int, int, int] | None:
    """Return values that change with the contents of the file; None while it is absent, as during a replacement."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def version_text(signature: tuple[int, int, int] | None) -> str:
    """Return the text that identifies a version of the file in heartbeats; it holds nothing of the content."""
    return "absent" if signature is None else "-".join(f"{value:x}" for value in signature)
