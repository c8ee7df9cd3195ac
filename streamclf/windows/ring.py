"""Share chunks between processes through a ring in shared memory: one writer, any number of readers, no locks.

The memory comes from `streamclf.runtime.shared_memory`; the processes receive its file descriptor. Each slot carries a
sequence number that is odd while the slot is written (a sequence lock). It shows a reader whether its copy is whole.
Python has no memory barriers. x86 makes stores visible in order; on other processors a checksum must agree, too.

Layout, in 8-byte words: a header (`_Head`), then per slot a header (`_Slot`) and (t, H, W, 3) uint8 RGB. The pixels of
a chunk may be in the memory of a GPU instead (`streamclf.windows.card_slots`), in its slot of the same number.
"""

from __future__ import annotations

import mmap
import os
import platform
import zlib
from collections.abc import Callable, Sequence
from enum import IntEnum

import numpy as np

from engines.arrays import U8
from streamclf.errors import RingError
from streamclf.runtime.shared_memory import allocate, available_bytes
from streamclf.windows.ring_progress import ProgressWaiter
from streamclf.windows.sampling import ChunkMeta

ChunkShape = tuple[int, int, int, int]
"""(t, H, W, 3)."""
CommitCallback = Callable[[ChunkMeta, U8], None]
"""Called with a committed chunk and its pixels (t, H, W, 3) uint8 RGB. The ring owns the pixels: do not keep them."""

MAGIC = 0x53434C5254494E47
VERSION = 2
HEADER_BYTES = 128
SLOT_HEADER_BYTES = 128
MAX_SLOTS = 4096
RESERVE_BYTES = 64 << 20
"""Memory that must stay free beside the rings: the kernel kills processes when memory runs out."""
STORES_IN_ORDER = platform.machine().lower() in ("x86_64", "amd64", "i686")


class _Head(IntEnum):
    MAGIC = 0
    VERSION = 1
    SLOTS = 2
    FRAMES = 3
    HEIGHT = 4
    WIDTH = 5
    CHECKED = 6
    GENERATION = 7
    COMMITTED = 8
    SEGMENT = 9


class _Slot(IntEnum):
    SEQUENCE = 0
    NUMBER = 1
    CHECKSUM = 2
    META = 3


META_FIELDS = (
    "segment",
    "index",
    "start_pts_ns",
    "end_pts_ns",
    "captured_ns",
    "frames",
    "duplicates",
    "corrupt",
    "fast",
)
_CAPTURED = _Slot.META + META_FIELDS.index("captured_ns")
_CARD = _Slot.META + len(META_FIELDS)
"""The word that says in which memory of a GPU the pixels are; 0 for the memory of the ring."""


def create_ring(slots: int, chunk_shape: ChunkShape, *, checked: bool = not STORES_IN_ORDER) -> int:
    """Create a ring of `slots` chunks (t, H, W, 3) uint8 and return its file descriptor, which the caller closes.

    The writer always owns one slot, so `slots - 1` chunks can be read. `checked` adds a checksum to each chunk. Raises
    `RingError`, which names the memory that the ring needs.
    """
    if not 2 <= slots <= MAX_SLOTS:
        raise RingError(f"a ring of {slots} slots: 2 to {MAX_SLOTS}")
    if len(chunk_shape) != 4 or chunk_shape[3] != 3 or min(chunk_shape) < 1:
        raise RingError(f"chunks of shape {chunk_shape}: must be (frames, height, width, 3)")
    size = ring_bytes(slots, chunk_shape)
    need = f"a ring of {slots} chunks {chunk_shape} needs {size / 2**20:.1f} MiB of shared memory"
    remedy = "serve fewer streams on this machine, or give it (or its container) more memory"
    available = available_bytes()
    if available is not None and size > available - RESERVE_BYTES:
        raise RingError(f"{need}, and {max(0, available - RESERVE_BYTES) / 2**20:.0f} MiB are free for it; {remedy}")
    try:
        fd = allocate(size)
    except (OSError, OverflowError) as error:
        raise RingError(f"{need} ({getattr(error, 'strerror', None) or error}); {remedy}") from error
    with mmap.mmap(fd, size) as memory, memoryview(memory) as view, view[:HEADER_BYTES].cast("q") as head:
        frames, height, width, _ = chunk_shape
        head[_Head.VERSION], head[_Head.SLOTS], head[_Head.CHECKED] = VERSION, slots, int(checked)
        head[_Head.FRAMES], head[_Head.HEIGHT], head[_Head.WIDTH] = frames, height, width
        head[_Head.MAGIC] = MAGIC
    return fd


