"""Download published data sets: resume partial downloads, check digests, and unpack archives safely."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from training.data.clip_cache import exclusive_folder
from training.errors import DataError

BLOCK = 1 << 18
TIMEOUT_S = 30.0
"""The longest wait for the next byte."""
ATTEMPTS = 5
"""Give up after this many attempts in a row without a new byte."""
MAX_UNPACKED_BYTES = 20 << 30
MAX_MEMBERS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetFile:
    """The published file of a data set. `digest` is `md5:…` or `sha256:…`, or None where the publisher gives none.

    `max_bytes` limits the bytes that a server may send. `unpacked` is the folder to unpack an archive into, None for a
    plain file.
    """

    url: str
    digest: str | None
    max_bytes: int
    unpacked: str | None
    source: str
    licence: str

    @property
    def name(self) -> str:
        """Return the file's name."""
        return urlsplit(self.url).path.rpartition("/")[2]


DATA_SETS = {
    "organmnist3d": DataSetFile(
        url="https://zenodo.org/records/10519652/files/organmnist3d.npz",
        # From medmnist/info.py of MedMNIST 3.0.
        digest="md5:a0c5a1ff56af4f155c46d46fbb45a2fe",
        max_bytes=1 << 30,
        unpacked=None,
        source="MedMNIST v2 (Yang et al. 2023): 971, 161 and 610 volumes of 11 organs, 28 x 28 x 28",
        licence="CC BY 4.0",
    ),
    "ucf101top5": DataSetFile(
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
    """Download the data set `name` into `folder`, and return the path for a recipe's `data.path`.

    A complete file with the right digest is not downloaded again, and a partial one is resumed. `url` names a mirror.
    Raises `DataError` that names the problem and the remedy.
    """
    published = DATA_SETS.get(name)
    if published is None:
        raise DataError(f"{name}: unknown data set; there are {', '.join(DATA_SETS)}")
    address = url or published.url
    scheme = urlsplit(address).scheme
    if scheme not in ("https", "http"):
        raise DataError(f"{address}: https or http, not {scheme or 'nothing'}")
    if scheme == "http" and published.digest is None and not _recorded_digest(folder / published.name):
        host = urlsplit(address).hostname
        if host not in ("127.0.0.1", "localhost", "::1"):
            raise DataError(f"{address}: the publisher gives no digest of this file, so it is only taken over https")
    with exclusive_folder(folder):
        file = folder / published.name
        wanted = published.digest or _recorded_digest(file)
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
    """Return a file's digest as `kind:hex`."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


def _recorded_digest(file: Path) -> str | None:
    """Return the digest that was recorded at the first download of a file whose publisher gives none."""
    try:
        return str(json.loads(_digest_file(file).read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.digest.json")


def _check(file: Path, wanted: str | None, address: str) -> None:
    """Compare the file with its digest, or record the digest where none is known."""
    if wanted is None:
        found = digest_of(file, "sha256")
        _digest_file(file).write_text(json.dumps({"digest": found, "url": address}) + "\n", encoding="utf-8")
        print(
            f"{file.name}: its publisher gives no digest; this copy has {found}, and later copies must have the same",
            file=sys.stderr,
            flush=True,
        )
        return
    found = digest_of(file, wanted.partition(":")[0])
    if found != wanted:
        file.unlink()
        raise DataError(
            f"{address}: the downloaded file has the digest {found}, expected {wanted}; it was damaged or replaced, "
            "and has been deleted: try again, or give a mirror with --url"
        )


def _fetch(address: str, file: Path, max_bytes: int) -> None:
    """Download `address` to `file`. After an error, resume as long as new bytes arrive."""
    partial = file.with_name(f"{file.name}.part")
    failures = 0
    with _progress(file.name) as report:
        while True:
            had = partial.stat().st_size if partial.is_file() else 0
            try:
                if _fetch_rest(address, partial, max_bytes, report):
                    partial.replace(file)
                    _etag_file(partial).unlink(missing_ok=True)
                    return
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 416:  # the partial file is no beginning of the server's file
                    partial.unlink(missing_ok=True)
                elif error.code < 500 and error.code != 429:
                    raise DataError(
                        f"{address}: the server answered {error.code} {error.reason}; check whether the file has "
                        "moved, or give a mirror with --url"
                    ) from None
                reason = f"the server answered {error.code}"
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.filename is not None:
                    raise DataError(f"{error.filename}: {error.strerror}; give a --folder with free space") from error
                reason = str(getattr(error, "reason", None) or error) or type(error).__name__
            now = partial.stat().st_size if partial.is_file() else 0
            failures = 0 if now > had else failures + 1
            if failures >= ATTEMPTS:
                raise DataError(
                    f"{address}: {reason}, {ATTEMPTS} times; {now} bytes are kept: run the same command to resume"
                )


def _fetch_rest(address: str, partial: Path, max_bytes: int, report: Callable[[int, int | None], None]) -> bool:
    """Download the rest of a partial file. Returns whether the file is complete."""
    have = partial.stat().st_size if partial.is_file() else 0
    etag = _etag_file(partial).read_text(encoding="utf-8") if have and _etag_file(partial).is_file() else ""
    headers = {"User-Agent": "streamclf", "Accept-Encoding": "identity"}
    if have and etag:
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - the scheme was checked
    with _OPENER.open(request, timeout=TIMEOUT_S) as response:
        resumed = response.status == 206
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        whole = start + int(length) if length is not None and length.isdigit() else None
        if whole is not None and whole > max_bytes:
            raise DataError(f"{address}: {whole} bytes, at most {max_bytes} are expected; is it the right file?")
        if resumed and not str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            raise DataError(f"{address}: the server sent another part than the requested one; try a mirror")
        # A weak ETag does not guarantee the same bytes; then the date of the last change is used instead.
        new_etag = response.headers.get("ETag", "")
        _etag_file(partial).write_text(
            new_etag if new_etag and not new_etag.startswith("W/") else response.headers.get("Last-Modified", ""),
            encoding="utf-8",
        )
        report(start, whole)
        with partial.open("ab" if resumed else "wb") as file:
            done = start
            while block := response.read(BLOCK):
                done += len(block)
                if done > max_bytes:
                    raise DataError(f"{address}: sends over {max_bytes} bytes; is it the right file?")
                file.write(block)
                report(done, whole)
    return whole is None or done == whole


def _etag_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.tag")


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but not from https to another scheme."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Check one redirect."""
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise DataError(f"{req.full_url}: redirects to {urlsplit(newurl).scheme}, which is not safe; give a mirror")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_NoDowngrade)


def unpack(archive: Path, target: Path) -> None:
    """Unpack a .tar.gz into `target`, completely or not at all.

    Only plain files and folders inside `target` are written. Raises `DataError` for links, devices and paths that
    lead elsewhere.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        unpacked = Path(folder) / "content"
        unpacked.mkdir()
        size = 0
        try:
            with tarfile.open(archive, "r:*") as tar:
                for count, member in enumerate(tar, start=1):
                    size += member.size
                    if count > MAX_MEMBERS or size > MAX_UNPACKED_BYTES:
                        raise DataError(
                            f"{archive}: over {MAX_MEMBERS} files or {MAX_UNPACKED_BYTES >> 30} GiB; not unpacked"
                        )
                    _extract(tar, member, unpacked, archive)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise DataError(f"{archive}: cannot be unpacked ({error}); delete it and download it again") from error
        items = list(unpacked.iterdir())
        content = items[0] if len(items) == 1 and items[0].is_dir() else unpacked
        content.rename(target)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, archive: Path) -> None:
    """Write one member. This function does not use `tarfile`'s extraction, which also restores owners and modes."""
    path = (folder / member.name).resolve()
    if not path.is_relative_to(folder.resolve()) or not (member.isfile() or member.isdir()):
        raise DataError(f"{archive}: {member.name!r} leads out of the folder or is no plain file; not unpacked")
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # the member is a file
    with source, path.open("wb") as file:
        shutil.copyfileobj(source, file, BLOCK)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show progress on a terminal. Yields a function of (bytes so far, all bytes or None)."""
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
