"""Parse durations and sizes with a unit, such as `7d` and `10GB`, into seconds and bytes."""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_NUMBER = r"(\d{1,15}(?:\.\d{1,15})?)"  # with more digits a product may exceed the range of a float
_DURATION: Final = re.compile(_NUMBER + "(s|m|h|d|w)")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE: Final = re.compile(_NUMBER + "(KB|MB|GB|TB|KiB|MiB|GiB)")
_UNIT_BYTES: Final = {
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_MIN_SIZE_BYTES: Final = 10**6
MIN_MEMORY_BYTES: Final = 200 * 10**6
MAX_SIZE_BYTES: Final = 10**15
"""1000 TB. SQLite's largest file has 281 TB."""
MAX_DURATION_S: Final = 100 * 366 * 86400
"""About 100 years: 36600 days. Nanoseconds since 1970 minus such a duration still fit into 64 bits."""


def match_duration(text: str) -> float | None:
    """Return the seconds of a duration like `90s`, `30m`, `12h`, `7d` or `4w`; None for other text."""
    match = _DURATION.fullmatch(text)
    return float(match[1]) * _UNIT_S[match[2]] if match else None


def match_size(text: str) -> int | None:
    """Return the bytes of a size like `500MB` (10^6) or `512MiB` (2^20); None for other text."""
    match = _SIZE.fullmatch(text)
    return int(float(match[1]) * _UNIT_BYTES[match[2]]) if match else None


def _to_seconds(value: object) -> float:
    seconds = match_duration(value) if isinstance(value, str) else None
    if seconds is None:
        raise ValueError(f"{value!r}: must be a number and s, m, h, d or w, like 7d")
    if seconds > MAX_DURATION_S:
        raise ValueError(f"{value!r}: at most {MAX_DURATION_S // 86400}d (100 years)")
    return seconds


def _to_bytes(value: object) -> int:
    size = match_size(value) if isinstance(value, str) else None
    if size is None or size < _MIN_SIZE_BYTES:
        raise ValueError(f"{value!r}: must be a number and MB, GB or TB, like 10GB; at least 1MB")
    if size > MAX_SIZE_BYTES:
        raise ValueError(f"{value!r}: at most {MAX_SIZE_BYTES // 10**12}TB")
    return size


def _to_memory(value: object) -> int:
    size = _to_bytes(value)
    if size < MIN_MEMORY_BYTES:
        raise ValueError(f"{value!r}: at least {MIN_MEMORY_BYTES // 10**6}MB, which a process needs for its libraries")
    return size


Duration: TypeAlias = Annotated[float, BeforeValidator(_to_seconds), WithJsonSchema({"type": "string"})]
"""Seconds, at most 100 years, written with a unit: `90s`, `30m`, `12h`, `7d`, `4w`."""
Size: TypeAlias = Annotated[int, BeforeValidator(_to_bytes), WithJsonSchema({"type": "string"})]
"""Bytes, 1 MB to 1000 TB, written with a unit: `500MB`, `10GB`, `1TB`."""
SIZE_AS_TEXT: Final = PlainSerializer(
    lambda size: f"{size // 1000}.{size % 1000:03}KB", return_type=str, when_used="json"
)
"""Write a size like a configuration does, for the jobs of processes."""
DURATION_AS_TEXT: Final = PlainSerializer(lambda seconds: f"{seconds:.6f}s", return_type=str, when_used="json")
MemoryLimit: TypeAlias = Annotated[
    int,
    BeforeValidator(_to_memory),
    SIZE_AS_TEXT,
    WithJsonSchema({"type": "string"}),
]
"""Bytes of a process's memory, at least 200 MB, written like a `Size`, also in the jobs of processes."""
