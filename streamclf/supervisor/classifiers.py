"""Keep the classifier processes of a running service, one for each engine group and GPU, and change their models."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from pydantic import TypeAdapter, ValidationError

from streamclf.config.engine import EngineConfig
from streamclf.config.views import MODEL_KEY
from streamclf.runtime.jobs import (
    ClassifierChange,
    ClassifierJob,
    ClassifierLoad,
    ClassifierReady,
    ClassifierReport,
    ModelReport,
)
from streamclf.runtime.liveness import LivenessTable
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.child import Child, ChildEvent
from streamclf.supervisor.engine_groups import CLASSIFIER, EngineKey, ModelGroup, process_name
from streamclf.supervisor.engine_process import EngineProcess, failures, names_of
from streamclf.supervisor.stream_plan import count_feeds

DEAL_WAIT_S: Final = 10.0
"""After the first process of an engine group is ready, streams wait so long for those that were started with it.

Otherwise the first process would get all streams, and hand some of them over a few seconds later.
"""

log = logging.getLogger("service")

_READY: Final[TypeAdapter[ClassifierReady | ClassifierReport]] = TypeAdapter(ClassifierReady)
_REPORT: Final[TypeAdapter[ClassifierReady | ClassifierReport]] = TypeAdapter(ClassifierReport)


class ClassifierSet:
    """All classifier processes of the service.

    A process continues while its group has a model, whatever other models join or leave the group. `restart` is called
    with a process that must stop, and start again unless it was removed; `start` with one that must start.
    """

    def __init__(
        self,
        link: str,
        table: LivenessTable,
        notify: Callable[[ChildEvent], None],
        *,
        start: Callable[[Child], None],
        restart: Callable[[EngineProcess], None],
    ) -> None:
        self._link, self._table, self._notify = link, table, notify
        self._start, self._restart = start, restart
        self._processes: dict[str, EngineProcess] = {}
        self._engine = EngineConfig()

    def of_child(self, child: str) -> EngineProcess | None:
        """Return the process with this name."""
        return self._processes.get(child)

    @property
    def all(self) -> list[EngineProcess]:
        """Every process that serves models; those that were removed are left out."""
        return [process for process in self._processes.values() if not process.is_removed]

    @property
    def children(self) -> list[Child]:
        """The children of all processes, also of those that were removed and have not ended."""
        return [process.child for process in self._processes.values()]

    @property
    def watched_rows(self) -> list[tuple[str, int]]:
        """(name, row of the liveness table) of the processes that run and are not stopping."""
        return [
            (each.name, each.row) for each in self._processes.values() if each.child.running and not each.child.stopping
        ]

    @property
    def names(self) -> dict[EngineKey, str]:
        """The name of each engine group."""
        return {process.group.key: process.group_name for process in self.all}

    def may_deal(self, group: str) -> bool:
        """Return whether streams may be dealt to the processes of a group that are ready, without the others."""
        members = [each for each in self.all if each.group_name == group]
        first_s = min((each.ready_s for each in members if each.is_ready), default=math.inf)
        return time.monotonic() - first_s > DEAL_WAIT_S or not any(each.is_expected for each in members)

    @property
    def can_serve(self) -> bool:
        """Whether each engine group has a process that is ready, and no process is on trial."""
        ready = {process.group_name for process in self.all if process.is_ready}
        return not any(each.is_on_trial or each.group_name not in ready for each in self.all)

    @property
    def on_gpus(self) -> list[EngineProcess]:
        """The processes whose GPUs are listed in the configuration."""
        return [process for process in self.all if process.device is not None]

    @property
    def is_on_trial(self) -> bool:
        """Whether a process, or a model that was added to one, has still to show that it can serve."""
        return any(process.is_on_trial or process.opening for process in self.all)

    @property
    def engines(self) -> str | None:
        """The engines, for people; None until every process has been ready, or parked, and one has been ready."""
        if not all(process.was_ever_ready or process.is_parked for process in self.all):
            return None
        ready = [process for process in self.all if process.was_ever_ready]
        if not ready:
            return None
        if len(self.all) == 1 or len({process.engine for process in ready}) == 1 == len(self.names):
            return ready[0].engine
        return "; ".join(f"{names_of(process.group.bundles)}: {process.engine}" for process in ready)

    @property
    def missing(self) -> list[str]:
        """The models that are configured and cannot be opened, by the names that lists of models have for them."""
        working = {process.group_name for process in self.all if not process.is_parked}
        missing = (
            name or MODEL_KEY
            for process in self.all
            for name in process.group.bundles
            if process.group_name not in working or (process.is_ready and name not in process.serving)
        )
        return list(dict.fromkeys(missing))

    def apply(self, new: CheckedConfig, *, new_engine: bool, on_trial: bool) -> None:
        """Change to the models of `new`. `finish` then removes models, after the streams have changed.

        `new_engine`: options changed that an open engine cannot change. With `on_trial`, the processes that start must
        show that they can serve.
        """
        self._engine = new.config.engine
        devices: tuple[int | None, ...] = self._engine.devices or (None,)
        # When one GPU is lost, the others have room for its streams.
        counts, others = count_feeds(new), max(1, len(devices) - 1)
        feeds = {group.key: math.ceil(counts[group.key] / others) for group in new.groups}  # 0: no stream uses it
        present = {(process.group.key, process.device): process for process in self.all}
        names_of_groups = self.names
        waiting: list[tuple[ModelGroup, int | None]] = []
        for group, device in itertools.product(new.groups, devices):
            if process := present.pop((group.key, device), None):
                self._continue(process, group, feeds[group.key], new_engine=new_engine, on_trial=on_trial)
            else:
                waiting.append((group, device))
        for group, device in waiting:
            # A model whose encoder has changed keeps its process, which starts again with the new bundle.
            names = group.bundles.keys()
            replaced = next(
                (each for each in present.values() if each.device == device and each.group.bundles.keys() & names), None
            )
            if replaced:
                del present[replaced.group.key, device]
                replaced.group, replaced.feeds = group, feeds[group.key]
                names_of_groups[group.key] = replaced.group_name
                self._start_again(replaced, on_trial=on_trial)
            else:
                name = names_of_groups.setdefault(group.key, self._new_name(group))
                self._create(group, name, device, feeds[group.key], on_trial=on_trial)
        for process in present.values():
            process.is_removed = True
            self._start_again(process, on_trial=False)

    def finish(self) -> None:
        """Remove the models that are not configured any more from the processes that go on."""
        for process in self.all:
            self._remove_models(process)

    def prepare(self, process: EngineProcess) -> None:
        """Set the job of the process's next run, just before it starts."""
        bundles, engine = dict(process.group.bundles), self._engine
        process.capacity = process.feeds + engine.spare_streams
        process.serving, process.opening, process.is_ready = bundles, set(), False
        process.child.pass_fds = [self._table.fd]
        process.child.job = ClassifierJob(
            link=self._link,
            liveness_fd=self._table.fd,
            liveness_row=process.row,
            memory_limit=engine.memory_limit,
            producer=process.name,
            bundles={name: bundle.path for name, bundle in bundles.items()},
            engine=engine,
            device=process.device,
            streams=process.feeds,
            capacity=process.capacity,
        )

    def record_line(self, process: EngineProcess, line: bytes) -> ClassifierReady | ClassifierReport | None:
        """Record a report of the process, and return it; None for a line that is no report."""
        if process.child.stopping:
            return None
        try:
            report = (_REPORT if process.is_ready else _READY).validate_json(line)
        except ValidationError:  # a library of inference has written to standard output
            log.debug("%s: no report: %r", process.name, line[:200])
            return None
        match report:
            case ClassifierReady():
                process.is_ready, process.is_on_trial = True, False
                process.is_expected, process.ready_s, process.lost = False, time.monotonic(), ""
                process.engine = report.engine
                self._add_models(process)
            case ModelReport():
                process.opening.discard(report.model)
            case ClassifierLoad():
                process.load = report
        for name in failures(report):
            process.serving.pop(name, None)
        return report

    def mark_down(self, process: EngineProcess) -> bool:
        """Record that the process is ending or has ended; return whether it was ready."""
        was_ready, process.is_ready = process.is_ready, False
        process.load = None
        process.opening.clear()
        return was_ready

    def forget(self, process: EngineProcess) -> None:
        """Release a process that was removed and has ended."""
        self._table.release(process.row)
        del self._processes[process.name]

    def send(self, name: str, change: ClassifierChange, fds: Sequence[int] = ()) -> bool:
        """Send `change` to the process `name`; return False if it is not ready. Once ready, it gets the whole state."""
        process = self._processes.get(name)
        if process is None or not process.is_ready:
            return False
        if process.child.send(change, fds):
            return True
        self.mark_down(process)
        if process.child.running:
            process.child.kill_because("does not read its messages")
        return False

    def _new_name(self, group: ModelGroup) -> str:
        """Return a name for a new engine group."""
        used = {process.group_name for process in self._processes.values()}
        names = [process_name(model) for model in group.bundles]
        first = next(iter(group.bundles))
        names += [process_name(first, number) for number in range(2, len(used) + 3)]
        return next(name for name in names if name not in used)

    def _create(self, group: ModelGroup, group_name: str, device: int | None, feeds: int, *, on_trial: bool) -> None:
        name = base = group_name if device is None else f"{group_name}@{device}"
        for number in itertools.count(2):  # a process that was removed has the name until it has ended
            if name not in self._processes:
                break
            name = f"{base}-{number}"
        label = name.removeprefix(CLASSIFIER).replace("[", "").replace("]", "") or None
        process = EngineProcess(
            child=Child(name, "streamclf.classifier", self._notify, models=label, reports=True),
            row=self._table.claim(),
            group=group,
            group_name=group_name,
            device=device,
            feeds=feeds,
            is_on_trial=on_trial,
        )
        self._processes[name] = process
        self._start(process.child)

    def _continue(
        self, process: EngineProcess, group: ModelGroup, feeds: int, *, new_engine: bool, on_trial: bool
    ) -> None:
        process.group, process.feeds = group, feeds
        if new_engine:
            self._start_again(process, on_trial=on_trial)
        elif feeds > process.capacity and not process.child.stopping:
            log.warning(
                "%s: %d streams or regions, but it serves at most %d: it restarts, and each loses a window; "
                "engine.spare_streams says how many can join without a restart",
                process.name,
                feeds,
                process.capacity,
            )
            self._start_again(process, on_trial=False)
        elif process.is_ready:
            self._add_models(process)

    def _start_again(self, process: EngineProcess, *, on_trial: bool) -> None:
        process.is_on_trial = on_trial
        process.is_expected = True
        self._restart(process)

    def _add_models(self, process: EngineProcess) -> None:
        """Have the process open the models that it does not serve yet, and those whose bundles have changed."""
        bundles = process.group.bundles
        added = {name: bundle for name, bundle in bundles.items() if process.serving.get(name) != bundle}
        if added and self.send(process.name, ClassifierChange(add_models={n: b.path for n, b in added.items()})):
            process.serving |= added
            process.opening |= added.keys()

    def _remove_models(self, process: EngineProcess) -> None:
        removed = tuple(name for name in process.serving if name not in process.group.bundles)
        if removed and self.send(process.name, ClassifierChange(remove_models=removed)):
            process.serving = {name: each for name, each in process.serving.items() if name not in removed}
            process.opening -= set(removed)