def ring_bytes(slots: int, chunk_shape: ChunkShape) -> int:
    """Return the bytes of shared memory that a ring of `slots` chunks (t, H, W, 3) uint8 needs."""
    return HEADER_BYTES + slots * _stride(chunk_shape)


class _Ring:
    """A ring mapped into this process. The caller may close the descriptor afterwards."""

    def __init__(self, fd: int, *, writable: bool) -> None:
        try:
            size = os.fstat(fd).st_size
            protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            memory = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=protection)
        except (OSError, ValueError) as error:
            raise RingError(f"file descriptor {fd}: no shared memory to map ({error})") from error
        view = memoryview(memory)
        if size < HEADER_BYTES:
            raise RingError(f"file descriptor {fd}: {size} bytes are not a ring")
        head = view[:HEADER_BYTES].cast("q")
        slots = head[_Head.SLOTS]
        shape = (head[_Head.FRAMES], head[_Head.HEIGHT], head[_Head.WIDTH], 3)
        if head[_Head.MAGIC] != MAGIC or head[_Head.VERSION] != VERSION:
            raise RingError(f"file descriptor {fd}: not a ring of version {VERSION}; restart all processes together")
        if not 2 <= slots <= MAX_SLOTS or min(shape) < 1 or size != HEADER_BYTES + slots * _stride(shape):
            raise RingError(f"file descriptor {fd}: a damaged ring ({slots} slots of {shape} in {size} bytes)")
        self.slots = slots
        self.chunk_shape: ChunkShape = shape
        self._checked = bool(head[_Head.CHECKED])
        self._head = head
        self._memory = memory
        starts = [HEADER_BYTES + i * _stride(shape) for i in range(slots)]
        self._metas = [view[start : start + SLOT_HEADER_BYTES].cast("q") for start in starts]
        self._pixels = [np.ndarray(shape, np.uint8, view, start + SLOT_HEADER_BYTES) for start in starts]

    def close(self) -> None:
        """Unmap the memory, in a process that outlives its rings. This object may not be used afterwards."""
        self._metas.clear()
        self._pixels.clear()
        self._head.release()
        self._memory.close()

    @property
    def head(self) -> int:
        """Number of chunks committed so far; the newest chunk has the number `head - 1`."""
        return self._head[_Head.COMMITTED]


class RingWriter(_Ring):
    """The one writer. A new writer continues after a killed one, and repairs the slot that it left half written."""

    def __init__(
        self, fd: int, *, progress: ProgressWaiter | None = None, on_commit: Sequence[CommitCallback] = ()
    ) -> None:
        """Attach to the ring `fd`.

        With `progress`, `begin` waits until the reader has read the slot's chunk; else the writer waits for no reader.
        `commit` calls each of `on_commit`, in order, after readers can see the chunk.
        """
        super().__init__(fd, writable=True)
        self._progress = progress
        self._on_commit = tuple(on_commit)
        self._head[_Head.GENERATION] += 1

    @property
    def generation(self) -> int:
        """Number of writers that this ring has had."""
        return self._head[_Head.GENERATION]

    @property
    def next_segment(self) -> int:
        """The lowest segment number above all committed ones: segments stay unique over restarts of the writer."""
        return self._head[_Head.SEGMENT] + 1

    def begin(self) -> U8:
        """Return the memory of the next chunk, (t, H, W, 3) uint8 RGB, which the caller fills and then commits.

        The ring owns the array; it is valid until `commit`. A second call abandons the chunk begun before.
        """
        if self._progress is not None:
            self._progress.wait_for(self.head - self.slots + 2)
        number = self.head % self.slots
        meta = self._metas[number]
        meta[_Slot.SEQUENCE] += 1 if meta[_Slot.SEQUENCE] % 2 == 0 else 2  # odd: being written
        return self._pixels[number]

    @property
    def next_slot(self) -> int:
        """The slot of the chunk that `begin` begins."""
        return self.head % self.slots

    def commit(self, chunk: ChunkMeta, *, card: int = 0) -> int:
        """Make the chunk begun last visible to readers. Returns its number.

        `card`: the number of the GPU's memory that holds its pixels; 0 for the memory that `begin` has returned.
        """
        number = self.head
        meta = self._metas[number % self.slots]
        if meta[_Slot.SEQUENCE] % 2 == 0:
            raise RingError(f"chunk {number} was committed without begin()")
        meta[_Slot.NUMBER] = number
        for i, name in enumerate(META_FIELDS, _Slot.META):
            meta[i] = getattr(chunk, name)
        meta[_CARD] = card
        if self._checked and not card:
            meta[_Slot.CHECKSUM] = _checksum(self._pixels[number % self.slots], meta)
        self._head[_Head.SEGMENT] = max(chunk.segment, self._head[_Head.SEGMENT])
        meta[_Slot.SEQUENCE] += 1
        self._head[_Head.COMMITTED] = number + 1
        for callback in self._on_commit:
            callback(chunk, self._pixels[number % self.slots])
        return number

    def wait_until_read(self) -> None:
        """Wait until the reader has read every committed chunk; return at once without `progress`."""
        if self._progress is not None:
            self._progress.wait_for(self.head)


