"""Compare two configurations that can be served: what has changed, and what that change needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engines.bundle import Bundle
from streamclf.config.service import ServiceConfig
from streamclf.config.views import MODEL_KEY
from streamclf.supervisor.engine_groups import ModelGroup, group_models


@dataclass(frozen=True, slots=True)
class CheckedConfig:
    """A configuration that can be served, with its bundles by the name of the model."""

    config: ServiceConfig
    bundles: Mapping[str, Bundle]

    @property
    def groups(self) -> list[ModelGroup]:
        """The engine groups of all models."""
        return group_models(self.bundles, self.config.engine.precision)

    def differences(self, old: CheckedConfig) -> str:
        """Summarise the changes since `old`; empty if nothing has changed."""
        streams, before = self.config.streams, old.config.streams
        added, removed = sorted(streams.keys() - before.keys()), sorted(before.keys() - streams.keys())
        changed = sorted(name for name in streams.keys() & before.keys() if streams[name] != before[name])
        parts = [
            f"{change} {', '.join(names)}"
            for change, names in (("added", added), ("removed", removed), ("changed", changed))
            if names
        ]
        if outlets := self._changed_outlets(old):
            parts.append(f"outlets {', '.join(outlets)}")
        keys = ("model", "models", "engine", "actions", "unknown_below", "timezone", "publish", "clips", "examples")
        parts += [key for key in keys if getattr(self.config, key) != getattr(old.config, key)]
        files = [name for name in self.bundles.keys() & old.bundles.keys() if self._has_other_files(old, name)]
        parts += [f"the files of {name or MODEL_KEY}" for name in sorted(files)]
        return "; ".join(parts)

    def _has_other_files(self, old: CheckedConfig, name: str) -> bool:
        """Return whether the bundle of a model that stays configured has changed on disk."""
        is_same = self.config.all_models[name] == old.config.all_models[name]
        return is_same and self.bundles[name] != old.bundles[name]

    def _changed_outlets(self, old: CheckedConfig) -> list[str]:
        """Return the names of the outlets that were added, removed or changed."""
        new, before = ({each.full_name: each for each in each.config.outlets.all} for each in (self, old))
        return sorted(name for name in new.keys() | before.keys() if new.get(name) != before.get(name))

    def needs_new_engines(self, old: CheckedConfig) -> bool:
        """Return whether the open engines of `old` cannot serve this configuration, whatever its models are."""
        # These keys concern the next classifier's bank, single streams, or the number of processes, not an open engine.
        irrelevant = {"spare_streams": 0, "adaptive": False, "max_staleness_ms": None, "devices": None}
        engines = [each.config.engine.model_copy(update=irrelevant) for each in (old, self)]
        return engines[0] != engines[1]
