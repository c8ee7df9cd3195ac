"""Read and convert the bytes of H.264 and H.265 packets: NAL units, parameter sets, Annex B. Pure: no I/O.

Cameras send NAL units after start codes (Annex B of both standards). MP4 and similar files put each unit's length
before it (ISO/IEC 14496-15).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

START_CODE: Final = b"\0\0\0\1"
MAX_UNITS: Final = 4096
"""NAL units of one packet. Encoders make a few dozen."""
MAX_SETS: Final = 64
MAX_SETS_BYTES: Final = 1 << 16


class ParameterSets(NamedTuple):
    """The parameter sets of a stream, without start codes. `length_bytes`: bytes of each unit's length; 0: Annex B."""

    units: tuple[bytes, ...] = ()
    length_bytes: int = 0

    @property
    def annex_b(self) -> bytes:
        """All sets, each after a start code."""
        return b"".join(START_CODE + unit for unit in self.units)


def read_extradata(codec: str, extradata: bytes | None) -> ParameterSets:
    """Return the parameter sets that a container declares for `codec`; of damaged data, those before the damage."""
    if not extradata:
        return ParameterSets()
    if extradata[0] != 1 or len(extradata) < 7:
        return ParameterSets(tuple(islice(_sets(codec, split_annex_b(extradata)), MAX_SETS)))
    at = 4 if codec == "h264" else 21
    if len(extradata) <= at + 1:
        return ParameterSets()
    # AVCDecoderConfigurationRecord (section 5.3.3.1) and HEVCDecoderConfigurationRecord (section 8.3.3.1)
    units = _h264_record(extradata) if codec == "h264" else _h265_record(extradata)
    return ParameterSets(tuple(islice(_sets(codec, units), MAX_SETS)), (extradata[at] & 3) + 1)


def parameter_sets_of(codec: str, data: bytes, length_bytes: int) -> tuple[bytes, ...]:
    """Return the parameter sets at the beginning of a key frame's packet; () if it has none."""
    found: list[bytes] = []
    size = 0
    for unit in split_lengths(data, length_bytes) if length_bytes else split_annex_b(data, head_only=codec):
        if _is_slice(codec, unit):
            break
        if _is_set(codec, unit):
            found.append(unit)
            size += len(unit)
            if len(found) >= MAX_SETS or size > MAX_SETS_BYTES:
                break
    return tuple(found)


def is_sequence_set(codec: str, unit: bytes) -> bool:
    """Return whether `unit` is a parameter set that a decoder cannot change without a new beginning (SPS, VPS)."""
    return unit[0] & 31 == 7 if codec == "h264" else unit[0] >> 1 & 63 in (32, 33)


def to_annex_b(data: bytes, length_bytes: int) -> bytes:
    """Return a packet with start codes instead of lengths. `length_bytes` 0: it has start codes already."""
    if not length_bytes:
        return data
    return b"".join(START_CODE + unit for unit in split_lengths(data, length_bytes))


def split_lengths(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yield the NAL units of a packet in which each has its length before it. A length beyond the end ends it."""
    at = 0
    for _ in range(MAX_UNITS):
        begin = at + length_bytes
        at = begin + int.from_bytes(data[at:begin], "big")
        if begin >= len(data) or at > len(data):
            return
        if at > begin:
            yield data[begin:at]


def split_annex_b(data: bytes, head_only: str | None = None) -> Iterator[bytes]:
    """Yield the NAL units between start codes. `head_only`, a codec: the first slice is the last unit, without its end.

    So the search does not run through the whole packet of a key frame.
    """
    at = data.find(START_CODE[1:])
    for _ in range(MAX_UNITS):
        if at < 0 or at + 3 >= len(data):
            return
        begin = at + 3
        if head_only is not None and _is_slice(head_only, data[begin : begin + 2]):
            yield data[begin : begin + 2]
            return
        at = data.find(START_CODE[1:], begin)
        unit = data[begin:] if at < 0 else data[begin:at]
        if unit := unit.rstrip(b"\0"):
            yield unit


def _h264_record(record: bytes) -> Iterator[bytes]:
    at = 5
    for mask in (31, 255):  # the numbers of sequence and picture parameter sets
        if at >= len(record):
            return
        count, at = record[at] & mask, at + 1
        for _ in range(count):
            begin, at = at + 2, at + 2 + int.from_bytes(record[at : at + 2], "big")
            yield record[begin:at]


def _h265_record(record: bytes) -> Iterator[bytes]:
    at = 23
    for _ in range(record[22] if len(record) > 22 else 0):
        count, at = int.from_bytes(record[at + 1 : at + 3], "big"), at + 3
        for _ in range(min(count, MAX_SETS)):
            begin, at = at + 2, at + 2 + int.from_bytes(record[at : at + 2], "big")
            yield record[begin:at]


def _sets(codec: str, units: Iterator[bytes]) -> Iterator[bytes]:
    return (unit for unit in units if unit and len(unit) <= MAX_SETS_BYTES and _is_set(codec, unit))


def _is_set(codec: str, unit: bytes) -> bool:
    return unit[0] & 31 in (7, 8) if codec == "h264" else unit[0] >> 1 & 63 in (32, 33, 34)


def _is_slice(codec: str, unit: bytes) -> bool:
    return unit[0] & 31 in (1, 2, 5) if codec == "h264" else unit[0] >> 1 & 63 < 32
