"""Find out whether a file was cut off, by the lengths that its container declares."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Final

from streamclf.sources.joined_files import EBML, HEADS, MAX_ELEMENTS, Part, segment_end
from streamclf.units import NS

FIRST_BOXES: Final = frozenset(
    {b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"sidx", b"uuid"}
)
"""The boxes that an MP4 or QuickTime film may begin with (ISO/IEC 14496-12)."""
LATER_BOXES: Final = frozenset({b"mfra", b"meta", b"emsg", b"prft", b"pdin", b"ssix"})
"""Further boxes on the outermost level. Other bytes do not belong to the film: some phones append data of their own."""
ASF_PROPERTIES: Final = b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65"
"""The GUID of the file properties (Advanced Systems Format, section 3.2)."""
ASF_READ: Final = 1 << 16
ASF_BROADCAST: Final = 1
"""The flag of a file whose lengths were not known when it was begun."""


def cut_off_reason(path: Path, part: Part) -> str | None:
    """Return why the film `part` of a file is not whole, with the remedy; None if nothing shows that it was cut off."""
    with path.open("rb") as file:
        file.seek(part.start)
        head = file.read(12)
        if head[4:8] in FIRST_BOXES:
            end, has_index = _boxes(file, part)
            if not has_index:
                return (
                    "cut off, or its recording was not finished: its index (moov) is missing; copy it again, or repair "
                    "it with untrunc, for instance"
                )
        elif head[:4] == EBML:
            end = segment_end(file, part.start) or part.start
        elif head[:4] == b"RIFF":
            end = part.start + 8 + int.from_bytes(head[4:8], "little")
        elif head.startswith(HEADS["flv"]):
            return None if _ends_with_tag(file, part) else "cut off in the middle of a frame; copy or record it again"
        else:
            properties = _asf_properties(file, part)
            end = part.start + (int.from_bytes(properties[40:48], "little") if properties else 0)
    if end <= part.end:
        return None
    size, declared = part.end - part.start, end - part.start
    return f"cut off: it has {size} bytes and declares {declared}; copy or record it again"


def asf_duration_ns(path: Path, part: Part) -> int | None:
    """Return the duration that an ASF film (WMV) declares; FFmpeg reports none if the film was cut off."""
    with path.open("rb") as file:
        properties = _asf_properties(file, part)
    if properties is None:
        return None
    play, preroll_ms = (int.from_bytes(properties[at : at + 8], "little") for at in (64, 80))
    return max(0, play * 100 - preroll_ms * (NS // 1000))


def _boxes(file: IO[bytes], part: Part) -> tuple[int, bool]:
    """Return where the last box of an MP4 file ends, and whether the file has an index."""
    at, has_index = part.start, False
    for _ in range(MAX_ELEMENTS):
        file.seek(at)
        head = file.read(16)
        if at + 8 > part.end or len(head) < 8 or head[4:8] not in FIRST_BOXES | LATER_BOXES:
            return min(at, part.end), has_index
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        has_index = has_index or head[4:8] == b"moov"
        if length < 8 or at + length > part.end:  # a length of 0 stands for the rest of the file
            return (at + length if length >= 8 else part.end), has_index
        at += length
    return part.end, True


def _ends_with_tag(file: IO[bytes], part: Part) -> bool:
    """Return whether an FLV film ends with a whole tag, and its size (Video File Format Specification, annex E)."""
    file.seek(max(part.start, part.end - 4))
    size = int.from_bytes(file.read(4), "big")
    if part.end - 4 - size <= part.start:
        return False
    file.seek(part.end - 4 - size)
    return int.from_bytes(file.read(4)[1:], "big") + 11 == size


def _asf_properties(file: IO[bytes], part: Part) -> bytes | None:
    """Return the file properties of an ASF film: GUID, size, and the fields; None if it has none that are valid."""
    file.seek(part.start)
    head = file.read(ASF_READ)
    place = head.find(ASF_PROPERTIES) if head.startswith(HEADS["asf"]) else -1
    properties = head[place : place + 104]
    if place < 0 or len(properties) < 104 or properties[88] & ASF_BROADCAST:
        return None
    return properties
