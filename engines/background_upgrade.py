"""Serve with an engine that is ready at once while another process compiles the wanted one.

serving = open_serving(bundle, ...)     serving.engine is ready to use
wanted = serving.claim_upgrade()        between two batches: the wanted engine, once, when it is ready
move_features(serving.engine, wanted)   copy the bank, then close the first engine
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
from engines.opening import load_backend, open_engine
from engines.protocol import Engine

BUILD_TIMEOUT_S: Final = 1800.0
"""After this time the build is stopped, and the service keeps the engine that it has."""
BUILD_COMMAND: Final = (sys.executable, "-m", "engines.build_process")
POLL_S: Final = 0.2
CLOSE_TIMEOUT_S: Final = 5.0

log = logging.getLogger("engine")


class ServingEngine:
    """An engine to serve with now, and perhaps a better one later. Only one thread may use it."""

    def __init__(self, engine: Engine, upgrade: EngineUpgrade | None = None) -> None:
        self.engine = engine
        self.upgrade = upgrade

    def claim_upgrade(self) -> Engine | None:
        """Return the wanted engine, once, as soon as it is ready, else None at once. The caller owns it then."""
        return self.upgrade.claim() if self.upgrade is not None else None

    def close(self) -> None:
        """Stop a build that is still running. The caller closes `engine`, and an engine that it has claimed."""
        if self.upgrade is not None:
            self.upgrade.close()


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
    """Open an engine as `open_engine` does, but let another backend serve while a slow one compiles the model.

    Raises what `open_engine` raises. If the build fails, the log reports it, and the first engine goes on serving.
    """
    opened = partial(open_engine, bundle, max_batch=max_batch, bank_slots=bank_slots, threads=threads, streams=streams)
    try:
        return ServingEngine(opened(backend=backend, precision=precision, may_build=False))
    except NotBuiltError as error:
        log.info("%s", error)
    order = choose_backend().order
    slow = next(name for name in (backend, *order) if name != "auto" and load_backend(name).SLOW_TO_BUILD)
    stand_in = next((name for name in order if not load_backend(name).SLOW_TO_BUILD), None)
    if stand_in is None:
        log.warning("%s: no other backend is installed that could serve meanwhile", bundle.spec.id)
        return ServingEngine(opened(backend=backend, precision=precision))
    engine = opened(backend=stand_in)
    log.warning(
        "%s: serving on %s while %s compiles; `streamclf compile %s --max-batch %d` ahead of a start avoids that",
        bundle.spec.id,
        engine.description,
        slow,
        bundle.path,
        max_batch,
    )
    request = BuildRequest(
        bundle=str(bundle.path),
        backend=slow,
        precision=precision,
        max_batch=max_batch,
        bank_slots=engine.bank_slots,
        streams=streams,
    )
    return ServingEngine(engine, EngineUpgrade(bundle, request, [*BUILD_COMMAND, request.as_json()]))


class EngineUpgrade:
    """Build an engine in another process, then load it in a thread, so that the serving thread waits for neither."""

    def __init__(
        self, bundle: Bundle, request: BuildRequest, command: Sequence[str], *, timeout_s: float = BUILD_TIMEOUT_S
    ) -> None:
        self._bundle, self._request, self._command, self._timeout_s = bundle, request, list(command), timeout_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._ready: Engine | None = None
        self.finished = threading.Event()
        """Set when the upgrade has succeeded or failed: `claim` returns the engine from then on, or never."""
        self._thread = threading.Thread(target=self._run, name="engine-upgrade", daemon=True)
        self._thread.start()

    def claim(self) -> Engine | None:
        """Return the engine, once, when it is ready."""
        with self._lock:
            engine, self._ready = self._ready, None
            return engine

    def close(self) -> None:
        """Stop the build, and close an engine that was not claimed."""
        self._stop.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        if (engine := self.claim()) is not None:
            engine.close()

    def _run(self) -> None:
        try:
            self._upgrade()
        except (EngineError, OSError, RuntimeError) as error:
            log.error(
                "%s: no %s engine: %s; the present engine goes on serving",
                self._bundle.spec.id,
                self._request.backend,
                error,
            )
        finally:
            self.finished.set()

    def _upgrade(self) -> None:
        max_batch = self._build()
        if max_batch is None:
            return
        engine = open_engine(
            self._bundle,
            backend=self._request.backend,
            precision=self._request.precision,
            max_batch=max_batch,
            bank_slots=self._request.bank_slots,
            streams=self._request.streams,
            may_build=False,
        )
        with self._lock:
            if not self._stop.is_set():
                self._ready = engine
                return
        engine.close()

    def _build(self) -> int | None:
        """Build in another process and return the engine's `max_batch`; None after `close`. Raises `EngineError`."""
        child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            waited_s = 0.0
            while child.poll() is None and waited_s < self._timeout_s:
                if self._stop.wait(POLL_S):
                    return None
                waited_s += POLL_S
            if child.returncode is None:
                raise EngineError(f"compiling takes more than {self._timeout_s:.0f} s")
            assert child.stdout is not None  # stdout is a pipe
            result = {}
            with contextlib.suppress(ValueError, IndexError):
                result = json.loads(child.stdout.read().strip().splitlines()[-1])
            if "max_batch" not in result:
                raise EngineError(str(result.get("error", f"compiling ended with code {child.returncode}")))
            return int(result["max_batch"])
        finally:
            child.kill()
            child.communicate()


def move_features(source: Engine, target: Engine) -> None:
    """Copy the whole bank of `source` into the bank of `target`, an engine of the same bundle."""
    count = min(source.bank_slots, target.bank_slots)
    step = min(source.max_batch, target.max_batch)
    for begin in range(0, count, step):
        slots = np.arange(begin, min(begin + step, count), dtype=np.int32)
        target.write_features(source.read_features(slots), slots)
