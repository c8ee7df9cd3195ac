"""Keep all child processes of one service: the hub, the classifiers, the captures and the outlets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from streamclf.config.publish import PublishConfig
from streamclf.events.device_status import DeviceStatus
from streamclf.runtime.liveness import LivenessTable
from streamclf.supervisor.child import Child, ChildEvent
from streamclf.supervisor.classifiers import ClassifierSet
from streamclf.supervisor.engine_process import EngineProcess, describe_device
from streamclf.supervisor.hub_process import HubProcess, Ready
from streamclf.supervisor.outlets import OutletSet, make_outlet_access
from streamclf.supervisor.stopping import OUTLET_STOP_S, stop_children, wait_until_finished
from streamclf.supervisor.streams import StreamSet, watched_rows_of

START_S = 120.0
"""Time until a child first extends its deadline: interpreter, imports, and for the hub a scan of a large journal."""


class ProcessSet:
    """All child processes, by name; `table` has their liveness deadlines.

    `notify` gets the events of the children, `kill_later` a child that was asked to stop, and `report` publishes why a
    stream is offline.
    """

    def __init__(
        self,
        table: LivenessTable,
        runtime: Path,
        publish: PublishConfig,
        notify: Callable[[ChildEvent], None],
        *,
        kill_later: Callable[[Child], None],
        report: Callable[[str, str], None],
    ) -> None:
        """Prepare the processes; `runtime` is a directory that only this user can read."""
        self.link = f"ipc://{runtime}/link"
        self.table = table
        self._kill_later = kill_later
        access = make_outlet_access(publish.keys)
        self.hub = HubProcess(self.link, self.table, notify, access)
        self.classifiers = ClassifierSet(self.link, self.table, notify, start=self.start, restart=self._restart)
        self.outlets = OutletSet(self.table, notify, journal=publish.journal, access=access, start_child=self.start)
        self.streams = StreamSet(
            self.link,
            self.table,
            notify,
            send=self.classifiers.send,
            start_child=self.start,
            report=report,
            may_deal=self.classifiers.may_deal,
        )

    def child(self, name: str) -> Child | None:
        """Return the child with this name."""
        owner = self.streams.of_child(name) or self.outlets.of_child(name) or self.classifiers.of_child(name)
        return owner.child if owner else self.hub.child if name == self.hub.child.name else None

    @property
    def all(self) -> list[Child]:
        """Every child."""
        captures = [stream.child for stream in self.streams.all]
        return [self.hub.child, *self.classifiers.children, *captures, *self.outlets.children]

    @property
    def watched_rows(self) -> list[tuple[str, int]]:
        """(name, row of the liveness table) of all children that run and are not stopping."""
        return [
            *self.hub.watched_rows,
            *self.classifiers.watched_rows,
            *watched_rows_of(self.streams.all),
            *self.outlets.watched_rows,
        ]

    @property
    def shared_names(self) -> set[str]:
        """The names of the processes on which streams depend: the hub, and the classifiers that are not parked."""
        return {self.hub.child.name, *(each.name for each in self.classifiers.all if not each.is_parked)}

    @property
    def device_statuses(self) -> dict[str, DeviceStatus]:
        """The state of each GPU that the configuration lists, by its number."""
        views, by_device = self.streams.count_by_process(), defaultdict(list)
        for engine in self.classifiers.on_gpus:
            by_device[str(engine.device)].append(engine)
        return {device: describe_device(engines, views) for device, engines in by_device.items()}

    @property
    def ready(self) -> Ready | None:
        """Endpoints and engines for the caller; None until the hub and all models have been ready."""
        hub, engines = self.hub.report, self.classifiers.engines
        if hub is None or engines is None:
            return None
        return Ready(events=hub.events, replay=hub.replay, engine=engines)

    def start(self, child: Child) -> None:
        """Start a child whose job is set; that of a classifier is set here."""
        engine = self.classifiers.of_child(child.name)
        if engine:
            self.classifiers.prepare(engine)
        owner = engine or self.streams.of_child(child.name) or self.outlets.of_child(child.name)
        self.table.start(owner.row if owner else self.hub.row, START_S)
        child.start()

    def settle_classifier(self, engine: EngineProcess) -> None:
        """Start a classifier again that was asked to stop and has ended, or forget it if it was removed."""
        if engine.is_removed:
            self.classifiers.forget(engine)
        else:
            self.start(engine.child)

    def stop(self, *, finish_outlets: bool, is_asked_to_stop: Callable[[], bool]) -> None:
        """Stop all children in the order in which events pass through them."""
        stop_children([stream.child for stream in self.streams.all])
        stop_children(self.classifiers.children)
        if finish_outlets:
            wait_until_finished(self.outlets.finish(), is_asked_to_stop)
        stop_children(self.outlets.children, OUTLET_STOP_S)
        stop_children([self.hub.child])
        self.streams.close()
        self.table.close()

    def _restart(self, engine: EngineProcess) -> None:
        self.classifiers.mark_down(engine)
        self.streams.classifier_gone(engine.name)
        engine.child.request_stop()
        if engine.child.running:
            self._kill_later(engine.child)
        else:
            self.settle_classifier(engine)
