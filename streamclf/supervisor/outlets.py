"""Keep the outlets of a running service, and change each from its present options to its configured options.

An outlet never ends the service: its process starts again after a crash, and is parked after several, as a capture
process is. Its position is stored beside the journal, so it continues where it was.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import zmq

from streamclf.config.outlet_options import OutletConfig
from streamclf.events.outlet_status import MAX_REASON_CHARS, OutletState, OutletStatus, parse_status_line
from streamclf.net.curve_keys import load_certificate
from streamclf.net.endpoints import local_endpoint
from streamclf.runtime.child import EXIT_FAILED
from streamclf.runtime.jobs import HubReady, OutletAccess, OutletChange, OutletJob
from streamclf.runtime.liveness import LivenessTable
from streamclf.supervisor.child import Child, ChildEvent

MODULE: Final = "streamclf.subscribers"

log = logging.getLogger("service")


def make_outlet_access(keys: Path | None) -> OutletAccess | None:
    """Make the keys of this run's outlets, for a service with the secret key file `keys`; None without keys.

    They exist in memory only, and the hub allows them besides the keys of its allow-list.
    """
    if keys is None:
        return None
    public, secret = zmq.curve_keypair()
    server = load_certificate(keys, secret=True).public
    return OutletAccess(public=public.decode(), secret=secret.decode(), server=server.decode())


def _starting() -> OutletStatus:
    return OutletStatus(state="starting", since=datetime.now(timezone.utc))


@dataclass(slots=True, kw_only=True)
class Outlet:
    """One outlet in its present state."""

    config: OutletConfig
    target: OutletConfig | None
    """The options to change to: the same as `config` if no change is under way, None if the outlet must be removed."""
    row: int
    """Its row of the liveness table."""
    child: Child
    status: OutletStatus = field(default_factory=_starting)


class OutletSet:
    """All outlets of the service. They start once the hub is ready; `start_child` starts a process."""

    def __init__(
        self,
        table: LivenessTable,
        notify: Callable[[ChildEvent], None],
        *,
        journal: Path,
        access: OutletAccess | None,
        start_child: Callable[[Child], None],
    ) -> None:
        self._table, self._notify, self._start_child = table, notify, start_child
        self._folder = journal.with_name(f"{journal.name}.outlets")
        self._access = access
        self._events = ""
        self._begin: tuple[str, int] | None = None
        self._outlets: dict[str, Outlet] = {}
        self.changed = False
        """Whether `statuses` has changed; the caller resets it."""

    def of_child(self, child: str) -> Outlet | None:
        """Return the outlet whose process has this name."""
        return next((each for each in self._outlets.values() if each.child.name == child), None)

    @property
    def children(self) -> list[Child]:
        """The process of every outlet."""
        return [each.child for each in self._outlets.values()]

    @property
    def watched_rows(self) -> list[tuple[str, int]]:
        """(name, row of the liveness table) of the outlets that run and are not stopping."""
        return [
            (each.child.name, each.row)
            for each in self._outlets.values()
            if each.child.running and not each.child.stopping
        ]

    @property
    def statuses(self) -> dict[str, OutletStatus]:
        """The state of each outlet, by name."""
        return {name: each.status for name, each in self._outlets.items()}

    def open(self, ready: HubReady, configs: Iterable[OutletConfig]) -> None:
        """Start the outlets, after the hub was ready for the first time.

        New outlets begin with the events after those that the hub's journal holds now.
        """
        self._events = local_endpoint(ready.events)
        self._begin = (ready.epoch, ready.head)
        self.apply(configs)
        self._begin = None  # an outlet that is added later begins with the events of that time

    def apply(self, configs: Iterable[OutletConfig]) -> list[Child]:
        """Change the outlets to `configs`; unchanged outlets continue. Return the children that were asked to stop."""
        if not self._events:
            return []
        wanted = {each.full_name: each for each in configs}
        stopping: list[Child] = []
        for name, outlet in list(self._outlets.items()):
            outlet.target = wanted.get(name)
            if outlet.target == outlet.config and not outlet.child.stopping:
                continue
            outlet.child.request_stop()
            if outlet.child.running:
                stopping.append(outlet.child)
            else:
                self.settle(outlet)
        for name, config in wanted.items():
            if name not in self._outlets:
                child = Child(f"outlet[{name}]", MODULE, self._notify, outlet=name, reports=True)
                self._outlets[name] = Outlet(config=config, target=config, row=self._table.claim(), child=child)
                self._start(self._outlets[name])
        return stopping

    def settle(self, outlet: Outlet) -> None:
        """Change an outlet to its target, after its process was asked to stop and has ended."""
        if outlet.target is None:
            self._table.release(outlet.row)
            del self._outlets[outlet.config.full_name]
            self.changed = True
            return
        outlet.config = outlet.target
        self._start(outlet)

    def restart_parked(self) -> None:
        """Start outlets that are parked: the cause of their crashes may have been repaired."""
        for outlet in self._outlets.values():
            if outlet.status.state == "parked" and not outlet.child.running and not outlet.child.stopping:
                self._start_child(outlet.child)

    def record_line(self, outlet: Outlet, line: bytes) -> None:
        """Record the status that the outlet's process reports."""
        if (status := parse_status_line(line)) and status != outlet.status:
            outlet.status, self.changed = status, True

    def record_end(self, outlet: Outlet, state: OutletState, reason: str, code: int) -> str:
        """Record that the process has ended; return the reason, with the error that it reported before."""
        last = outlet.status
        if code == EXIT_FAILED and last.reason and last.state == "waiting":
            reason = last.reason
        outlet.status = replace(last, state=state, reason=reason[:MAX_REASON_CHARS], since=datetime.now(timezone.utc))
        self.changed = True
        return reason

    def finish(self) -> list[Child]:
        """Ask every outlet to end once it has handed on what is in the journal; return those that were asked."""
        asked = [each for each in self.children if each.running and each.send(OutletChange())]
        for child in asked:
            child.stopping = True
        return asked

    def _start(self, outlet: Outlet) -> None:
        config = outlet.config
        if config.STORES_POSITION:
            with contextlib.suppress(OSError):  # the outlet reports that its folder is missing
                self._folder.mkdir(mode=0o700, exist_ok=True)
        outlet.child.job = OutletJob(
            liveness_fd=self._table.fd,
            liveness_row=outlet.row,
            memory_limit=config.memory_limit,
            name=config.full_name,
            kind=config.KIND,
            options=config.model_dump(mode="json"),
            events=self._events,
            access=self._access,
            position=self._folder / config.full_name if config.STORES_POSITION else None,
            begin=self._begin,
        )
        outlet.child.pass_fds = [self._table.fd]
        outlet.status, self.changed = _starting(), True
        self._start_child(outlet.child)
