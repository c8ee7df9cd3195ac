"""Run the service of one node for the streams that the controller gives it; without Ray.

Once a second the node reports, and gets its leases and its specification. It measures its leases by its own clock, from
the moment before it sent the report.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engines.errors import EngineError
from streamclf import __version__
from streamclf.config.file_version import file_signature, version_text
from streamclf.errors import StreamclfError
from streamclf.fleet.leases import RATE_MARGIN
from streamclf.fleet.local_status import LocalStatus
from streamclf.fleet.messages import Health, NodeSpec, Orders, Report
from streamclf.fleet.model_store import ModelStore
from streamclf.fleet.node_folder import NodeFolder, missing_file, models_of
from streamclf.fleet.service_handle import ServiceHandle
from streamclf.net.endpoints import local_endpoint
from streamclf.redact import redact
from streamclf.runtime.lease_file import Lease, boot_id, lease_clock_ns, write_leases
from streamclf.units import NS

REPORT_S: Final = 1.0
MOVE_REPORT_S: Final = 0.2
"""Interval of reports while a stream moves from or to this node."""
DRAIN_S: Final = 1.0
"""After a stream has left the configuration, time for its last events to reach the hub before its lease ends."""
LEAVE_S: Final = 15.0
"""Longest time for a stream to leave; then its lease ends, and the hub refuses its events."""
MAX_FAILURES: Final = 3
"""After so many failed starts in a row, the node gives its streams away."""
_BACKOFF_S: Final = (0.5, 2.0, 5.0, 15.0, 30.0)

log = logging.getLogger("fleet")

Ask = Callable[[Report, int], Orders]
"""Send a report with its number; return the orders. Raises `ConnectionError` if the controller cannot be reached."""
Fetch = Callable[[ModelStore, str], None]
"""Fetch the bundle with this hash from the controller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A node as the cluster knows it."""

    name: str
    owner: str
    """Identifies the node in the cluster, also when its agent is started again."""
    host: str
    cpus: float
    gpus: float
    site: str | None
    folder: Path


class Node:
    """One run of a node. One thread calls `step` every `pause_s` until it returns False."""

    def __init__(self, identity: Identity, ask: Ask, fetch: Fetch) -> None:
        self._identity, self._ask, self._fetch = identity, ask, fetch
        self._folder = NodeFolder(identity.folder, identity.name, identity.owner)
        self._folder.remove_old_leases()
        self._models = ModelStore(identity.folder / "models")
        self._session, self._seq = uuid.uuid4().hex, 0
        self._spec: NodeSpec | None = None
        self._tokens: dict[str, Lease] = {}
        self._leaving: dict[str, float] = {}
        """The streams that should stop, and when their leases end at the latest."""
        self._failed: dict[str, str] = {}
        self._written: dict[str, Any] = {}
        self._written_for = self._file_version = ""
        self._service: ServiceHandle | None = None
        self._status: LocalStatus | None = None
        self._failures, self._start_at_s = 0, 0.0
        self._error: str | None = None
        self._lease_fault: str | None = None
        self._fetching: threading.Thread | None = None
        self._problem: str | None = None
        self._stopped = False
        self.pause_s = REPORT_S
        """Time until the next call of `step`."""

    def step(self) -> bool:
        """Report, obey, and watch the service; return False once it has been stopped as ordered."""
        sent_ns = lease_clock_ns()
        self._seq += 1
        try:
            orders = self._ask(self._report(), self._seq)
        except ConnectionError as error:
            self._log_once(f"the controller cannot be reached: {error}")
        else:
            self.pause_s = MOVE_REPORT_S if orders.soon else REPORT_S
            self._log_once(orders.error and f"this node gets no streams: {orders.error}")
            if self._stopped:
                return False
            self._apply(orders, sent_ns)
        self._watch_service()
        return True

    def close(self) -> None:
        """End the service."""
        if self._status:
            self._status.close()
        if self._service:
            self._service.stop()
        self._service = self._status = None

    def _log_once(self, problem: str | None) -> None:
        """Log a problem with the controller when it begins, and not again every second."""
        if problem and problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem

    # Orders

    def _apply(self, orders: Orders, sent_ns: int) -> None:
        if orders.stop:
            self.close()
            self._tokens, self._stopped = {}, True
            return
        if orders.error:
            return  # its leases end by themselves
        expires_ns = sent_ns + int(orders.lease_s * (1 - RATE_MARGIN) * NS)
        now_ns = lease_clock_ns()
        before = self._tokens
        self._tokens = {
            stream: Lease(token, expires_ns, before[stream].granted_ns)
            if stream in before and before[stream].token == token
            else Lease(token, expires_ns, now_ns)
            for stream, token in orders.tokens.items()
        }
        for stream in before.keys() - self._tokens.keys():
            log.warning("stream %s: another node may have it; its lease has ended", stream)
        latest_s = time.monotonic() + LEAVE_S
        self._leaving = {each: self._leaving.get(each, latest_s) for each in orders.drop if each in self._tokens}
        self._end_left_streams()
        self._write_leases(before)
        if orders.spec:
            self._spec = orders.spec
        self._configure()

    def _write_leases(self, before: dict[str, Lease]) -> None:
        """Write the leases for the service. Keep those of `before` if that fails: the service has them until they end.

        Then the node gives its streams away, and goes on to try.
        """
        try:
            write_leases(self._folder.leases, self._tokens)
        except OSError as error:
            now_ns = lease_clock_ns()
            self._tokens = {stream: lease for stream, lease in before.items() if lease.expires_ns > now_ns}
            if self._lease_fault is None:
                self._lease_fault = f"{self._folder.leases}: the leases cannot be written: {error.strerror}"
                log.error("%s", self._lease_fault)
        else:
            self._lease_fault = None

    def _end_left_streams(self) -> None:
        """Give up the leases of streams that have left the configuration some time ago."""
        now = time.monotonic()
        for stream, end_s in [*self._leaving.items()]:
            has_left = stream not in self._written.get("streams", {}) and self._is_applied()
            if has_left and end_s > now + DRAIN_S:
                self._leaving[stream] = now + DRAIN_S
            elif now >= end_s or self._service is None:
                del self._leaving[stream], self._tokens[stream]
                if self._status:
                    self._status.forget(stream)

    def _configure(self) -> None:
        """Write the configuration for the streams that this node should run, and have the service read it."""
        spec = self._spec
        if spec is None or not self._has_models(spec):
            return
        wanted = [stream for stream in spec.streams if stream in self._tokens and stream not in self._leaving]
        self._failed = {stream: reason for stream in wanted if (reason := missing_file(spec.streams[stream]))}
        runs = [stream for stream in wanted if stream not in self._failed]
        key = f"{spec.version} {runs}"
        if key == self._written_for:
            return
        before = self._written
        try:
            self._written = self._folder.write_config(spec, runs, self._models)
        except (OSError, StreamclfError) as error:
            self._error = redact(str(error))
            return
        self._written_for, self._error = key, None
        self._file_version = version_text(file_signature(self._folder.config))
        if self._service and before.get("publish") != self._written["publish"]:
            log.info("the service starts again, because the section publish has changed")
            self.close()
        elif self._service:
            self._service.reload()
        self._failures, self._start_at_s = 0, 0.0

    def _has_models(self, spec: NodeSpec) -> bool:
        """Return whether all bundles are here; fetch the next one in a thread if not."""
        missing = [model for model in models_of(spec) if not self._models.has(model)]
        if missing and (self._fetching is None or not self._fetching.is_alive()):
            self._fetching = threading.Thread(target=self._fetch_model, args=(missing[0],), daemon=True)
            self._fetching.start()
        return not missing

    def _fetch_model(self, model: str) -> None:
        try:
            self._fetch(self._models, model)
            log.info("model %s fetched", model[:12])
        except (OSError, StreamclfError, EngineError) as error:
            self._error = redact(f"model {model[:12]} cannot be fetched: {error}")
            log.error("%s", self._error)
            threading.Event().wait(5.0)  # a failed fetch is tried again, and not at once

    # The service

    def _watch_service(self) -> None:
        """Start the service, and start it again after a failure, with growing pauses."""
        if self._service is None:
            if self._written and not self._stopped and time.monotonic() >= self._start_at_s:
                self._service = ServiceHandle(self._folder.config, lock_fd=self._folder.lock_fd)
        elif (code := self._service.exit_code) is not None:
            self._error = (
                self._service.error or f"the service ended with code {code}; the log of the node has the reason"
            )
            self.close()
            self._start_at_s = time.monotonic() + _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
            self._failures += 1
            log.error("the service has ended: %s", self._error)
        elif self._service.endpoints and self._status is None:
            key = self._folder.agent_key if "keys" in self._written["publish"] else None
            server = Path(self._written["publish"]["keys"]) if key else None
            self._status = LocalStatus(self._service.endpoints["events"], key, server)
            self._failures, self._error = 0, None
        if "allow" in self._written.get("publish", {}) and self._spec:
            self._folder.refresh_allowed(Path(self._spec.common["publish"]["allow"]))

    def _is_applied(self) -> bool:
        heartbeat = self._status.heartbeat if self._status else None
        configuration = heartbeat.configuration if heartbeat else None
        return bool(configuration and configuration.applied and configuration.version == self._file_version)

    def _refusal(self) -> str | None:
        """Return why the service refused the configuration that was written last."""
        heartbeat = self._status.heartbeat if self._status else None
        configuration = heartbeat.configuration if heartbeat else None
        if configuration and not configuration.applied and configuration.version == self._file_version:
            return f"the service refuses its configuration: {configuration.reason}"
        return None

    # Reports

    def _report(self) -> Report:
        identity, spec = self._identity, self._spec
        broken = self._failures >= MAX_FAILURES and self._service is None
        if broken:
            self._tokens, self._leaving = {}, {}
        broken = broken or (self._lease_fault is not None and not self._tokens)
        is_written = spec is not None and self._written_for.startswith(f"{spec.version} ")
        runs = [stream for stream in self._tokens if stream not in self._leaving]
        heartbeat = self._status.heartbeat if self._status else None
        endpoints = self._service.endpoints if self._service else {}
        return Report(
            session=self._session,
            node=self._folder.name,
            boot=f"{boot_id()} {self._folder.identity}",
            host=identity.host,
            version=__version__,
            cpus=identity.cpus,
            gpus=identity.gpus,
            site=identity.site,
            held={stream: lease.token for stream, lease in self._tokens.items()},
            failed=self._failed,
            spec=spec.version if spec else "",
            applied=spec.version if spec and is_written and self._is_applied() else "",
            fetching=bool(spec and any(not self._models.has(model) for model in models_of(spec))),
            error=self._lease_fault or self._error or self._refusal(),
            broken=broken,
            stopped=self._stopped,
            events=advertised(endpoints.get("events"), identity.host),
            replay=advertised(endpoints.get("replay"), identity.host),
            epoch=heartbeat.epoch if heartbeat else None,
            head=heartbeat.head if heartbeat else None,
            health=self._status.health(runs) if self._status else Health(not_live=dict.fromkeys(runs, "starting")),
        )


def advertised(endpoint: str | None, host: str) -> str | None:
    """Return a bound endpoint as other machines reach it: one that is bound to every address has that of `host`."""
    if endpoint is None or local_endpoint(endpoint) == endpoint:
        return endpoint
    return f"tcp://{f'[{host}]' if ':' in host else host}:{endpoint.rpartition(':')[2]}"
