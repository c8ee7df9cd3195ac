"""Convert events to MQTT messages, and describe them to Home Assistant. No connection and no clock.

    PREFIX/status                      online, offline          retained; the last will
    PREFIX/STREAM/availability         online, offline          retained: whether the stream is live, see `AWAY_S`
    PREFIX/STREAM/label                JSON, each new label     retained
    PREFIX/STREAM/active/LABEL         JSON, ON and OFF         retained
    PREFIX/STREAM/action               JSON, every start and end, as in the journal
    PREFIX/STREAM/event                JSON, starts and ends as they happen, for an event entity
    PREFIX/STREAM/picture              JPEG                     retained: the picture of the latest clip
    PREFIX/STREAM/picture/about        JSON: label, link, ...   retained
    PREFIX/lost                        JSON, offsets that are lost
    PREFIX/STREAM/prediction, status   JSON, where `types` has them

Retained topics describe the present, so an old event must not switch anything on when the outlet catches up after an
outage: an event older than a minute goes to `action` only. A running action has an update each second, which switches
it on. The end of an action always switches it off.

A stream with regions or named models has `label`, `active` and `event` for each of its views, see `view_topics`.

Statuses list a stream's configured actions, so each is described before it happens. Heartbeats list the configured
streams. The outlet removes the retained messages of a stream or an action that is no longer configured, also if that
changed while the outlet did not run: its memory holds the streams, views and labels whose messages it has published.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from streamclf.client.stream_views import listed_views
from streamclf.config.outlet_options import MQTT_PREFIX, MQTT_PREFIX_RULE, EventType
from streamclf.errors import UsageError
from streamclf.events.types import Action, Clip, Lost, Prediction, Status, StreamEvent, published_json
from streamclf.events.views import MAX_VIEWS, UNNAMED, ActionKey, ViewKey, action_of, view_of
from streamclf.subscribers.clip_pictures import ClipPictures
from streamclf.subscribers.mqtt.discovery import describe_stream
from streamclf.subscribers.mqtt.message import MqttMessage
from streamclf.subscribers.mqtt.obsolete import ObsoleteTopics
from streamclf.subscribers.mqtt.payloads import event_payload, label_payload, label_text, off_payload, switch_payload
from streamclf.subscribers.mqtt.picture_messages import PictureMessages
from streamclf.subscribers.mqtt.published_stream import (
    PublishedStream,
    restore_obsolete,
    restore_options,
    restore_streams,
    retained_topics,
    store_stream,
)
from streamclf.subscribers.mqtt.view_topics import action_topic, event_topic, label_topic

STALE_S: Final = 60.0
AWAY_S: Final = 10.0
"""A stream that is live again within this time stays available: cameras reconnect, and automations must not notice."""
MAX_STREAMS: Final = 1024
MAX_LABELS: Final = 64
"""The limit of one stream without a list of its actions. Each label becomes an entity in Home Assistant."""
MAX_ACTIONS: Final = 256
"""The limit of all views of one stream together."""
_MAX_REMOVED: Final = MAX_STREAMS * MAX_LABELS


class Topics:
    """Convert events to messages. `memory` comes from an earlier process, and this one continues its work.

    Raises `UsageError` for an invalid prefix or memory.
    """

    def __init__(
        self,
        prefix: str,
        *,
        discovery: bool = True,
        types: Collection[EventType] = frozenset({"action"}),
        updates: bool = False,
        streams: Collection[str] | None = None,
        memory: dict[str, Any],
        pictures: ClipPictures | None = None,
    ) -> None:
        """Publish whole events of `types`, `update` events of actions only with `updates`.

        `streams` are those that the outlet receives; None for all. `pictures` reads the pictures of clips; without it,
        none are published.
        """
        if not MQTT_PREFIX.fullmatch(prefix):
            raise UsageError(f"prefix {prefix!r}: {MQTT_PREFIX_RULE}")
        self._prefix, self._discovery, self._types, self._updates = prefix, discovery, frozenset(types), updates
        self._pictures = PictureMessages(pictures)
        self._streams = restore_streams(memory)
        self._chosen = None if streams is None else frozenset(streams)
        self._configured: set[str] | None = None
        self._configured_at: datetime | None = None
        """The time of the heartbeat that listed the configured streams."""
        self.obsolete = ObsoleteTopics(restore_obsolete(memory), most=_MAX_REMOVED)
        """The topics of streams, views and actions that are no longer configured."""
        self._leave_former_topics(memory)
        self.unlisted = 0
        """Events without an entity in Home Assistant: of actions that are not listed, or beyond the limits."""

    def _leave_former_topics(self, memory: dict[str, Any]) -> None:
        """Mark the topics that an earlier process used with other options."""
        prefix, discovery, pictures = restore_options(memory, self._prefix, self._discovery, self._pictures.mode)
        for name, stream in self._streams.items():
            views = stream.labels_by_view
            former = retained_topics(prefix, name, views, discovery=discovery, pictures=pictures)
            self.obsolete.mark_former(former, self._topics(name, views))
        if prefix != self._prefix:
            self.obsolete.mark_former([f"{prefix}/status"], set())

    @property
    def status_topic(self) -> str:
        """The topic of the last will."""
        return f"{self._prefix}/status"

    def memory(self) -> dict[str, Any]:
        """Return the memory for the constructor of a later process."""
        return {
            "prefix": self._prefix,
            "discovery": self._discovery,
            "pictures": self._pictures.mode,
            "obsolete": self.obsolete.waiting,
            "streams": {name: store_stream(stream) for name, stream in self._streams.items()},
        }

    def configure(self, streams: Collection[str], at: datetime) -> None:
        """Note the streams that a heartbeat of this time lists. The topics of all other streams become obsolete."""
        self._configured = {name for name in streams if self._chosen is None or name in self._chosen}
        self._configured_at = at
        for name, stream in list(self._streams.items()):
            if name not in self._configured and (stream.seen is None or stream.seen <= at):
                self._remove(name, stream.labels_by_view)

    def overdue(self, now_s: float) -> list[MqttMessage]:
        """Make the messages that are due by the monotonic time `now_s`: of streams that have been away for long."""
        messages: list[MqttMessage] = []
        for name, stream in self._streams.items():
            if not stream.is_away:
                continue
            if stream.away_since_s is None:
                stream.away_since_s = now_s
            if now_s - stream.away_since_s >= AWAY_S and stream.live is not False:
                messages += self._availability(stream, name, False)
        return messages

    def online(self, is_online: bool) -> MqttMessage:
        """Make the message that says whether the retained messages are kept up to date."""
        return MqttMessage(topic=self.status_topic, payload=b"online" if is_online else b"offline", retain=True)

    def retained(self) -> Iterator[MqttMessage]:
        """Make all retained messages again, for a broker that may have lost them."""
        for name, stream in self._streams.items():
            stream.described.clear()
            stream.described_as = ()
            yield from self._describe(name, stream)
            self._forget_unknown(name, stream)
            for topic, payload in stream.retained.items():
                yield MqttMessage(topic=topic, payload=payload, retain=True)
            if (picture := self._pictures.again(f"{self._prefix}/{name}", stream)) is not None:
                yield picture

    def _forget_unknown(self, name: str, stream: PublishedStream) -> None:
        """Forget values whose full message only an earlier process knew; the next event publishes them again.

        An action that was off is published as off again.
        """
        for view in stream.views:
            if label_topic(self._base(name), view) not in stream.retained:
                stream.views[view] = None
        for action, is_on in stream.actions.items():
            topic = action_topic(self._base(name), action)
            if topic not in stream.retained and is_on:
                stream.actions[action] = None
            elif topic not in stream.retained and is_on is False:
                stream.retained[topic] = off_payload(action)

    def messages(self, item: StreamEvent | Lost, age_s: float) -> Iterator[MqttMessage]:
        """Make the messages of `item`, which was published `age_s` ago, in order."""
        if isinstance(item, Lost):
            body = {"type": "lost", "epoch": item.epoch, "first": item.first, "last": item.last}
            yield MqttMessage(topic=f"{self._prefix}/lost", payload=orjson.dumps(body))
            return
        is_update = isinstance(item, Action) and item.phase == "update"
        if item.type in self._types and (self._updates or not is_update):
            yield MqttMessage(topic=f"{self._prefix}/{item.stream}/{item.type}", payload=published_json(item))
        if not self._is_configured(item):
            self._remove_unknown(item)
            return
        stream = self._streams.get(item.stream)
        if stream is None and len(self._streams) < MAX_STREAMS:
            stream = self._streams[item.stream] = PublishedStream(name=item.stream)
        if stream is None:
            self.unlisted += 1
            return
        if (lease := item.lease or 0) < stream.lease:
            return  # another node of the fleet has the stream already
        if lease > stream.lease:
            yield from self._end_actions(stream, item.stream, lease)
        stream.seen = item.time
        yield from self._state_messages(stream, item, is_stale=age_s > STALE_S)

    def _end_actions(self, stream: PublishedStream, name: str, lease: int) -> Iterator[MqttMessage]:
        """Switch off the actions of the node that had the stream before: it cannot publish their ends."""
        is_known, stream.lease = stream.lease > 0, lease
        for action in [each for each, is_on in stream.actions.items() if is_on and is_known]:
            stream.actions[action] = False
            yield self._retain(stream, action_topic(self._base(name), action), off_payload(action))

    def first_picture(self, action: Action, preview: bytes) -> Iterator[MqttMessage]:
        """Make the messages of a preview that was taken at the start of an action."""
        stream = self._streams.get(action.stream)
        if stream is not None and self._is_configured(action):
            yield from self._current(self._pictures.first(f"{self._prefix}/{action.stream}", stream, action, preview))

    def _current(self, messages: Iterator[MqttMessage]) -> Iterator[MqttMessage]:
        for message in messages:
            self.obsolete.mark_current(message.topic)
            yield message

    def _is_configured(self, item: StreamEvent) -> bool:
        """Return whether the stream is configured, as far as known.

        The last events of a removed stream may follow the heartbeat. Only a new stream has a status with actions then.
        """
        if self._configured is None or self._configured_at is None or item.stream in self._configured:
            return True
        return isinstance(item, Status) and item.actions is not None and item.time > self._configured_at

    def _remove_unknown(self, item: StreamEvent) -> None:
        """Mark the topics of an old event's stream: an earlier process may have been killed before it removed them."""
        stream = self._streams.get(item.stream)
        views = {view: set(labels) for view, labels in stream.labels_by_view.items()} if stream else {UNNAMED: set()}
        if isinstance(item, Status):
            for action in _listed_actions(item) or ():
                views.setdefault(action.view, set()).add(action.label)
        else:
            views.setdefault(view_of(item), set()).update([item.label] if isinstance(item, Action) else [])
        self._remove(item.stream, views)

    def _remove(self, name: str, views: Mapping[ViewKey, Collection[str]]) -> None:
        self._streams.pop(name, None)
        self.obsolete.mark(self._topics(name, views))

    def _base(self, stream: str) -> str:
        return f"{self._prefix}/{stream}"

    def _topics(self, name: str, views: Mapping[ViewKey, Collection[str]]) -> set[str]:
        return retained_topics(self._prefix, name, views, discovery=self._discovery, pictures=self._pictures.mode)

    def _state_messages(self, stream: PublishedStream, item: StreamEvent, *, is_stale: bool) -> Iterator[MqttMessage]:
        if not isinstance(item, Status) and not self._note_view(stream, view_of(item)):
            self.unlisted += 1
            return
        match item:
            case Status():
                yield from self._configuration(stream, item)
                yield from self._liveness(stream, item.stream, is_live=item.state == "live")
            case Action():
                yield from self._action_message(stream, item, is_stale=is_stale)
            case Clip():
                yield from self._describe(item.stream, stream)
                if not is_stale:
                    base = f"{self._prefix}/{item.stream}"
                    yield from self._current(self._pictures.messages(base, stream, item))
            case Prediction():
                yield from self._describe(item.stream, stream)
                if not is_stale:
                    if stream.live is None and not stream.is_away:  # a prediction means that the stream is live
                        yield from self._liveness(stream, item.stream, is_live=True)
                    yield from self._label_message(stream, item)

    def _note_view(self, stream: PublishedStream, view: ViewKey) -> bool:
        """Add the view of an event; return False for one that is not listed, or beyond the limit."""
        if view not in stream.views:
            if (stream.is_listed and stream.views) or len(stream.views) >= MAX_VIEWS:
                return False
            stream.views[view] = None
        return True

    def _configuration(self, stream: PublishedStream, item: Status) -> Iterator[MqttMessage]:
        """Follow the name, the views and the actions that a status lists. An action that has not happened is off."""
        stream.name = item.name or item.stream
        listed = _listed_actions(item)
        views = listed_views(item)
        if listed is None or views is None:
            yield from self._describe(item.stream, stream)
            return
        stream.is_listed = True
        before = self._topics(item.stream, stream.labels_by_view) if stream.views else set()
        stream.views = {view: stream.views.get(view) for view in sorted(views, key=lambda view: view.sort_key)}
        new = [action for action in listed if action not in stream.actions]
        known = [action for action in stream.actions if action in listed]
        stream.actions = {action: stream.actions.get(action, False) for action in (*known, *new)}
        gone = before - self._topics(item.stream, stream.labels_by_view)
        for topic in gone:
            stream.retained.pop(topic, None)
            stream.described.pop(topic, None)
        self.obsolete.mark(gone)
        yield from self._describe(item.stream, stream)
        for action in new:
            yield self._retain(stream, action_topic(self._base(item.stream), action), off_payload(action))

    def _liveness(self, stream: PublishedStream, name: str, *, is_live: bool) -> Iterator[MqttMessage]:
        stream.is_away = not is_live
        if is_live:
            stream.away_since_s = None
            if stream.live is not True:
                yield from self._availability(stream, name, True)

    def _availability(self, stream: PublishedStream, name: str, is_live: bool) -> Iterator[MqttMessage]:
        stream.live = is_live
        yield self._retain(stream, f"{self._prefix}/{name}/availability", b"online" if is_live else b"offline")

    def _label_message(self, stream: PublishedStream, item: Prediction) -> Iterator[MqttMessage]:
        view = view_of(item)
        label = label_text(item)
        if label == stream.views[view]:
            return
        stream.views[view] = label
        yield self._retain(stream, label_topic(self._base(item.stream), view), label_payload(item))

    def _action_message(self, stream: PublishedStream, item: Action, *, is_stale: bool) -> Iterator[MqttMessage]:
        action = action_of(item)
        if action not in stream.actions:
            if stream.is_listed or len(stream.actions) >= MAX_LABELS:
                self.unlisted += 1
                return
            stream.actions[action] = None
        yield from self._describe(item.stream, stream)
        if not is_stale and item.phase != "update":
            yield self._event_message(item)
        is_on = item.phase != "end"
        if is_on and is_stale:
            return
        # A start is published even if the action is on already, because it has a new start time.
        if stream.actions[action] is not is_on or item.phase == "start":
            yield self._switch_message(stream, item, is_on)

    def _switch_message(self, stream: PublishedStream, item: Action, is_on: bool) -> MqttMessage:
        action = action_of(item)
        stream.actions[action] = is_on
        return self._retain(stream, action_topic(self._base(item.stream), action), switch_payload(item))

    def _retain(self, stream: PublishedStream, topic: str, payload: bytes) -> MqttMessage:
        stream.retained[topic] = payload
        self.obsolete.mark_current(topic)
        return MqttMessage(topic=topic, payload=payload, retain=True)

    def _event_message(self, item: Action) -> MqttMessage:
        return MqttMessage(topic=event_topic(self._base(item.stream), view_of(item)), payload=event_payload(item))

    def _describe(self, name: str, stream: PublishedStream) -> Iterator[MqttMessage]:
        """Make the messages of discovery that are new or have changed."""
        now = (stream.name, *stream.views, *stream.actions)
        if not self._discovery or stream.described_as == now:
            return
        stream.described_as = now
        for topic, payload in self._descriptions(name, stream).items():
            if stream.described.get(topic) != payload:
                stream.described[topic] = payload
                self.obsolete.mark_current(topic)
                yield MqttMessage(topic=topic, payload=payload, retain=True)

    def _descriptions(self, name: str, stream: PublishedStream) -> dict[str, bytes]:
        return describe_stream(self._prefix, name, stream.name, stream.labels_by_view, self._pictures.mode)


def _listed_actions(status: Status) -> list[ActionKey] | None:
    """Return the actions that a status lists; None if it lists none."""
    if status.views is not None:
        found = [ActionKey(*view.key, label) for view in status.views for label in view.actions]
        return list(dict.fromkeys(found))[:MAX_ACTIONS]
    if status.actions is None:
        return None
    return [ActionKey(*UNNAMED, label) for label in dict.fromkeys(status.actions[:MAX_LABELS])]
