"""Amend producers' drafts before they are journalled.

Two rules need memory of earlier drafts. Each start of an action gets exactly one end, even if the process that should
have sent the end was killed. And each status gets what its sender does not know: the hop of the latest prediction of a
stream with an adaptive hop, and the stream's name and actions in the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import orjson

from streamclf.events.drafts import Draft
from streamclf.events.types import MAX_HOP
from streamclf.events.views import MAX_VIEWS, ActionKey, ViewKey
from streamclf.net.names import valid_stream_name
from streamclf.runtime.jobs import StreamDescription

MAX_SILENT_HEARTBEATS: Final = 5
"""Heartbeats without a message from a producer (it sends a hello in each) after which the hub ends its actions."""
MAX_STREAMS: Final = 1024
"""Streams whose hop and last status are remembered, the most recent ones."""

_OpenKey: TypeAlias = tuple[str, ActionKey]
"""A stream, and a kind of action in one of its views."""


@dataclass(slots=True)
class _OpenAction:
    owner: str
    body: dict[str, Any]
    silent_heartbeats: int = 0


class OpenActions:
    """Pair starts and ends of actions; each open action belongs to the producer that started it. No I/O.

    The hub journals `stored` whenever `changed` is set, and passes it to the constructor after a restart.
    """

    def __init__(self, stored: bytes | None = None) -> None:
        self._open: dict[_OpenKey, _OpenAction] = {}
        for stream, owner, body in orjson.loads(stored) if stored else []:
            self._open[stream, _action_key(body)] = _OpenAction(owner, body)
        self.changed = False
        """Whether `stored` differs from the journal's copy; the hub resets it once that is committed."""

    @property
    def stored(self) -> bytes:
        """The open actions as JSON, for the constructor."""
        return orjson.dumps([[stream, each.owner, each.body] for (stream, _), each in self._open.items()])

    def adopt(self, draft: Draft) -> Draft:
        """Return an `action` draft as the start of its action if it updates one that is not open, else as it is.

        In a fleet, a start is refused while the node has no lease for the stream.
        """
        if draft.body["phase"] != "update" or (draft.stream, _action_key(draft.body)) in self._open:
            return draft
        return replace(draft, body={**draft.body, "phase": "start"})

    def apply(self, draft: Draft, owner: bytes) -> list[Draft]:
        """Return the drafts to journal for an `action` draft of the producer `owner`.

        This is the draft itself, or the end of an older action and then the draft. It is empty for an action that the
        hub has already ended.
        """
        key = (draft.stream, _action_key(draft.body))
        running = self._open.get(key)
        if draft.body["phase"] == "start":
            self._open[key] = _OpenAction(owner.hex(), dict(draft.body))
            self.changed = True
            return [draft] if running is None else [_end_lost(key[0], running), draft]
        if running is None or running.owner != owner.hex():
            return []  # the hub ended it because the producer seemed to have ended; this draft comes too late
        if draft.body["phase"] == "end":
            del self._open[key]
            self.changed = True
        else:
            running.body = dict(draft.body)
        return [draft]

    def end_abandoned(
        self, active: Collection[bytes], may_publish: Callable[[str], bool] = lambda _: True
    ) -> list[Draft]:
        """Return ends for the actions of producers that have ended; call this with each heartbeat.

        `active` holds the producers that sent anything since the last call. The actions of a stream stay open while
        `may_publish` is false for it.
        """
        owners = {owner.hex() for owner in active}
        ends = []
        for key, each in list(self._open.items()):
            each.silent_heartbeats = 0 if each.owner in owners else each.silent_heartbeats + 1
            if each.silent_heartbeats >= MAX_SILENT_HEARTBEATS and may_publish(key[0]):
                del self._open[key]
                self.changed = True
                ends.append(_end_lost(key[0], each))
        return ends


