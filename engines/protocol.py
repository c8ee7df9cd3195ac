"""Define the engine that every backend implements, and the options that it is opened with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from engines.arrays import F32, I32, U8
from engines.backends.names import Precision
from engines.bundle import Bundle, ModelSpec

FP32_TRIAL_ORDER: Final = ("head", "encoder")
"""The graph that `auto` tries first to leave in fp32 comes first: most of the work is in the encoder."""


class ChunkMemory(Protocol):
    """Memory on an engine's GPU for chunks. Other processes map it by its descriptor, and write chunks into it.

    Chunk i is (t, H, W, 3) uint8 RGB, from byte `i * stride` on. The memory can be fetched from until `close`, or until
    its engine is closed. Its descriptor belongs to this object.
    """

    fd: int
    chunks: int
    stride: int
    nbytes: int
    gpu: str
    """The GPU's place on the PCI bus."""

    def close(self) -> None:
        """Unmap the memory here. It lives on in processes that have mapped it. May be called twice."""


class Engine(Protocol):
    """A loaded, verified model with a bank of features on its own device.

    Only one thread at a time may call it; a second thread that calls it meanwhile gets `EngineInputError`.
    """

    spec: ModelSpec
    max_batch: int
    bank_slots: int
    description: str
    """Backend, device and precision in words, for logs and `doctor`."""
    precision: str
    queues_work: bool
    """Whether the device computes while the caller goes on: `encode` and `submit` return before their work is done."""

    def encode(self, frames: U8, slots: I32) -> None:
        """Encode (N, t, H, W, 3) uint8 RGB and write the N features into the bank's `slots` (N,). N <= max_batch."""

    def classify(self, windows: I32) -> F32:
        """Map (N, T) bank slots, oldest first, to probabilities (N, K). The array is the caller's. N <= max_batch."""

    def submit(self, windows: I32) -> Callable[[], F32]:
        """Begin a `classify` and return the function that waits for its result.

        Until the result is taken, only `encode` may be called: it uploads the next chunks while the device computes.
        """

    def read_features(self, slots: I32) -> F32:
        """Copy the features in `slots` (N,) into a new array (N, *F). The array is the caller's. N <= max_batch."""

    def write_features(self, features: F32, slots: I32) -> None:
        """Write features (N, *F) of another engine of the same bundle into `slots` (N,). N <= max_batch."""

    def close(self) -> None:
        """Free the device; any later call raises `EngineInputError`. May be called twice."""


class SharingEngine(Engine, Protocol):
    """An engine whose encoder and bank other engines may use. Each backend's engine is one."""

    takes_device_chunks: bool
    """Whether chunks can come from the memory of the engine's GPU: `share_memory`, `fetch` and `encode_device`."""

    def share_memory(self, chunks: int) -> ChunkMemory:
        """Allocate memory on the GPU for `chunks` chunks, which other processes can write.

        Raises `DeviceMemoryError`, and `DeviceError` where the GPU or its driver cannot share memory.
        """

    def fetch(self, memory: ChunkMemory, index: int, row: int) -> None:
        """Copy chunk `index` of `memory` into `row` of the next `encode_device`; the chunk may change afterwards.

        The copy stays on the GPU. Other calls may come between `fetch` and `encode_device`. row < max_batch.
        """

    def encode_device(self, slots: I32) -> None:
        """Encode the chunks fetched into rows 0 to N-1, and write their features into the bank's `slots` (N,).

        All of these rows must have been fetched since the last call. N <= max_batch.
        """

    def share_bank(self, owner: SharingEngine) -> None:
        """From now on classify from the bank of `owner`, and free this engine's encoder and bank: only `owner` encodes.

        `owner` is an engine of the same backend, of a bundle with the same encoder. Close it after this engine. The
        thread that uses `owner` must call this, while no result of a `submit` is waited for.
        """

    def drop_head(self) -> None:
        """Free the head: from now on this engine only encodes, for the engines that share its bank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The options that a backend opens an engine with; `bank_slots` is at least `max_batch` and one window."""

    precision: Precision
    max_batch: int
    bank_slots: int
    threads: int
    streams: int = 1
    """How many streams the engine will serve: one stream needs low latency, many streams need high throughput."""
    fp32_graph: str | None = None
    """The graph, `encoder` or `head`, that stays in fp32 whatever `precision` says."""
    may_build: bool = True
    """If False, raise `NotBuiltError` instead of compiling anything that takes minutes."""
    device: int | None = None
    """Number of the GPU, as `nvidia-smi` shows it; None for the default of the backend. Only TensorRT uses it."""
    url: str | None = None
    """Address of the server; only Triton uses it."""
    beside: Engine | None = None
    """An engine of a bundle with the same encoder, which stays open. A backend that can uses its loaded encoder."""

    def describe_precision(self, precision: str) -> str:
        """Name `precision`, and the graph that stays in fp32 if there is one, for an engine's description."""
        return precision if self.fp32_graph is None else f"{precision} ({self.fp32_graph} fp32)"


class BackendModule(Protocol):
    """The names that each module `engines.backends.NAME` has."""

    SLOW_TO_BUILD: bool
    """Whether compiling a model takes minutes, so that another backend should serve until it is done."""

    def open_adapter(self, bundle: Bundle, options: EngineOptions) -> SharingEngine:
        """Load or compile both graphs. The engine has not been compared with the golden clip yet."""
