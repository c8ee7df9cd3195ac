"""Each start of an action has one end, also when the process that should have sent it was killed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from streamclf.events.drafts import Draft
from streamclf.events.types import MAX_HOP

SILENT_BEATS: Final = 5
"""Heartbeats that a producer may be silent (it says hello in each) before its actions are taken to be over."""


@dataclass(slots=True)
class _Open:
    owner: str
    body: dict[str, Any]
    silent_beats: int = 0


class OpenActions:
    """The actions that go on, each with the life of the producer that started it. Pure; the hub keeps `stored`."""

    def __init__(self, stored: bytes | None = None) -> None:
        self._open: dict[tuple[str, str], _Open] = {}
        for stream, owner, body in orjson.loads(stored) if stored else []:
            self._open[stream, body["label"]] = _Open(owner, body)
        self.changed = False
        """Whether `stored` differs from what was stored last; the hub takes it back once that is committed."""

    @property
    def stored(self) -> bytes:
        """All that the constructor needs."""
        return orjson.dumps([[stream, each.owner, each.body] for (stream, _), each in self._open.items()])

    def admit(self, draft: Draft, owner: bytes) -> list[Draft]:
        """What to journal for the `action` draft of a producer: with an end before it, as it is, or nothing."""
        key = (draft.stream, draft.body["label"])
        running = self._open.get(key)
        if draft.body["phase"] == "start":
            self._open[key] = _Open(owner.hex(), dict(draft.body))
            self.changed = True
            return [draft] if running is None else [_lost_end(key[0], running), draft]
        if running is None or running.owner != owner.hex():
            return []  # it was ended for a producer that seemed gone, and comes late
        if draft.body["phase"] == "end":
            del self._open[key]
            self.changed = True
        else:
            running.body = dict(draft.body)
        return [draft]

    def beat(self, heard: Collection[bytes]) -> list[Draft]:
        """Once a heartbeat, with the producers heard since the last: the ends of what nobody continues."""
        owners = {owner.hex() for owner in heard}
        ends = []
        for key, each in list(self._open.items()):
            each.silent_beats = 0 if each.owner in owners else each.silent_beats + 1
            if each.silent_beats >= SILENT_BEATS:
                del self._open[key]
                self.changed = True
                ends.append(_lost_end(key[0], each))
        return ends


def _lost_end(stream: str, each: _Open) -> Draft:
    return Draft("action", stream, {**each.body, "phase": "end", "reason": "lost"})


MAX_STREAMS: Final = 1024


class AdaptiveHopStatus:
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
