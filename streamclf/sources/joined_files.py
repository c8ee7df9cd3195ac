"""Find the parts of a file that joins MP4 or Matroska films, as `cat` does: FFmpeg reads only the first ones."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Final, NamedTuple

EBML: Final = b"\x1a\x45\xdf\xa3"
SEGMENT: Final = b"\x18\x53\x80\x67"
MAX_ELEMENTS: Final = 100_000
"""A fragmented MP4 has two boxes for each second or so. Beyond this, the rest of the file is one part."""
MAX_PARTS: Final = 1000


class Part(NamedTuple):
    """The bytes `start` to `end` of a file."""

    start: int
    end: int


def joined_parts(path: Path) -> list[Part]:
    """Return the films in a file, mostly one. Only lengths of boxes are read, so a damaged file is one part."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        starts = _matroska(file, size) if head[:4] == EBML else _mp4(file, size) if head[4:8] == b"ftyp" else [0]
    starts = starts[:MAX_PARTS]
    return [Part(start, end) for start, end in zip(starts, [*starts[1:], size], strict=True)]


def _mp4(file: IO[bytes], size: int) -> list[int]:
    """Return where films begin: at a box `ftyp` after a whole film, which has a box `moov` (ISO/IEC 14496-12)."""
    starts, at, is_whole = [0], 0, False
    for _ in range(MAX_ELEMENTS):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            break
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if kind == b"ftyp" and is_whole:
            starts.append(at)
            is_whole = False
        is_whole = is_whole or kind == b"moov"
        if length < 8 or at + length > size:
            break
        at += length
    return starts


def _matroska(file: IO[bytes], size: int) -> list[int]:
    """Return where films begin: each is an EBML header and a segment (RFC 8794, RFC 9559)."""
    starts: list[int] = []
    at = 0
    while at + 12 <= size and len(starts) < MAX_PARTS:
        file.seek(at)
        head = file.read(12)
        segment = at + 4 + _vint_bytes(head[4]) + _vint(head[4:]) if head[:4] == EBML else size
        file.seek(segment)
        body = file.read(12)
        if len(body) < 12 or body[:4] != SEGMENT:
            break
        starts.append(at)
        if not _vint(body[4:]) + 1 & (1 << 7 * _vint_bytes(body[4])) - 1:
            break  # a recording of unknown length
        at = segment + 4 + _vint_bytes(body[4]) + _vint(body[4:])
    return starts or [0]


def _vint_bytes(first: int) -> int:
    """Return the length of a variable-size integer with this first byte."""
    return 9 - first.bit_length()


def _vint(data: bytes) -> int:
    """Return the variable-size integer at the beginning of `data`."""
    count = min(_vint_bytes(data[0]), 8)
    return int.from_bytes(data[:count], "big") & (1 << 7 * count) - 1