class RingReader(_Ring):
    """A reader. It cannot disturb the writer, because its mapping is read-only."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, writable=False)

    @property
    def oldest(self) -> int:
        """Number of the oldest chunk that may still be readable: the writer owns the slot before it."""
        return max(0, self.head - self.slots + 1)

    def captured_ns(self, number: int) -> int | None:
        """Return when chunk `number`'s newest frame was captured (CLOCK_MONOTONIC); None if the ring lacks it."""
        meta = self._metas[number % self.slots]
        captured_ns = meta[_CAPTURED]
        return captured_ns if 0 <= number < self.head and meta[_Slot.NUMBER] == number else None

    def card(self, number: int) -> int:
        """Return which memory of a GPU holds the pixels of chunk `number`; 0 for the ring's own memory."""
        return self._metas[number % self.slots][_CARD]

    def read(self, number: int, out: U8) -> ChunkMeta | None:
        """Copy chunk `number` into `out` (t, H, W, 3) uint8. Returns None if it is not, or no longer, complete."""
        return self._read(number, out, None)

    def fetch(self, number: int, copy: Callable[[int], None]) -> ChunkMeta | None:
        """Call `copy` with the slot of chunk `number`, whose pixels are on a GPU, to copy them from there.

        Returns None if the chunk is not, or no longer, complete: the copy is not whole then.
        """
        return self._read(number, None, copy)

    def _read(self, number: int, out: U8 | None, copy: Callable[[int], None] | None) -> ChunkMeta | None:
        if not 0 <= number < self.head:
            return None
        meta = self._metas[number % self.slots]
        before = meta[_Slot.SEQUENCE]
        if before % 2 or meta[_Slot.NUMBER] != number or bool(meta[_CARD]) != (out is None):
            return None
        if out is not None:
            np.copyto(out, self._pixels[number % self.slots])
        elif copy is not None:
            copy(number % self.slots)
        values = meta[_Slot.META : _Slot.META + len(META_FIELDS)].tolist()
        checksum = meta[_Slot.CHECKSUM]
        if meta[_Slot.SEQUENCE] != before or meta[_Slot.NUMBER] != number:
            return None
        if self._checked and out is not None and checksum != _checksum(out, (0, number, 0, *values)):
            return None
        return ChunkMeta(**dict(zip(META_FIELDS, values, strict=True)))


def _stride(shape: ChunkShape) -> int:
    frames, height, width, channels = shape
    return SLOT_HEADER_BYTES + (frames * height * width * channels + 127) // 128 * 128


def _checksum(pixels: U8, meta: memoryview | tuple[int, ...]) -> int:
    words = np.array([meta[_Slot.NUMBER], *meta[_Slot.META : _Slot.META + len(META_FIELDS)]], np.int64)
    return zlib.crc32(words.tobytes(), zlib.crc32(np.ascontiguousarray(pixels).data))
