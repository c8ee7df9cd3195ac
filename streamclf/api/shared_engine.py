"""Share one engine among streams and threads: each stream has its own region of the feature bank."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import numpy as np

from engines.arrays import F32, I32, U8
from engines.errors import EngineError
from engines.protocol import Engine
from streamclf.classifier.window_classifier import offline_bank_slots
from streamclf.errors import ModelError, UsageError


class SharedEngine:
    """An engine for several threads, which compute one after the other, and for a number of streams.

    Errors of the engine become `ModelError`.
    """

    def __init__(self, engine: Engine, max_streams: int) -> None:
        self.spec = engine.spec
        self.description = engine.description
        self.max_batch = engine.max_batch
        self.region_slots = offline_bank_slots(engine.spec, engine.max_batch)
        self._engine: Engine | None = engine
        self._lock = threading.Lock()
        self._max_streams = max_streams
        self._free = deque(range(0, max_streams * self.region_slots, self.region_slots))

    def take_region(self) -> BankRegion:
        """Return a region of the bank that nothing else uses. Raises `UsageError` if there is none."""
        with self.exclusive():
            pass  # the model is open
        try:
            first = self._free.popleft()
        except IndexError:
            raise UsageError(
                f"{self.spec.id}: {self._max_streams} streams and classifications are open, and no more are possible; "
                "close one, or open the model with a larger max_streams"
            ) from None
        return BankRegion(self, first, self._free.append)

    @contextmanager
    def exclusive(self) -> Iterator[Engine]:
        """Give this thread the engine; another thread may have to wait until a batch is computed."""
        with self._lock:
            if self._engine is None:
                raise UsageError(f"{self.spec.id}: the model is closed; open it again with streamclf.open_model")
            try:
                yield self._engine
            except EngineError as error:
                raise ModelError(str(error)) from error

    def close(self) -> None:
        """Free the engine. May be called twice."""
        with self._lock:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.close()


class BankRegion:
    """The engine with a part of its bank, as an `Engine` whose slots begin at 0. Closing gives the part back."""

    def __init__(self, shared: SharedEngine, first: int, release: Callable[[int], None]) -> None:
        self.spec, self.max_batch = shared.spec, shared.max_batch
        self.bank_slots = shared.region_slots
        self.description, self.precision, self.queues_work = shared.description, "", False
        self._shared, self._first = shared, np.int32(first)
        self._release = weakref.finalize(self, release, first)  # also for a stream that is never closed

    def __enter__(self) -> BankRegion:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.close()

    def encode(self, frames: U8, slots: I32) -> None:
        """See `Engine.encode`."""
        with self._shared.exclusive() as engine:
            engine.encode(frames, slots + self._first)

    def classify(self, windows: I32) -> F32:
        """See `Engine.classify`."""
        with self._shared.exclusive() as engine:
            return engine.classify(windows + self._first)

    def submit(self, windows: I32) -> Callable[[], F32]:
        """See `Engine.submit`. It computes at once, because another thread may use the engine next."""
        probabilities = self.classify(windows)
        return lambda: probabilities

    def read_features(self, slots: I32) -> F32:
        """See `Engine.read_features`."""
        with self._shared.exclusive() as engine:
            return engine.read_features(slots + self._first)

    def write_features(self, features: F32, slots: I32) -> None:
        """See `Engine.write_features`."""
        with self._shared.exclusive() as engine:
            engine.write_features(features, slots + self._first)

    def close(self) -> None:
        """Give the region back. May be called twice."""
        self._release()
