"""Send a file, or the range of it that a browser asks for: a video element needs ranges to seek."""

from __future__ import annotations

import asyncio
import os
import re
from email.utils import formatdate
from typing import IO, Final
from urllib.parse import quote

from anyio import to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

CHUNK_BYTES: Final = 256 << 10
SEND_S: Final = 60.0
"""Close the connection when a client accepts no data for this long. A paused video asks again when it goes on."""
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
MEDIA_TYPES: Final = {".mp4": "video/mp4", ".jpg": "image/jpeg"}


class FileResponse(Response):
    """Send the open `file`, and close it. `download` is the name under which a browser stores it; None shows it."""

    def __init__(self, file: IO[bytes], media_type: str, *, download: str | None = None, max_age_s: int = 3600) -> None:
        super().__init__(media_type=media_type)
        self._file, self._media_type, self._download, self._max_age_s = file, media_type, download, max_age_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole file, one range, or only the headers."""
        try:
            await self._send(scope, send)
        finally:
            self._file.close()

    async def _send(self, scope: Scope, send: Send) -> None:
        state = os.fstat(self._file.fileno())
        size = state.st_size
        tag = f'"{state.st_mtime_ns:x}-{size:x}"'
        asked = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        headers = {
            "accept-ranges": "bytes",
            "etag": tag,
            "last-modified": formatdate(state.st_mtime, usegmt=True),
            "cache-control": f"private, max-age={self._max_age_s}",
        }
        if self._download is not None:
            headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(self._download)}"
        if tag in asked.get(b"if-none-match", ""):
            await _begin(send, 304, headers)
            await send({"type": "http.response.body"})
            return
        status, first, last = 200, 0, size - 1
        wanted = asked.get(b"range")
        if wanted is not None and asked.get(b"if-range", tag) == tag:
            found = parse_range(wanted, size)
            if found == "unsatisfiable":
                await _begin(send, 416, {**headers, "content-range": f"bytes */{size}", "content-length": "0"})
                await send({"type": "http.response.body"})
                return
            if found is not None and not isinstance(found, str):
                status, (first, last) = 206, found
                headers["content-range"] = f"bytes {first}-{last}/{size}"
        length = last - first + 1
        await _begin(send, status, {**headers, "content-type": self._media_type, "content-length": str(length)})
        if scope["method"] == "HEAD" or length == 0:
            await send({"type": "http.response.body"})
            return
        await self._send_bytes(send, first, length)

    async def _send_bytes(self, send: Send, first: int, left: int) -> None:
        await to_thread.run_sync(self._file.seek, first)
        while left > 0:
            data = await to_thread.run_sync(self._file.read, min(CHUNK_BYTES, left))
            if not data:
                return  # the file was cut off: the connection closes, and the client notices the missing bytes
            left -= len(data)
            body = {"type": "http.response.body", "body": data, "more_body": left > 0}
            try:
                await asyncio.wait_for(send(body), SEND_S)
            except asyncio.TimeoutError:
                return  # the server closes the connection of an answer that is not complete


def parse_range(text: str, size: int) -> tuple[int, int] | str | None:
    """Return (first, last) of the only range in a Range header, or "unsatisfiable".

    None stands for several ranges, or for a header that must be ignored: the whole file is the answer then.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":  # the last bytes
        length = min(int(match[2]), size)
        return (size - length, size - 1) if length else "unsatisfiable"
    first = int(match[1])
    last = min(int(match[2]) if match[2] else size - 1, size - 1)
    if match[2] and int(match[2]) < first:
        return None
    return (first, last) if first < size else "unsatisfiable"


async def _begin(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
