"""Decide, node by node, whether a new configuration goes on, and halt where the new one is worse; pure logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from streamclf.fleet.config import RolloutConfig
from streamclf.fleet.messages import Health, Report

LATENCY_FLOOR_MS: Final = 50.0
"""A latency below this is never worse than another one."""
DROPS_ALLOWED: Final = 10
"""So many drops more than before are within the noise of a start."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """How a node served before its change."""

    live: int
    latency_ms: float | None
    drops: int
    """Drops within the last `observe_s`."""


@dataclass(slots=True)
class Rollout:
    """A change of the common configuration from the version `previous` to `target`, one node at a time."""

    target: str
    previous: str
    done: list[str] = field(default_factory=list)
    node: str | None = None
    """The node that changes now."""
    halted: str = ""
    """Why the rollout has halted; the node that was worse is back at `previous`."""
    _baseline: Baseline | None = None
    _began_s: float = 0.0
    _observed_from_s: float | None = None
    _drops_from: int = 0

    def begin(self, node: str, baseline: Baseline, now_s: float) -> None:
        """Change this node next."""
        self.node, self._baseline, self._began_s, self._observed_from_s = node, baseline, now_s, None

    def check(self, report: Report | None, spec: str, config: RolloutConfig, now_s: float) -> bool:
        """Compare the node that changes with how it was; return whether it is done. Sets `halted` if it is worse.

        `report` is None for a node that is lost, and `spec` the specification that it should serve.
        """
        assert self._baseline is not None
        if report is None:
            self.halt("it was lost during its update")
            return False
        expected = min(self._baseline.live, len(report.held))  # streams may have been removed meanwhile
        serves = report.applied == spec and report.health.live >= expected
        if report.error and report.spec == spec:
            self.halt(report.error)
        elif report.fetching:
            self._began_s = now_s  # a large model may take minutes; the node serves the version before meanwhile
        elif self._observed_from_s is None:
            if serves:
                self._observed_from_s, self._drops_from = now_s, report.health.dropped
            elif now_s - self._began_s > config.settle_s:
                self.halt(self._unsettled(report, spec, config.settle_s))
        elif worse := self._worse(report.health, expected, config):
            self.halt(worse)
        else:
            return now_s - self._observed_from_s >= config.observe_s
        return False

    def halt(self, reason: str) -> None:
        """Stop here; the caller returns the node to the version before."""
        self.halted = f"{self.node}: {reason}"

    def finish_node(self) -> None:
        """Note that the node serves the new version as well as the one before."""
        assert self.node is not None
        self.done.append(self.node)
        self.node = None

    def as_dict(self) -> dict[str, Any]:
        """Return the part that must survive a restart: a node that was changing then begins again."""
        kept = asdict(self)
        return {key: kept[key] for key in ("target", "previous", "done", "halted")}

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Rollout:
        """Return a rollout from what `as_dict` returned."""
        return cls(**stored)

    def _unsettled(self, report: Report, spec: str, settle_s: float) -> str:
        if report.applied != spec:
            return f"its service did not apply the new configuration within {settle_s:g} s"
        shown = ", ".join(f"{stream} is {state}" for stream, state in sorted(report.health.not_live.items())[:3])
        assert self._baseline is not None
        return f"{report.health.live} of {self._baseline.live} streams are live after {settle_s:g} s ({shown})"

    def _worse(self, health: Health, expected: int, config: RolloutConfig) -> str:
        before = self._baseline
        assert before is not None
        if health.live < expected:
            return f"{expected - health.live} stream(s) that were live before are not live any more"
        if drops := max(0, health.dropped - self._drops_from - 2 * before.drops - DROPS_ALLOWED):
            return f"it dropped {drops} chunks more than before"
        if health.latency_ms is None or before.latency_ms is None:
            return ""
        limit = max(LATENCY_FLOOR_MS, before.latency_ms * config.max_latency_factor)
        if health.latency_ms > limit:
            return f"its latency (95 %) is {health.latency_ms:.0f} ms, {before.latency_ms:.0f} ms before"
        return ""
