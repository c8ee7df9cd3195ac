"""Find the parts of a file that joins films, as `cat` does: FFmpeg reads only the first one in most formats."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Final, NamedTuple

EBML: Final = b"\x1a\x45\xdf\xa3"
SEGMENT: Final = b"\x18\x53\x80\x67"
MAX_ELEMENTS: Final = 100_000
"""A fragmented MP4 has two boxes for each second or so. Beyond this, the rest of the file is one part."""
MAX_PARTS: Final = 1000
HEADS: Final = {
    "asf": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
    "flv": b"FLV\x01",
    "ivf": b"DKIF\0\0\x20\0",
    "yuv4mpegpipe": b"YUV4MPEG2 ",
}
"""The first bytes of a film, by FFmpeg's name of the format. In these formats only the frames give the place of the
next film, so that it is searched for after the last frame that FFmpeg has read."""
READ_BYTES: Final = 1 << 20
HEADER_BYTES: Final = 4096
VIDEO_FORMAT_BYTES: Final = 8 + 20
"""The length of a chunk "strf", up to the size and the codec."""


class Part(NamedTuple):
    """The bytes `start` to `end` of a file."""

    start: int
    end: int


def joined_parts(path: Path) -> list[Part]:
    """Return the films in a file, mostly one. Only lengths of boxes are read, so a damaged file is one part."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] == EBML:
            starts = _matroska(file, size)
        elif head[:4] == b"RIFF":
            starts = _avi(file, size)
        else:
            starts = _mp4(file, size) if head[4:8] == b"ftyp" else [0]
    starts = starts[:MAX_PARTS]
    return [Part(start, end) for start, end in zip(starts, [*starts[1:], size], strict=True)]


def following_part(path: Path, format_name: str, after: int) -> Part | None:
    """Return the film that begins at the byte `after` or later; None if there is none.

    `format_name`: FFmpeg's name of the format, for instance "flv".
    """
    mark = HEADS.get(format_name)
    if mark is None:
        return None
    size = path.stat().st_size
    with path.open("rb") as file:
        at = after
        while at < size:
            file.seek(at)
            place = file.read(READ_BYTES + len(mark) - 1).find(mark)
            if place >= 0:
                return Part(at + place, size)
            at += READ_BYTES
    return None


def _avi(file: IO[bytes], size: int) -> list[int]:
    """Return where films of another video format begin: FFmpeg reads on through films of the same one.

    A film is a RIFF chunk "AVI ", and chunks "AVIX" if it is long (OpenDML).
    """
    starts: list[int] = []
    at, before = 0, b""
    while at + 12 <= size and len(starts) < MAX_PARTS:
        file.seek(at)
        head = file.read(HEADER_BYTES)
        if head[:4] != b"RIFF" or head[8:12] not in (b"AVI ", b"AVIX"):
            break
        if head[8:12] == b"AVI ":
            video = head[max(0, head.find(b"vids")) :]
            found = video[video.find(b"strf") :][:VIDEO_FORMAT_BYTES]
            if not starts or found != before:
                starts.append(at)
            before = found
        length = int.from_bytes(head[4:8], "little")
        at += 8 + length + length % 2
    return starts or [0]


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
        end = segment_end(file, at)
        if end is None:
            break
        starts.append(at)
        if end == at:
            break  # a recording of unknown length
        at = end
    return starts or [0]


def segment_end(file: IO[bytes], start: int) -> int | None:
    """Return where the Matroska film that begins at `start` ends, as it declares.

    Returns `start` if the film has no known length, and None if none begins there.
    """
    file.seek(start)
    head = file.read(12)
    if len(head) < 12 or head[:4] != EBML:
        return None
    segment = start + 4 + _vint_bytes(head[4]) + _vint(head[4:])
    if segment > os.fstat(file.fileno()).st_size:
        return None  # a file system refuses to seek very far
    file.seek(segment)
    body = file.read(12)
    if len(body) < 12 or body[:4] != SEGMENT:
        return None
    width, length = _vint_bytes(body[4]), _vint(body[4:])
    if not length + 1 & (1 << 7 * width) - 1:
        return start
    return segment + 4 + width + length


def _vint_bytes(first: int) -> int:
    """Return the length of a variable-size integer with this first byte."""
    return 9 - first.bit_length()


def _vint(data: bytes) -> int:
    """Return the variable-size integer at the beginning of `data`."""
    count = min(_vint_bytes(data[0]), 8)
    return int.from_bytes(data[:count], "big") & (1 << 7 * count) - 1
