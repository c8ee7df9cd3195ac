"""How much device memory an engine needs, and for what; and the batch sizes that it is prepared for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engines.bundle import ModelSpec

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLayout:
    """Sizes in bytes of everything that the engine allocates on the device."""

    spec: ModelSpec
    max_batch: int
    bank_slots: int
    scratch_bytes: int

    @property
    def row_bytes(self) -> int:
        """One feature, float32."""
        return math.prod(self.spec.feature_shape) * 4

    @property
    def chunk_bytes(self) -> int:
        """One chunk's frames, uint8."""
        return math.prod(self.spec.chunk_shape)

    @property
    def bank_bytes(self) -> int:
        """Every slot, and one more in which the padding of a batch ends up."""
        return (self.bank_slots + 1) * self.row_bytes

    @property
    def batch_bytes(self) -> int:
        """What grows with the batch: frames three times (two uploads under way, one in work), features, windows."""
        frames = 3 * (self.chunk_bytes + 4)
        windows = self.spec.chunks * (self.row_bytes + 4) + 4 * len(self.spec.labels)
        return self.max_batch * (frames + self.row_bytes + windows)

    @property
    def total_bytes(self) -> int:
        """All of it; the plan's weights come on top."""
        return self.bank_bytes + self.batch_bytes + self.scratch_bytes

    def describe(self) -> str:
        """The figures in words."""
        bank, batch, scratch = (x / MIB for x in (self.bank_bytes, self.batch_bytes, self.scratch_bytes))
        return (
            f"batch {self.max_batch} needs {self.total_bytes / MIB:,.1f} MiB beside the weights "
            f"({self.bank_slots} bank slots {bank:,.1f}, batch {batch:,.1f}, scratch {scratch:,.1f})"
        )


def prepared_batches(max_batch: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16, … and `max_batch`: a batch is padded to the next of them, by less than half of it.

    Each has an execution with fixed shapes and addresses and a CUDA graph of its own, made at the start; a graph for
    every size would take as many contexts as there are sizes.
    """
    sizes = {1, max_batch}
    power = 2
    while power < max_batch:
        sizes |= {power, power * 3 // 2}
        power *= 2
    return tuple(sorted(size for size in sizes if size <= max_batch))
