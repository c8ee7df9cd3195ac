"""Serving meanwhile: an engine that is there at once, while the one that was wanted is compiled by another process.

opening = open_serving(bundle, ...)     the engine to begin with
better = opening.better()               between two batches: the wanted one, once, when it is ready
move_features(old, better)              what the bank of the first knows; then close the first
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np

from engines.backends.choice import choose_backend
from engines.backends.names import Backend, Precision
from engines.build_process import BuildRequest
from engines.bundle import Bundle
from engines.errors import EngineError, NotBuiltError
from engines.opening import open_engine
from engines.protocol import Engine

BUILD_S: Final = 1800.0
"""A build that takes longer is given up; the service goes on as it is."""
BUILDER: Final = (sys.executable, "-m", "engines.build_process")
POLL_S: Final = 0.2
LEAVE_S: Final = 5.0

log = logging.getLogger("engine")


class ServingEngine:
    """An engine to serve with now, and perhaps a better one later. One thread may use it."""

    def __init__(self, engine: Engine, upgrade: Upgrade | None = None) -> None:
        self.engine = engine
        self._upgrade = upgrade

    def better(self) -> Engine | None:
        """The engine that was wanted, once, as soon as it is ready; never waits. It is the caller's then."""
        return self._upgrade.take() if self._upgrade is not None else None

    def close(self) -> None:
        """End a build that is still under way. The engines that were given out are their owner's to close."""
        if self._upgrade is not None:
            self._upgrade.close()


def open_serving(
    bundle: Bundle,
    *,
    backend: Backend = "auto",
    precision: Precision = "auto",
    max_batch: int = 16,
    bank_slots: int | None = None,
    threads: int = 0,
    streams: int = 1,
) -> ServingEngine:
    """As `open_engine`, but where that would first take minutes to compile, another backend serves until it is done.

    Raises what `open_engine` raises. A build that fails is logged, and what serves goes on serving.
    """
    opened = partial(open_engine, bundle, max_batch=max_batch, bank_slots=bank_slots, threads=threads, streams=streams)
    try:
        return ServingEngine(opened(backend=backend, precision=precision, may_build=False))
    except NotBuiltError as error:
        log.info("%s", error)
    others = [name for name in choose_backend().order if name not in ("tensorrt", backend)]
    if not others:
        log.warning("%s: no other backend is installed that could serve meanwhile", bundle.spec.id)
        return ServingEngine(opened(backend=backend, precision=precision))
    engine = opened(backend=others[0])
    log.warning(
        "%s: serving on %s while tensorrt compiles; `streamclf compile %s --max-batch %d` ahead of a start avoids that",
        bundle.spec.id,
        engine.description,
        bundle.path,
        max_batch,
    )
    wish = BuildRequest(
        bundle=str(bundle.path),
        backend="tensorrt",
        precision=precision,
        max_batch=max_batch,
        bank_slots=engine.bank_slots,
        streams=streams,
    )
    return ServingEngine(engine, Upgrade(bundle, wish, [*BUILDER, wish.as_json()]))


class Upgrade:
    """A build in a process of its own, then the engine, loaded in a thread: whoever serves waits for neither."""

    def __init__(self, bundle: Bundle, wish: BuildRequest, command: Sequence[str], *, build_s: float = BUILD_S) -> None:
        self._bundle, self._wish, self._command, self._build_s = bundle, wish, list(command), build_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._ready: Engine | None = None
        self.finished = threading.Event()
        """It has succeeded or failed; there is nothing more to come than what `take` gives."""
        self._thread = threading.Thread(target=self._run, name="engine-upgrade", daemon=True)
        self._thread.start()

    def take(self) -> Engine | None:
        """The engine, once, when it is ready."""
        with self._lock:
            engine, self._ready = self._ready, None
            return engine

    def close(self) -> None:
        """End it, and close an engine that nobody took."""
        self._stop.set()
        self._thread.join(LEAVE_S)
        if (engine := self.take()) is not None:
            engine.close()

    def _run(self) -> None:
        try:
            self._upgrade()
        except (EngineError, OSError, RuntimeError) as error:
            log.error("%s: no tensorrt engine: %s; what serves now goes on", self._bundle.spec.id, error)
        finally:
            self.finished.set()

    def _upgrade(self) -> None:
        batch = self._build()
        if batch is None:
            return
        wish = self._wish
        engine = open_engine(
            self._bundle,
            backend=wish.backend,
            precision=wish.precision,
            max_batch=batch,
            bank_slots=wish.bank_slots,
            streams=wish.streams,
            may_build=False,
        )
        with self._lock:
            if not self._stop.is_set():
                self._ready = engine
                return
        engine.close()

    def _build(self) -> int | None:
        """The batch that the engine was compiled for; None where it was stopped. Raises `EngineError`."""
        child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            waited_s = 0.0
            while child.poll() is None and waited_s < self._build_s:
                if self._stop.wait(POLL_S):
                    return None
                waited_s += POLL_S
            if child.returncode is None:
                raise EngineError(f"compiling takes more than {self._build_s:.0f} s")
            assert child.stdout is not None  # it is a pipe
            found = {}
            with contextlib.suppress(ValueError, IndexError):
                found = json.loads(child.stdout.read().strip().splitlines()[-1])
            if "max_batch" not in found:
                raise EngineError(str(found.get("error", f"compiling ended with code {child.returncode}")))
            return int(found["max_batch"])
        finally:
            child.kill()
            child.communicate()


def move_features(source: Engine, target: Engine) -> None:
    """Copy the whole bank of `source` into that of `target`, an engine of the same bundle."""
    count = min(source.bank_slots, target.bank_slots)
    step = min(source.max_batch, target.max_batch)
    for begin in range(0, count, step):
        slots = np.arange(begin, min(begin + step, count), dtype=np.int32)
        target.write_features(source.read_features(slots), slots)
