"""Download one file over HTTP: resume a partial one, limit its size, and compute digests."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from training.errors import DataError

BLOCK = 1 << 18
TIMEOUT_S = 30.0
"""The longest wait for the next byte."""
ATTEMPTS = 5
"""Give up after this many attempts in a row without a new byte."""


class FileGoneError(DataError):
    """The server has no such file (404 or 410)."""


def digest_of(path: Path, kind: str) -> str:
    """Return a file's digest as `kind:hex`."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


def fetch(address: str, file: Path, max_bytes: int, *, title: str = "") -> None:
    """Download `address` to `file`. After an error, resume as long as new bytes arrive. A terminal shows `title`.

    Raises `FileGoneError` where the server has no such file, and `DataError` for everything else.
    """
    partial = file.with_name(f"{file.name}.part")
    failures = 0
    with _progress(title or file.name) as report:
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
                    kind = FileGoneError if error.code in (404, 410) else DataError
                    raise kind(
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


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int | None], None]]:
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
        task = progress.add_task(title, total=None)
        yield lambda done, whole: progress.update(task, completed=done, total=whole)
