"""The hop of an adaptive stream in its status: predictions tell it, statuses come from another process. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from streamclf.events.types import MAX_HOP, Draft

MAX_STREAMS: Final = 1024


class Hops:
    """Puts the hop of a stream's latest prediction into its statuses, and repeats the last one when the hop changes."""

    def __init__(self) -> None:
        self._hops: dict[str, int] = {}
        self._statuses: dict[str, Mapping[str, Any]] = {}

    def admit(self, draft: Draft) -> list[Draft]:
        """What to journal for a draft: itself, a status with the hop, and behind a prediction perhaps such a status."""
        stream = draft.stream
        if draft.type == "status":
            self._statuses.pop(stream, None)
            self._statuses[stream] = draft.body
            if len(self._statuses) > MAX_STREAMS:
                gone = next(iter(self._statuses))
                del self._statuses[gone]
                self._hops.pop(gone, None)
            return [self._status(stream)]
        if draft.type != "prediction" or stream not in self._statuses:
            return [draft]
        hop = draft.body.get("hop")
        if type(hop) is not int or not 1 <= hop <= MAX_HOP:
            hop = None
        if hop == self._hops.get(stream):
            return [draft]
        if hop is None:
            del self._hops[stream]
        else:
            self._hops[stream] = hop
        return [draft, self._status(stream)]

    def _status(self, stream: str) -> Draft:
        body = dict(self._statuses[stream])
        if stream in self._hops:
            body["hop"] = self._hops[stream]
        return Draft("status", stream, body)
