"""Keep the engines that a service uses: ready at once, replaced by better ones later, and with models that change.

serving = open_serving({"": bundle}, GroupOptions(...))     serving.group is ready to use
serving.add("hands", bundle_path)                           returns at once
if serving.has_changes:                                     between two batches
    for change in serving.poll(): ...                       serving.group may be another one now
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from engines.backends.choice import choose_backend
from engines.backends.names import GPU_BACKEND, Backend
from engines.background_upgrade import EngineUpgrade, build_in_process, move_features, upgrade_options
from engines.bundle import Bundle, load_bundle
from engines.errors import EngineError, NotBuiltError
from engines.group import EngineGroup, GroupOptions, OpenedGroup, check_encoder, open_group, open_next
from engines.opening import load_backend
from engines.protocol import SharingEngine

CLOSE_TIMEOUT_S: Final = 0.5
"""Longest wait for a bundle that is being opened; its thread frees it afterwards."""

log = logging.getLogger("engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingChange:
    """A change of the engines: the model `name` serves now or failed with `error`; or, without a name, all are new."""

    name: str | None = None
    error: str | None = None


class ServingGroup:
    """The engines of one group of models while it serves. Only one thread may use it."""

    def __init__(
        self, bundles: Mapping[str, Bundle], opened: OpenedGroup, options: GroupOptions, slow: Backend | None = None
    ) -> None:
        """`slow`: the backend whose engines are to replace those of `opened`, once they are built."""
        self.group = opened.group
        self.failed = {name: str(error) for name, error in opened.failed.items()}
        """Models that could not be opened at the start, and why."""
        self._bundles = {name: bundle for name, bundle in bundles.items() if name in opened.group}
        self._options, self._slow = options, slow
        self._waiting: deque[tuple[str, Path]] = deque()
        self._opening: _Opening | None = None
        self._upgrade: EngineUpgrade | None = None
        self._restart_upgrade()

    @property
    def upgrade(self) -> EngineUpgrade | None:
        """The upgrade that is under way or has failed; None if there is none."""
        return self._upgrade

    def add(self, name: str, path: Path) -> None:
        """Begin to open another bundle with the same encoder as the model `name`; `poll` reports the result.

        A model that has this name already serves until then. The last call for a name counts.
        """
        self._forget(name)
        self._waiting.append((name, path))
        self._open_waiting()

    def remove(self, name: str) -> None:
        """Free the model `name`, or stop opening it."""
        self._forget(name)
        self.group.remove(name)
        if self._bundles.pop(name, None) is not None:
            self._restart_upgrade()

    @property
    def has_changes(self) -> bool:
        """Whether `poll` has something to do. It costs next to nothing."""
        if self._opening is not None:
            return self._opening.finished.is_set()
        return self._upgrade is not None and self._upgrade.is_ready

    def poll(self) -> list[ServingChange]:
        """Put engines that are ready into service, and return what has changed.

        Call it between two batches, while no result is waited for.
        """
        changes = []
        if self._opening is not None and self._opening.finished.is_set():
            opening, self._opening = self._opening, None
            if not opening.cancelled:
                changes.append(self._finish(opening))
            opening.close()
            self._open_waiting()
        if self._opening is None and self._upgrade is not None and (group := self._upgrade.claim()) is not None:
            self._upgrade = self._slow = None
            move_features(self.group.owner, group.owner)
            before, self.group = self.group, group
            before.close()
            log.info("now on %s, before on %s", group.owner.description, before.owner.description)
            changes.append(ServingChange())
        return changes

    def close(self) -> None:
        """Stop what is under way in the background. The caller closes `group`."""
        self._waiting.clear()
        if self._opening is not None:
            self._opening.close()
        if self._upgrade is not None:
            self._upgrade.close()

    def _forget(self, name: str) -> None:
        self._waiting = deque(each for each in self._waiting if each[0] != name)
        if self._opening is not None and self._opening.name == name:
            self._opening.cancelled = True

    def _open_waiting(self) -> None:
        if self._opening is None and self._waiting:
            name, path = self._waiting.popleft()
            self._opening = _Opening(name, path, self.group, self._options)

    def _finish(self, opening: _Opening) -> ServingChange:
        name = opening.name
        engine, bundle = opening.claim()
        if engine is None or bundle is None:
            return ServingChange(name=name, error=opening.error)
        try:
            self.group.add(name, engine)
        except EngineError as error:
            return ServingChange(name=name, error=str(error))
        self._bundles[name] = bundle
        self._restart_upgrade()
        return ServingChange(name=name)

    def _restart_upgrade(self) -> None:
        """Build for the models that there are now; plans that are built already are in the cache."""
        if self._upgrade is not None:
            self._upgrade.cancel()
        self._upgrade = None
        if self._slow is not None and self._bundles:
            self._upgrade = EngineUpgrade(self._bundles, upgrade_options(self._options, self._slow, self.group))


class _Opening:
    """Open one more bundle in a thread. The owner of the group must stay open until it has finished."""

    def __init__(self, name: str, path: Path, group: EngineGroup, options: GroupOptions) -> None:
        self.name = name
        self.error: str | None = None
        self.cancelled = False
        self.finished = threading.Event()
        self._path, self._group, self._options = path, group, options
        self._engine: SharingEngine | None = None
        self._bundle: Bundle | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="model-opening", daemon=True)
        self._thread.start()

    def claim(self) -> tuple[SharingEngine | None, Bundle | None]:
        """Return the engine, which the caller owns then, and its bundle; or None, and `error` has the reason."""
        engine, self._engine = self._engine, None
        return engine, self._bundle

    def close(self) -> None:
        """Free an engine that was not claimed, now or when it is open."""
        with self._lock:
            self._stop.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        engine, _ = self.claim()
        if engine is not None:
            engine.close()

    def _run(self) -> None:
        try:
            self._bundle = load_bundle(self._path)
            engine = self._open(self._bundle)
            with self._lock:
                if not self._stop.is_set():
                    self._engine = engine
                    return
            engine.close()
        except EngineError as error:
            self.error = str(error)
        except MemoryError:
            self.error = f"{self._path}: not enough memory to open it; raise engine.memory_limit, or use fewer models"
        except Exception as error:
            log.exception("%s: cannot be opened", self._path)
            self.error = f"{self._path}: {type(error).__name__}: {error}"
        finally:
            self.finished.set()

    def _open(self, bundle: Bundle) -> SharingEngine:
        try:
            return open_next(bundle, self._group, self._options, may_build=False)
        except NotBuiltError as error:
            log.info("%s", error)
        owner = self._group.owner
        wanted = replace(
            self._options,
            backend=self._group.backend,
            precision=self._group.precision,
            max_batch=owner.max_batch,
            bank_slots=owner.bank_slots,
        )
        check_encoder(bundle, owner.spec)
        built = build_in_process(bundle, wanted, self._stop)
        if built is None:
            raise EngineError(f"{bundle.spec.id}: not built before the end")
        return open_next(bundle, self._group, self._options, may_build=False)


def open_serving(bundles: Mapping[str, Bundle], options: GroupOptions) -> ServingGroup:
    """Open a group as `open_group` does, but let another backend serve while a slow one compiles.

    Raises what `open_group` raises. If the build fails, the log reports it, and the first engines go on serving.
    """
    try:
        return ServingGroup(bundles, open_group(bundles, options, may_build=False), options)
    except NotBuiltError as error:
        log.info("%s", error)
    order = choose_backend().order
    wanted = options.backend if options.device is None else GPU_BACKEND
    slow = next(name for name in (wanted, *order) if name != "auto" and load_backend(name).SLOW_TO_BUILD)
    stand_in = next((name for name in order if not load_backend(name).SLOW_TO_BUILD), None)
    shown = ", ".join(bundle.spec.id for bundle in bundles.values())
    if stand_in is None:
        log.warning("%s: no other backend is installed that could serve meanwhile", shown)
        return ServingGroup(bundles, open_group(bundles, options), options)
    opened = open_group(bundles, replace(options, backend=stand_in, precision="auto", device=None))
    log.warning(
        "%s: serving on %s while %s compiles; `streamclf compile %s --max-batch %d` ahead of a start avoids that",
        shown,
        opened.group.owner.description,
        slow,
        " ".join(str(bundle.path) for bundle in bundles.values()),
        options.max_batch,
    )
    return ServingGroup(bundles, opened, options, slow)
