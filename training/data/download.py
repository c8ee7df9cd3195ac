"""Data sets fetched from where they are published: resumed where they stopped, checked, unpacked without escape."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from training.data.clip_cache import alone
from training.errors import DataError

BLOCK = 1 << 18
TIMEOUT_S = 30.0
"""Without a byte."""
ATTEMPTS = 5
"""In a row that brought nothing new."""
MAX_UNPACKED_BYTES = 20 << 30
MAX_MEMBERS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One file that is published. `digest` is `md5:…` or `sha256:…`, or None where its publisher tells none.

    `max_bytes` bounds what a server may send. `unpacked`: the folder that its archive becomes, None for a plain file.
    """

    url: str
    digest: str | None
    max_bytes: int
    unpacked: str | None
    source: str
    licence: str

    @property
    def name(self) -> str:
        """Of the file."""
        return urlsplit(self.url).path.rpartition("/")[2]


PUBLISHED = {
    "organmnist3d": Published(
        url="https://zenodo.org/records/10519652/files/organmnist3d.npz",
        # From medmnist/info.py of MedMNIST 3.0.
        digest="md5:a0c5a1ff56af4f155c46d46fbb45a2fe",
        max_bytes=1 << 30,
        unpacked=None,
        source="MedMNIST v2 (Yang et al. 2023): 971, 161 and 610 volumes of 11 organs, 28 x 28 x 28",
        licence="CC BY 4.0",
    ),
    "ucf101top5": Published(
        url=(
            "https://github.com/sayakpaul/Action-Recognition-in-TensorFlow/releases/download/v1.0.0/ucf101_top5.tar.gz"
        ),
        digest=None,
        max_bytes=2 << 30,
        unpacked="ucf101top5",
        source="UCF101 (Soomro et al. 2012), the five classes of the Keras examples: 594 and 224 clips",
        licence="none stated by UCF101's authors: research",
    ),
}


def download(name: str, folder: Path, *, url: str | None = None) -> Path:
    """Fetch the set `name` into `folder` and return the path that a recipe's `data.path` takes.

    What is there and right is not fetched again; what is there in part is gone on with. `url` names a mirror. Raises
    `DataError` naming what is wrong and what to do.
    """
    published = PUBLISHED.get(name)
    if published is None:
        raise DataError(f"{name}: not known; there are {', '.join(PUBLISHED)}")
    address = url or published.url
    scheme = urlsplit(address).scheme
    if scheme not in ("https", "http"):
        raise DataError(f"{address}: https or http, not {scheme or 'nothing'}")
    if scheme == "http" and published.digest is None and not _known_digest(folder / published.name):
        host = urlsplit(address).hostname
        if host not in ("127.0.0.1", "localhost", "::1"):
            raise DataError(f"{address}: nobody tells this file's digest, so it is only taken over https")
    with alone(folder):
        file = folder / published.name
        wanted = published.digest or _known_digest(file)
        if not (file.is_file() and wanted is not None and digest_of(file, wanted.partition(":")[0]) == wanted):
            file.unlink(missing_ok=True)
            _fetch(address, file, published.max_bytes)
            _check(file, wanted, address)
        if published.unpacked is None:
            return file
        target = folder / published.unpacked
        if not target.is_dir():
            unpack(file, target)
        return target


