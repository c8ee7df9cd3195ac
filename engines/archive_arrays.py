"""Read arrays of NumPy's `.npz` archives from outside: their headers are checked before any data is expanded."""

from __future__ import annotations

import math
import zipfile
import zlib
from typing import Any, Final

import numpy as np

UNREADABLE: Final = (
    *(OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""The errors of `zipfile` and NumPy about a damaged, encrypted or unknown archive."""


class ArrayMismatchError(ValueError):
    """An array whose type or shape differs from the expected one."""


def read_array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """Return the array `name` of an archive, writable.

    Raises `ArrayMismatchError` before its data is read if dtype or shape differ, and errors of `UNREADABLE`. Memory is
    bounded by `shape`, whatever the archive claims or expands to.
    """
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others are expanded without a limit
        raise ValueError(f"{name}: compression {info.compress_type}")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):  # what NumPy writes for every header of less than 64 KiB
            raise ValueError(f"{name}: version {version} of NumPy's format")
        actual_shape, fortran_order, actual_dtype = np.lib.format.read_array_header_1_0(member)
        if actual_dtype != dtype or actual_shape != shape or fortran_order:
            raise ArrayMismatchError(f"{name} are {actual_dtype} {actual_shape}, the spec says {dtype} {shape}")
        size = math.prod(shape) * dtype.itemsize
        data = member.read(size)
    if len(data) != size:
        raise ValueError(f"{name}: {len(data)} of {size} bytes")
    return np.frombuffer(bytearray(data), dtype).reshape(shape)  # writable: OpenVINO shares no other memory
