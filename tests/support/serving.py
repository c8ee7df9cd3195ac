"""Serve engines that a test has opened, as the classifier process serves those of a bundle."""

from __future__ import annotations

from typing import Any

from engines.group import EngineGroup, GroupOptions, OpenedGroup
from engines.serving import ServingGroup


def serve_engines(engines: dict[str, Any]) -> ServingGroup:
    """Return a group of `engines` by the name of their model; the first one encodes, and they are not checked again."""
    (name, owner), *others = engines.items()
    group = EngineGroup(name, owner)
    for each, engine in others:
        group.add(each, engine)
    return ServingGroup({}, OpenedGroup(group=group), GroupOptions())


class _ReadyUpgrade:
    """Stand for an `engines.background_upgrade.EngineUpgrade` that has succeeded."""

    def __init__(self, group: EngineGroup) -> None:
        self._group: EngineGroup | None = group

    @property
    def is_ready(self) -> bool:
        return self._group is not None

    def claim(self) -> EngineGroup | None:
        group, self._group = self._group, None
        return group

    def cancel(self) -> None:
        """Do nothing: nothing is under way."""

    close = cancel


def upgrade_to(serving: ServingGroup, engines: dict[str, Any]) -> None:
    """Let the group change to `engines` at its next `poll`."""
    ((name, owner),) = engines.items()
    serving._upgrade = _ReadyUpgrade(EngineGroup(name, owner))  # type: ignore[assignment]
