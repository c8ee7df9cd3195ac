"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import os
import platform

import pytest

from engines.freed_memory import return_freed_memory
from streamclf.runtime.memory_limit import private_bytes

BLOCKS, BLOCK_BYTES = 300, 100_000  # each below the size from which glibc maps memory for itself


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory, and can return it")
def test_freed_memory_below_memory_in_use_goes_back_to_the_system() -> None:
    library = ctypes.CDLL(None)
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [library.malloc(ctypes.c_size_t(BLOCK_BYTES)) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK_BYTES)
    *freed, last = blocks
    for block in freed:
        library.free(block)
    try:
        before = private_bytes(os.getpid())
        return_freed_memory()
        after = private_bytes(os.getpid())
    finally:
        library.free(last)
    assert before is not None
    assert after is not None
    assert before - after > BLOCKS * BLOCK_BYTES / 2
