"""Find the films of an archive: files, folders, and the objects of stores such as s3://BUCKET/FOLDER."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from streamclf.errors import SourceError, UsageError
from streamclf.redact import redact
from streamclf.sources.film_files import MAX_FILMS, VIDEO_SUFFIXES, find_films, is_system_file

STORES: Final = ("s3", "gs", "abfs", "hdfs")
"""Schemes that pyarrow's file systems open."""
_STORE: Final = re.compile(rf"({'|'.join(STORES)}):/+([^?]+)(\?.*)?", re.DOTALL)
"""Scheme, path, and options such as `?region=eu-west-1`. `Path` joins the slashes of `s3://`."""
_COPY_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Film:
    """One film of an archive. `size`: in bytes, 0 if it is unknown.

    `name`: its path, which may not be UTF-8 (`engines.printable.path_text`), or the URI of an object.
    """

    name: str
    size: int


@dataclass(slots=True)
class FoundArchive:
    """The films of an archive, each once. `faults`: a line for each part that could not be read."""

    films: list[Film] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def store_uri(path: Path) -> str | None:
    """Return the URI of a store that a path of the command line stands for, or None.

    Raises `UsageError` for a URI with credentials: the results name each film by its URI.
    """
    found = _STORE.fullmatch(str(path))
    if found is None:
        return None
    if "@" in found[2].partition("/")[0]:
        raise UsageError(
            f"{found[1]}://…@…: a URI must hold no credentials; give them in the environment, as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return f"{found[1]}://{found[2]}{found[3] or ''}"


def find_archive(given: Sequence[Path]) -> FoundArchive:
    """List the films of `given`: files, those below folders, and those below the URIs of stores.

    Raises `SourceError` beyond `MAX_FILMS`, and `UsageError` where pyarrow is missing for a store.
    """
    uris = [uri for path in given if (uri := store_uri(path))]
    local = find_films([path for path in given if store_uri(path) is None])
    archive = FoundArchive(faults=list(local.faults))
    for path in local.films:
        try:
            size = path.stat().st_size
        except (OSError, ValueError):  # reading it reports the reason
            size = 0
        archive.films.append(Film(str(path.absolute()), size))
    for uri in uris:
        try:
            archive.films += _objects(uri)
        except OSError as error:  # noqa: PERF203 - one store that fails must not hide the others
            archive.faults.append(f"{redact(uri)}: {_reason(error)}")
    unique = {film.name: film for film in archive.films}
    archive.films = list(unique.values())
    if len(archive.films) > MAX_FILMS:
        raise SourceError(f"over {MAX_FILMS} films; give one part of the archive at a time")
    return archive


@contextmanager
def local_copy(name: str) -> Iterator[Path]:
    """Give a film as a file of this machine: itself, or a copy of an object that is removed afterwards.

    FFmpeg reads films from behind, too, so an object is copied as a whole. Raises `SourceError`.
    """
    if not _STORE.fullmatch(name):
        yield Path(name)
        return
    with tempfile.TemporaryDirectory(prefix="streamclf-archive-") as folder:
        path = Path(folder) / f"film{PurePosixPath(name.partition('?')[0]).suffix.lower()}"
        try:
            store, inner = _open_store(name)
            with store.open_input_stream(inner) as source, path.open("wb") as copy:
                while block := source.read(_COPY_BYTES):
                    copy.write(block)
        except OSError as error:
            raise SourceError(f"{redact(name)}: {_reason(error)}; check the address and the credentials") from None
        yield path


def _objects(uri: str) -> list[Film]:
    """Return the films below a URI. Raises `OSError`."""
    from pyarrow import fs

    store, root = _open_store(uri)
    scheme, options = uri.partition("://")[0], "".join(uri.partition("?")[1:])
    single = store.get_file_info(root)
    if single.type == fs.FileType.NotFound:
        raise FileNotFoundError(2, "there is no such object or folder")
    found = [single]
    if single.type == fs.FileType.Directory:
        found = store.get_file_info(fs.FileSelector(root, recursive=True))
    films = []
    for each in sorted(found, key=lambda info: str(info.path)):
        hidden = any(is_system_file(part) for part in PurePosixPath(each.path).parts[1:])
        is_film = each is single or PurePosixPath(each.path).suffix.lower() in VIDEO_SUFFIXES
        if each.type == fs.FileType.File and is_film and not hidden:
            films.append(Film(f"{scheme}://{each.path.lstrip('/')}{options}", int(each.size or 0)))
    if not films:
        raise FileNotFoundError(2, "no video file in it or below; video files end in .mp4, .mkv, .mov and so on")
    return films


def _open_store(uri: str) -> tuple[Any, str]:
    """Return the file system of a URI and the path in it. Raises `OSError`, or `UsageError` without pyarrow."""
    try:
        from pyarrow import fs
    except ImportError:
        raise UsageError(f"{redact(uri)}: needs pyarrow, which is not installed: pip install pyarrow") from None
    try:
        store, path = fs.FileSystem.from_uri(uri)
    except (ValueError, NotImplementedError) as error:
        raise OSError(str(error)) from None
    return store, path


def _reason(error: OSError) -> str:
    """Return an error in one line without credentials, which URIs and messages of stores may hold."""
    return redact(" ".join(str(error.strerror or error).split()))[:300]
