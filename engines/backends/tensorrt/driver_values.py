"""Define what both CUDA adapters share: values of the driver's interface, the kernels, and how the CPU waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import resources
from typing import Final

NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING"""
THREAD_LOCAL: Final = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: CUDA calls of other threads do not invalidate the capture."""
OUT_OF_MEMORY: Final = 2
"""CUDA_ERROR_OUT_OF_MEMORY"""
ROW_KERNELS: Final = ("gather_rows", "scatter_rows")
PICTURE_KERNEL: Final = "scale_picture"
KERNELS: Final = (*ROW_KERNELS, PICTURE_KERNEL)
THREADS_PER_BLOCK: Final = 128
PICTURE_THREADS: Final = 64
"""Threads of a block that scales a picture: pixels of one row."""
MAX_COLUMNS: Final = 64
"""At most this many blocks share one row; in longer rows each thread moves several words."""
MAX_WAIT_S: Final = 60.0
"""Time limit for one batch: no batch takes this long on any GPU unless the GPU hangs."""


class DeviceNumberError(ValueError):
    """There is no GPU with this number."""


def check_device_number(number: int, count: int) -> None:
    """Raise `DeviceNumberError` unless CUDA sees a GPU with this number, from 0."""
    if number >= count:
        seen = f"the numbers {', '.join(map(str, range(count)))}" if count else "no GPU"
        raise DeviceNumberError(
            f"GPU {number}: CUDA sees {seen}; give a number that nvidia-smi lists and CUDA_VISIBLE_DEVICES allows"
        )


def read_kernels() -> bytes:
    """Return the kernels as PTX, which the driver compiles when it loads them."""
    return resources.files(__package__).joinpath("kernels.ptx").read_bytes()


def row_kernel_grid(count: int, row_bytes: int) -> tuple[tuple[int, int], tuple[int, int, int], int]:
    """Return the grid and the block for `count` rows of `row_bytes` each, and the number of 4-byte words in a row."""
    words = row_bytes // 4
    columns = min(-(-words // THREADS_PER_BLOCK), MAX_COLUMNS)
    return (count, columns), (THREADS_PER_BLOCK, 1, 1), words


def picture_grid(columns: int, rows: int) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """Return the grid and the block that scale a picture to `columns` by `rows` pixels."""
    return (-(-columns // PICTURE_THREADS), rows), (PICTURE_THREADS, 1, 1)


def version_text(version: int) -> str:
    """Return CUDA's version number, like 12080, as text, like 12.8."""
    return f"{version // 1000}.{version % 1000 // 10}"


def wait_until_done(is_done: Callable[[], bool]) -> None:
    """Let the CPU wait while other threads run. Raises `RuntimeError` if the GPU hangs."""
    deadline = time.monotonic() + MAX_WAIT_S
    while not is_done():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the GPU has not finished its work within {MAX_WAIT_S:.0f} s")
        time.sleep(0)
