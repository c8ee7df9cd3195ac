"""Define positions in the journal, from which a subscription resumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Position:
    """The point up to which a consumer has received everything: `offset`, inclusive, in the journal `epoch`."""

    epoch: str
    offset: int


START: Final = Position("", 0)
"""The oldest event that the journal still holds, in any epoch."""
