"""Define the base class of the adapters, which checks each call, and the feature bank of a CPU engine."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.arrays import F32, I32, U8
from engines.bundle import ModelSpec
from engines.errors import EngineInputError
from engines.protocol import ChunkMemory, SharingEngine


class CheckedEngine(ABC):
    """Check the shapes, dtypes, slots, thread and state of each call, so that the adapters only compute."""

    queues_work = False
    takes_device_chunks = False

    def __init__(self, spec: ModelSpec, *, max_batch: int, bank_slots: int, description: str, precision: str) -> None:
        self.spec = spec
        self.max_batch = max_batch
        self.bank_slots = bank_slots
        self.description = description
        self.precision = precision
        self._busy = threading.Lock()
        self._closed = False
        self._shares_bank, self._has_head = False, True
        self._has_result = False
        """Whether a result of `submit` was not taken yet."""
        self._fetched: set[int] = set()
        """Rows of the next `encode_device`."""

    def encode(self, frames: U8, slots: I32) -> None:
        """See `Engine.encode`. Raises `EngineInputError` and leaves the bank unchanged then."""
        self._check_batch("frames", frames, np.dtype(np.uint8), self.spec.chunk_shape)
        if slots.shape != (len(frames),) or slots.dtype != np.int32:
            raise EngineInputError(
                f"slots: {slots.dtype} {slots.shape}, expected int32 ({len(frames)},): one slot for each chunk"
            )
        self._check_new_slots(slots)
        with self._exclusive():
            self._check_owns_bank()
            self._encode(np.ascontiguousarray(frames), slots)

    def share_memory(self, chunks: int) -> ChunkMemory:
        """See `Engine.share_memory`. Raises `EngineInputError` for an engine without a GPU."""
        self._check_takes_device_chunks()
        if chunks < 1:
            raise EngineInputError(f"chunks={chunks}: at least 1")
        with self._exclusive():
            self._check_owns_bank()
            return self._share_memory(chunks)

    def fetch(self, memory: ChunkMemory, index: int, row: int) -> None:
        """See `Engine.fetch`. Raises `EngineInputError`."""
        self._check_takes_device_chunks()
        if not (0 <= index < memory.chunks and 0 <= row < self.max_batch):
            raise EngineInputError(
                f"chunk {index} into row {row}: the memory has chunks 0 to {memory.chunks - 1}, a batch rows 0 to "
                f"{self.max_batch - 1}"
            )
        with self._exclusive():
            self._check_owns_bank()
            self._fetch(memory, index, row)
            self._fetched.add(row)

    def encode_device(self, slots: I32) -> None:
        """See `Engine.encode_device`. Raises `EngineInputError` and leaves the bank unchanged then."""
        self._check_takes_device_chunks()
        self._check_batch("slots", slots, np.dtype(np.int32), ())
        self._check_new_slots(slots)
        if missing := set(range(len(slots))) - self._fetched:
            raise EngineInputError(f"row {min(missing)} of {len(slots)} holds no chunk: fetch one for each slot")
        with self._exclusive():
            self._check_owns_bank()
            self._fetched.clear()
            self._encode_device(slots)

    def classify(self, windows: I32) -> F32:
        """See `Engine.classify`. Raises `EngineInputError`."""
        return self.submit(windows)()

    def submit(self, windows: I32) -> Callable[[], F32]:
        """See `Engine.submit`. Raises `EngineInputError`."""
        self._check_batch("windows", windows, np.dtype(np.int32), (self.spec.chunks,))
        self._check_slots("windows", windows)
        with self._exclusive():
            if not self._has_head:
                raise EngineInputError(f"{self.spec.id}: its head was freed; open the bundle again")
            if self._has_result:
                raise EngineInputError("the result of the last submit was not taken; take it first")
            take = self._submit(windows)
            self._has_result = True

        def take_once() -> F32:
            with self._exclusive():
                self._has_result = False
                return take()

        return take_once

    def read_features(self, slots: I32) -> F32:
        """See `Engine.read_features`. Raises `EngineInputError`."""
        self._check_batch("slots", slots, np.dtype(np.int32), ())
        self._check_slots("slots", slots)
        with self._exclusive():
            self._check_owns_bank()
            return self._read_features(slots)

    def write_features(self, features: F32, slots: I32) -> None:
        """See `Engine.write_features`. Raises `EngineInputError` and leaves the bank unchanged then."""
        self._check_batch("features", features, np.dtype(np.float32), self.spec.feature_shape)
        self._check_batch("slots", slots, np.dtype(np.int32), ())
        self._check_slots("slots", slots)
        if len(features) != len(slots):
            raise EngineInputError(f"features: {len(features)} for {len(slots)} slots; give one feature for each slot")
        with self._exclusive():
            self._check_owns_bank()
            self._write_features(np.ascontiguousarray(features), slots)

    def share_bank(self, owner: SharingEngine) -> None:
        """See `SharingEngine.share_bank`. Raises `EngineInputError` for an engine whose bank has another form."""
        if type(owner) is not type(self) or _window_shape(owner.spec) != _window_shape(self.spec):
            raise EngineInputError(
                f"{self.spec.id} on {self.description}: cannot share the bank of {owner.spec.id} on "
                f"{owner.description}; open it beside that engine"
            )
        with self._exclusive():
            self._share_bank(owner)
            self.bank_slots = owner.bank_slots
            self._shares_bank = True

    def drop_head(self) -> None:
        """See `SharingEngine.drop_head`."""
        with self._exclusive():
            if self._has_head:
                self._has_head = False
                self._drop_head()

    def close(self) -> None:
        """See `Engine.close`."""
        with self._exclusive(closing=True):
            if not self._closed:
                self._closed = True
                self._close()

    @abstractmethod
    def _encode(self, frames: U8, slots: I32) -> None: ...

    def _share_memory(self, chunks: int) -> ChunkMemory:
        raise NotImplementedError

    def _fetch(self, memory: Any, index: int, row: int) -> None:
        raise NotImplementedError

    def _encode_device(self, slots: I32) -> None:
        raise NotImplementedError

    @abstractmethod
    def _submit(self, windows: I32) -> Callable[[], F32]: ...

    @abstractmethod
    def _read_features(self, slots: I32) -> F32: ...

    @abstractmethod
    def _write_features(self, features: F32, slots: I32) -> None: ...

    @abstractmethod
    def _share_bank(self, owner: Any) -> None:
        """Take the bank of `owner`, an engine of the same class, and free this engine's bank and encoder."""

    @abstractmethod
    def _drop_head(self) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    def _check_batch(
        self, name: str, array: npt.NDArray[np.generic], dtype: np.dtype[np.generic], item: tuple[int, ...]
    ) -> None:
        if array.dtype != dtype or array.shape[1:] != item or not 1 <= len(array) <= self.max_batch:
            expected = ", ".join(map(str, (f"1 to {self.max_batch}", *item)))
            raise EngineInputError(f"{name}: {array.dtype} {array.shape}, expected {dtype} ({expected})")

    def _check_slots(self, name: str, slots: I32) -> None:
        low, high = int(slots.min()), int(slots.max())
        if low < 0 or high >= self.bank_slots:
            raise EngineInputError(f"{name}: slot {low if low < 0 else high}; the bank has 0 to {self.bank_slots - 1}")

    def _check_new_slots(self, slots: I32) -> None:
        self._check_slots("slots", slots)
        if len(np.unique(slots)) != len(slots):
            raise EngineInputError("slots: a slot occurs twice in this batch; give each chunk a slot of its own")

    def _check_takes_device_chunks(self) -> None:
        if not self.takes_device_chunks:
            raise EngineInputError(f"{self.description}: it takes chunks from the host's memory only; use encode")

    def _check_owns_bank(self) -> None:
        if self._shares_bank:
            raise EngineInputError(f"{self.spec.id}: it shares the bank of another engine; give this call to that one")

    def _exclusive(self, *, closing: bool = False) -> _Exclusive:
        if self._closed and not closing:
            raise EngineInputError(f"{self.spec.id}: the engine is closed; open it again")
        return _Exclusive(self._busy)


