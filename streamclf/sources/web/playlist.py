"""Replace the URLs in an HLS playlist (RFC 8216). Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import urljoin

MAX_PLAYLIST_BYTES: Final = 1 << 20
MAX_LINE_CHARS: Final = 4000
"""FFmpeg cuts lines off at 4,096 bytes, in the middle of a URL."""
START: Final = b"#EXTM3U"
_URI = re.compile(r'(?i)\b(URI=)("[^"]*"|[^",\s]*)')


def rewrite_playlist(body: bytes, base: str, replace: Callable[[str], str]) -> bytes:
    """Return the playlist with each URL, absolute or relative to `base`, replaced by `replace(absolute URL)`.

    Raises `ValueError` for a URL that is none.
    """
    lines: list[str] = []
    # FFmpeg ends a line at these characters.
    for line in re.split(r"[\r\n\0]+", body.decode("utf-8", "replace")):
        text = line.strip()
        if not text:
            continue
        if not text.startswith("#"):
            text = replace(urljoin(base, text))
        elif text.startswith("#EXT"):
            text = _URI.sub(lambda match: _replaced(match, base, replace), text)
        if len(text) > MAX_LINE_CHARS:
            raise ValueError(f"a line of {len(text)} characters; at most {MAX_LINE_CHARS}")
        lines.append(text)
    return ("\n".join(lines) + "\n").encode()


def _replaced(match: re.Match[str], base: str, replace: Callable[[str], str]) -> str:
    url = match[2].strip('"')
    if url.lower().startswith("data:") or not url:
        return match[0]  # the key itself
    return f'{match[1]}"{replace(urljoin(base, url))}"'