class ActionStarts:
    """Remember the offset of the start event of each running action, for the clips."""

    def __init__(self) -> None:
        self._starts: dict[_OpenKey, tuple[float, int]] = {}

    def start_of(self, offset: int | None, stream: str, event: bytes) -> int:
        """Return the offset of the start of the action whose event was committed at `offset`; 0 if it is unknown.

        It is unknown for an action that started before this process did, and for a start that was not journalled.
        """
        body = orjson.loads(event)
        key, started_s = (stream, _action_key(body)), body["started_s"]
        if body["phase"] == "start":
            self._starts[key] = (started_s, offset or 0)
        known_s, start = self._starts.get(key, (started_s, 0))
        if body["phase"] == "end":
            self._starts.pop(key, None)
        return start if known_s == started_s else 0


class CompleteStatus:
    """Add the hop of a stream's latest prediction, and its description, to its statuses.

    Where one of these changes, the last status is repeated.
    """

    def __init__(self, descriptions: Mapping[str, StreamDescription] | None) -> None:
        """Add `descriptions`, by stream. None where nobody configures the streams."""
        self._descriptions = descriptions or {}
        self._hops: dict[str, dict[ViewKey, int]] = {}
        self._statuses: dict[str, Mapping[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._statuses)

    def apply(self, draft: Draft) -> list[Draft]:
        """Return the drafts to journal for `draft`.

        A status gets the stream's hop, the longest one of its views. A prediction that changes it is followed by the
        stream's last status, with the new hop. Any other draft stays as it is.
        """
        stream = draft.stream
        if draft.type == "status":
            self._remember_status(stream, draft.body)
            return [self._status(stream)]
        if draft.type != "prediction" or stream not in self._statuses:
            return [draft]
        hop = draft.body.get("hop")
        if type(hop) is not int or not 1 <= hop <= MAX_HOP:
            hop = None
        before, hops = self._hop(stream), self._hops.setdefault(stream, {})
        view = _view_key(draft.body)
        if view is None:
            return [draft]  # the hub refuses it
        if hop is None:
            hops.pop(view, None)
        elif view in hops or len(hops) < MAX_VIEWS:
            hops[view] = hop
        return [draft] if self._hop(stream) == before else [draft, self._status(stream)]

    def change_descriptions(self, descriptions: Mapping[str, StreamDescription] | None) -> list[Draft]:
        """Use other descriptions from now on; return the statuses to journal for the changed ones."""
        before, self._descriptions = self._descriptions, descriptions or {}
        for stream, description in self._descriptions.items():
            views = {each.key for each in description.views} or {ViewKey()}
            for view in self._hops.get(stream, {}).keys() - views:
                del self._hops[stream][view]
        return [
            self._status(stream)
            for stream, description in self._descriptions.items()
            if stream in self._statuses and description != before.get(stream)
        ]

    def _remember_status(self, stream: str, body: Mapping[str, Any]) -> None:
        self._statuses.pop(stream, None)
        self._statuses[stream] = body
        if len(self._statuses) > MAX_STREAMS:
            oldest = next(iter(self._statuses))
            del self._statuses[oldest]
            self._hops.pop(oldest, None)

    def _status(self, stream: str) -> Draft:
        body = dict(self._statuses[stream])
        if (hop := self._hop(stream)) is not None:
            body["hop"] = hop
        if description := self._descriptions.get(stream):
            body["actions"] = description.actions
            if description.views:
                body["views"] = [view.to_json() for view in description.views]
            if description.name is not None:
                body["name"] = description.name
        return Draft("status", stream, body)

    def _hop(self, stream: str) -> int | None:
        return max(self._hops.get(stream, {}).values(), default=None)


def _action_key(body: Mapping[str, Any]) -> ActionKey:
    return ActionKey(body.get("region"), body.get("model_name"), body["label"])


def _view_key(body: Mapping[str, Any]) -> ViewKey | None:
    """Return the view of a draft that has not been checked yet; None for names that no view has."""
    region, model_name = body.get("region"), body.get("model_name")
    if all(name is None or valid_stream_name(name) for name in (region, model_name)):
        return ViewKey(region, model_name)
    return None


def _end_lost(stream: str, action: _OpenAction) -> Draft:
    return Draft("action", stream, {**action.body, "phase": "end", "reason": "lost"})