def digest_of(path: Path, kind: str) -> str:
    """`kind:hex` of a file."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


def _known_digest(file: Path) -> str | None:
    """What was written down when the file came first, where its publisher tells no digest."""
    try:
        return str(json.loads(_note(file).read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note(file: Path) -> Path:
    return file.with_name(f"{file.name}.digest.json")


def _check(file: Path, wanted: str | None, address: str) -> None:
    """Compare with the digest, or write it down where nobody told one."""
    if wanted is None:
        found = digest_of(file, "sha256")
        _note(file).write_text(json.dumps({"digest": found, "url": address}) + "\n", encoding="utf-8")
        _say(f"{file.name}: its publisher tells no digest; this one is {found}, and every later copy must have it")
        return
    found = digest_of(file, wanted.partition(":")[0])
    if found != wanted:
        file.unlink()
        raise DataError(
            f"{address}: gave a file with {found}, {wanted} is right; it was damaged or replaced, and has been "
            "deleted: try again, or give a mirror with --url"
        )


def _fetch(address: str, file: Path, max_bytes: int) -> None:
    """Bring `address` to `file`, going on after errors as long as something comes."""
    partial = file.with_name(f"{file.name}.part")
    failures = 0
    with _shown(file.name) as shown:
        while True:
            had = partial.stat().st_size if partial.is_file() else 0
            try:
                if _go_on(address, partial, max_bytes, shown):
                    partial.replace(file)
                    _tag(partial).unlink(missing_ok=True)
                    return
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 416:  # what is here is not a beginning of what is there
                    partial.unlink(missing_ok=True)
                elif error.code < 500 and error.code != 429:
                    raise DataError(
                        f"{address}: the server says {error.code} {error.reason}; look whether it has moved, or give "
                        "a mirror with --url"
                    ) from None
                reason = f"the server says {error.code}"
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.filename is not None:
                    raise DataError(f"{error.filename}: {error.strerror}; give --folder with room") from error
                reason = str(getattr(error, "reason", None) or error) or type(error).__name__
            now = partial.stat().st_size if partial.is_file() else 0
            failures = 0 if now > had else failures + 1
            if failures >= ATTEMPTS:
                raise DataError(
                    f"{address}: {reason}, {ATTEMPTS} times; {now} bytes are kept: run the same command to go on"
                )


def _go_on(address: str, partial: Path, max_bytes: int, shown: Any) -> bool:
    """Fetch what is missing; whether that was all of it."""
    have = partial.stat().st_size if partial.is_file() else 0
    tag = _tag(partial).read_text(encoding="utf-8") if have and _tag(partial).is_file() else ""
    headers = {"User-Agent": "streamclf", "Accept-Encoding": "identity"}
    if have and tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - the scheme was checked
    with _OPENER.open(request, timeout=TIMEOUT_S) as answer:
        resumed = answer.status == 206
        start = have if resumed else 0
        length = answer.headers.get("Content-Length")
        whole = start + int(length) if length is not None and length.isdigit() else None
        if whole is not None and whole > max_bytes:
            raise DataError(f"{address}: {whole} bytes, at most {max_bytes} are expected; is it the right file?")
        if resumed and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            raise DataError(f"{address}: the server answers with another part than was asked for; try a mirror")
        # A weak tag does not promise the same bytes, and the date of the last change serves as well.
        mark = answer.headers.get("ETag", "")
        _tag(partial).write_text(
            mark if mark and not mark.startswith("W/") else answer.headers.get("Last-Modified", ""), encoding="utf-8"
        )
        shown(start, whole)
        with partial.open("ab" if resumed else "wb") as file:
            done = start
            while block := answer.read(BLOCK):
                done += len(block)
                if done > max_bytes:
                    raise DataError(f"{address}: sends over {max_bytes} bytes; is it the right file?")
                file.write(block)
                shown(done, whole)
    return whole is None or done == whole


def _tag(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.tag")


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Called for each redirect."""
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise DataError(f"{req.full_url}: redirects to {urlsplit(newurl).scheme}, which is not safe; give a mirror")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_NoDowngrade)


def unpack(archive: Path, target: Path) -> None:
    """Unpack a .tar.gz so that `target` is its content, whole or not at all.

    Only plain files and folders inside `target` come out of it: links, devices and paths that lead elsewhere are
    refused. Raises `DataError`.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        place = Path(folder) / "content"
        place.mkdir()
        size = 0
        try:
            with tarfile.open(archive, "r:*") as tar:
                for count, member in enumerate(tar, start=1):
                    size += member.size
                    if count > MAX_MEMBERS or size > MAX_UNPACKED_BYTES:
                        raise DataError(
                            f"{archive}: over {MAX_MEMBERS} files or {MAX_UNPACKED_BYTES >> 30} GiB in it; not unpacked"
                        )
                    _take(tar, member, place, archive)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise DataError(f"{archive}: cannot be unpacked ({error}); delete it and download it again") from error
        items = list(place.iterdir())
        content = items[0] if len(items) == 1 and items[0].is_dir() else place
        content.rename(target)


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path, archive: Path) -> None:
    """One member, written by us: what `tarfile` restores besides bytes (owners, modes, links) is not wanted."""
    path = (place / member.name).resolve()
    if not path.is_relative_to(place.resolve()) or not (member.isfile() or member.isdir()):
        raise DataError(f"{archive}: {member.name!r} leads out of the folder or is no plain file; not unpacked")
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # it is a file
    with source, path.open("wb") as file:
        shutil.copyfileobj(source, file, BLOCK)


@contextmanager
def _shown(name: str) -> Iterator[Any]:
    """A function (bytes so far, bytes in all or None) that shows progress on a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, whole: progress.update(task, completed=done, total=whole)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
