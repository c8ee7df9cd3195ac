"""Hold chunks in device memory that other processes write."""

from __future__ import annotations

import os
from collections.abc import Callable

from engines.backends.tensorrt.interface import Cuda

ALIGNMENT = 256
"""Chunks begin at multiples of this many bytes, as memory that CUDA allocates does."""


class SharedChunks:
    """See `engines.protocol.ChunkMemory`."""

    def __init__(self, cuda: Cuda, chunks: int, chunk_bytes: int, forget: Callable[[SharedChunks], None]) -> None:
        """Allocate the memory; the context must be current. `forget` is called with this object in `close`.

        Raises `AllocationError`, and `RuntimeError` where memory cannot be shared.
        """
        self.chunks = chunks
        self.stride = -(-chunk_bytes // ALIGNMENT) * ALIGNMENT
        self.nbytes = chunks * self.stride
        self.gpu = cuda.gpu.bus
        self._cuda, self._forget = cuda, forget
        self._is_open = True
        self._address, self.fd = cuda.share(self.nbytes)

    def address(self, index: int) -> int:
        """Return the device address of a chunk. Raises `ValueError` after `close`."""
        if not self._is_open:
            raise ValueError("this memory for chunks is closed")
        return self._address + index * self.stride

    def close(self) -> None:
        """See `ChunkMemory.close`."""
        if self._is_open:
            with self._cuda.active():
                self.release()
            self._forget(self)

    def release(self) -> None:
        """Unmap the memory, while the context is current."""
        self._is_open = False
        os.close(self.fd)
        self._cuda.release(self._address)