def _window_shape(spec: ModelSpec) -> tuple[int, ...]:
    return spec.chunks, *spec.feature_shape


class _Exclusive:
    """Refuse a second thread at once instead of letting it wait: two threads that share one bank are a bug."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise EngineInputError("another thread is using this engine; give each thread its own")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class HostBank:
    """A feature bank (slots, *F) float32 in host memory, with one reused array (max_batch, T, *F) for windows."""

    def __init__(self, spec: ModelSpec, *, slots: int, max_batch: int) -> None:
        self._features = np.zeros((slots, *spec.feature_shape), np.float32)
        self._windows = np.empty((max_batch, spec.chunks, *spec.feature_shape), np.float32)

    def store(self, features: F32, slots: I32) -> None:
        """Write features (N, *F) into `slots` (N,)."""
        self._features[slots] = features

    def read(self, slots: I32) -> F32:
        """Copy the features in `slots` (N,) into a new array (N, *F)."""
        return self._features[slots]

    def gather(self, windows: I32) -> F32:
        """Collect the features of (N, T) slots in an array (N, T, *F) that the next call overwrites."""
        out = self._windows[: len(windows)]
        np.take(self._features, windows, axis=0, out=out, mode="clip")  # the slots are checked; "clip" spares a buffer
        return out
