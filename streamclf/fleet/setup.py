"""Hold a fleet's configuration in the form in which the controller keeps it and nodes get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from streamclf.fleet.config import FleetConfig, FleetFile, digest
from streamclf.fleet.placement import Demand

MODEL_PREFIX = "sha256:"
"""A model with this prefix is a bundle that nodes fetch by its hash."""


@dataclass
class Setup:
    """The configuration of a fleet. The values of `commons` and `streams` may contain passwords."""

    fleet: FleetConfig
    commons: dict[str, Mapping[str, Any]]
    """The common configuration of the nodes by its version: `target`, and the one before during a rolling update."""
    target: str
    streams: Mapping[str, Mapping[str, Any]]
    demands: Mapping[str, Demand]

    @cached_property
    def digests(self) -> dict[str, str]:
        """A digest of each stream's keys."""
        return {stream: digest(keys) for stream, keys in self.streams.items()}

    @classmethod
    def of(cls, file: FleetFile, hashes: Mapping[str, str]) -> Setup:
        """Return the setup of a file; `hashes` has the hash of each bundle by the name of its model."""
        common = dict(file.common)
        named = {name: MODEL_PREFIX + value for name, value in hashes.items()}
        if "" in named:
            common["model"] = named.pop("")
        if named:
            common["models"] = {**common["models"], **named}
        target = digest(common)
        return cls(file.fleet, {target: common}, target, file.streams, file.demands)

    def differences(self, old: Setup) -> str:
        """Summarise the changes since `old`."""
        added, removed = self.streams.keys() - old.streams.keys(), old.streams.keys() - self.streams.keys()
        changed = {name for name in self.streams.keys() & old.streams.keys() if self.digests[name] != old.digests[name]}
        parts = [
            f"{len(names)} stream(s) {verb}"
            for verb, names in (("added", added), ("removed", removed), ("changed", changed))
            if names
        ]
        if self.target != old.target:
            parts.append("the configuration of the nodes changes, one node after the other")
        if self.fleet != old.fleet or (self.demands != old.demands and not parts):
            parts.append("the placement changes")
        return "; ".join(parts) or "nothing has changed: the fleet is up with this configuration already"

    def as_dict(self) -> dict[str, Any]:
        """Return the values as JSON has them."""
        return {
            "fleet": self.fleet.model_dump(mode="json"),
            "commons": self.commons,
            "target": self.target,
            "streams": self.streams,
            "demands": {name: asdict(demand) for name, demand in self.demands.items()},
        }

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Setup:
        """Return the setup from what `as_dict` returned."""
        return cls(
            FleetConfig.model_validate(stored["fleet"]),
            dict(stored["commons"]),
            stored["target"],
            stored["streams"],
            {name: Demand(**demand) for name, demand in stored["demands"].items()},
        )
