"""Build engines in another process and load them in a thread, while other engines serve."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from engines.backends.names import Backend
from engines.build_process import BuildRequest
from engines.bundle import Bundle
from engines.errors import EngineError
from engines.group import EngineGroup, GroupOptions, open_group
from engines.protocol import Engine

BUILD_TIMEOUT_S: Final = 1800.0
"""After this time a build is stopped, and the service keeps the engines that it has."""
BUILD_COMMAND: Final = (sys.executable, "-m", "engines.build_process")
POLL_S: Final = 0.2
CLOSE_TIMEOUT_S: Final = 5.0

log = logging.getLogger("engine")


class EngineUpgrade:
    """Build the engines of a group, then load them in a thread, so that the serving thread waits for neither."""

    def __init__(
        self,
        bundles: Mapping[str, Bundle],
        options: GroupOptions,
        *,
        command: Sequence[str] | None = None,
        timeout_s: float = BUILD_TIMEOUT_S,
    ) -> None:
        """Build on the backend of `options`. `command` takes the place of the build process in tests."""
        self._bundles, self._options, self._command, self._timeout_s = dict(bundles), options, command, timeout_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._ready: EngineGroup | None = None
        self.finished = threading.Event()
        """Set when the upgrade has succeeded or failed: `claim` returns the engines from then on, or never."""
        self._thread = threading.Thread(target=self._run, name="engine-upgrade", daemon=True)
        self._thread.start()

    def claim(self) -> EngineGroup | None:
        """Return the engines, once, when they are ready. The caller owns them then."""
        with self._lock:
            group, self._ready = self._ready, None
            return group

    @property
    def is_ready(self) -> bool:
        """Whether `claim` returns engines."""
        return self._ready is not None

    def close(self) -> None:
        """Stop the build, and close engines that were not claimed."""
        self.cancel()
        self._thread.join(CLOSE_TIMEOUT_S)

    def cancel(self) -> None:
        """Do as `close` does, but do not wait for the thread."""
        with self._lock:
            self._stop.set()
        if (group := self.claim()) is not None:
            group.close()

    def _run(self) -> None:
        try:
            self._upgrade()
        except (EngineError, OSError, RuntimeError) as error:
            log.error(
                "%s: no %s engine: %s; the present engine goes on serving",
                ", ".join(bundle.spec.id for bundle in self._bundles.values()),
                self._options.backend,
                error,
            )
        finally:
            self.finished.set()

    def _upgrade(self) -> None:
        max_batch = self._build_all()
        if max_batch is None:
            return
        opened = open_group(self._bundles, replace(self._options, max_batch=max_batch), may_build=False)
        if opened.failed:
            opened.group.close()
            raise next(iter(opened.failed.values()))
        with self._lock:
            if not self._stop.is_set():
                self._ready = opened.group
                return
        opened.group.close()

    def _build_all(self) -> int | None:
        """Build each bundle for the same batch, and return it; None after `close`. Raises `EngineError`."""
        max_batch = self._options.max_batch
        while True:
            wanted = max_batch
            for bundle in self._bundles.values():
                options = replace(self._options, max_batch=max_batch)
                built = build_in_process(bundle, options, self._stop, command=self._command, timeout_s=self._timeout_s)
                if built is None:
                    return None
                max_batch = min(max_batch, built)
            if max_batch == wanted or len(self._bundles) == 1:
                return max_batch


def build_in_process(
    bundle: Bundle,
    options: GroupOptions,
    stop: threading.Event,
    *,
    command: Sequence[str] | None = None,
    timeout_s: float = BUILD_TIMEOUT_S,
) -> int | None:
    """Build an engine into the cache in another process, and return its `max_batch`; None once `stop` is set.

    Raises `EngineError`.
    """
    request = BuildRequest(
        bundle=str(bundle.path),
        backend=options.backend,
        precision=options.precision,
        max_batch=options.max_batch,
        bank_slots=options.bank_slots or bundle.spec.chunks,
        streams=options.streams,
        device=options.device,
    )
    command = command or [*BUILD_COMMAND, request.as_json()]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        waited_s = 0.0
        while child.poll() is None and waited_s < timeout_s:
            if stop.wait(POLL_S):
                return None
            waited_s += POLL_S
        if child.returncode is None:
            raise EngineError(f"compiling takes more than {timeout_s:.0f} s")
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


def upgrade_options(options: GroupOptions, backend: Backend, group: EngineGroup) -> GroupOptions:
    """Return the options of the engines on `backend` that are to replace `group`."""
    return replace(options, backend=backend, bank_slots=group.owner.bank_slots)
