"""Define what teaching reports while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

Stage = Literal["read", "measure", "fit", "write"]


class Listener(Protocol):
    """Receive the progress of teaching. All texts come from outside: escape them where they are shown."""

    def start(self, base: str, labels: Mapping[str, int], films: int) -> None:
        """Receive the base's id, the number of clips found for each label, and the number of films to read."""

    def progress(self, stage: Stage, share: float, film: str | None = None, number: int = 0) -> None:
        """Receive the share of the whole work that is done, 0 to 1, and in `read` the film that is read."""

    def fault(self, film: str, reason: str) -> None:
        """Receive a film that is passed over, and the reason in one line."""

    def note(self, text: str) -> None:
        """Receive a remark in one line."""
