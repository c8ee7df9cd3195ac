"""Define positions in the journal, from which a subscription resumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Position:
    """The point up to which a consumer has received everything: `offset`, inclusive, in the journal `epoch`.

    A fleet has a journal on each node: `others` has the offsets in the others, by epoch.
    """

    epoch: str
    offset: int
    others: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, offsets: Mapping[str, int]) -> Position:
        """Return the position with these offsets by epoch; equal ones for equal offsets. `offsets` has at least one."""
        first, *others = sorted(offsets.items())
        return cls(*first, tuple(others))

    @property
    def offsets(self) -> dict[str, int]:
        """The offset in each journal, by epoch; empty at `START`."""
        return {epoch: offset for epoch, offset in (*self.others, (self.epoch, self.offset)) if epoch}

    def covers(self, heads: Mapping[str, int]) -> bool:
        """Return whether everything up to the offsets `heads`, by epoch, has been received."""
        offsets = self.offsets
        return all(offsets.get(epoch, -1) >= head for epoch, head in heads.items())


START: Final = Position("", 0)
"""The oldest event that the journal still holds, in any epoch."""
