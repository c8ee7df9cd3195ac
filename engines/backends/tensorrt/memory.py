"""Compute the device memory that an engine needs, and the batch sizes that it is prepared for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engines.bundle import ModelSpec

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLayout:
    """The sizes in bytes of all buffers that the engine allocates on the device."""

    spec: ModelSpec
    max_batch: int
    bank_slots: int
    scratch_bytes: int

    @property
    def row_bytes(self) -> int:
        """The size of one feature, float32."""
        return math.prod(self.spec.feature_shape) * 4

    @property
    def chunk_bytes(self) -> int:
        """The size of one chunk's frames, uint8."""
        return math.prod(self.spec.chunk_shape)

    @property
    def bank_bytes(self) -> int:
        """The size of all slots and of one more slot, which receives the padding of a batch."""
        return (self.bank_slots + 1) * self.row_bytes

    @property
    def batch_bytes(self) -> int:
        """The size of the buffers that grow with the batch: features, windows, and frames three times.

        Two batches of frames can be in upload while a third one is computed.
        """
        frames = 3 * (self.chunk_bytes + 4)
        windows = self.spec.chunks * (self.row_bytes + 4) + 4 * len(self.spec.labels)
        return self.max_batch * (frames + self.row_bytes + windows)

    @property
    def total_bytes(self) -> int:
        """The size of all buffers; the plans' weights are not included."""
        return self.bank_bytes + self.batch_bytes + self.scratch_bytes

    def describe(self) -> str:
        """Describe the figures for an error or log message."""
        bank, batch, scratch = (x / MIB for x in (self.bank_bytes, self.batch_bytes, self.scratch_bytes))
        return (
            f"batch {self.max_batch} needs {self.total_bytes / MIB:,.1f} MiB besides the weights "
            f"({self.bank_slots} bank slots {bank:,.1f}, batch {batch:,.1f}, scratch {scratch:,.1f})"
        )


def prepared_batches(max_batch: int) -> tuple[int, ...]:
    """List the batch sizes to prepare: 1, 2, 3, 4, 6, 8, 12, 16, … and `max_batch`.

    A batch is padded to the next of these sizes, by less than half of its own size. For each size the engine makes, at
    the start, an execution with fixed shapes and addresses and a CUDA graph. To prepare every size up to `max_batch`
    would take that many execution contexts.
    """
    sizes = {1, max_batch}
    power = 2
    while power < max_batch:
        sizes |= {power, power * 3 // 2}
        power *= 2
    return tuple(sorted(size for size in sizes if size <= max_batch))
