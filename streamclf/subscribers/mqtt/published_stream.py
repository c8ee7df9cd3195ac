"""Remember what the broker holds of one stream, in this process and for the next one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from streamclf.errors import UsageError
from streamclf.events.views import UNNAMED, ActionKey, ViewKey
from streamclf.net.names import valid_stream_name
from streamclf.subscribers.mqtt.discovery import PictureMode, discovery_topics, picture_topics
from streamclf.subscribers.mqtt.view_topics import action_topic, label_topic

_UNKNOWN_FORM: Final = "the position file holds streams or topics in an unknown form; remove the file to start anew"


@dataclass(slots=True)
class PublishedStream:
    """The values of one stream that the broker holds; None means unknown."""

    name: str
    views: dict[ViewKey, str | None] = field(default_factory=dict)
    """The label of each view that the stream has or had events of."""
    live: bool | None = None
    is_away: bool = False
    """Whether the stream is not live, which `live` follows after `AWAY_S`."""
    away_since_s: float | None = None
    actions: dict[ActionKey, bool | None] = field(default_factory=dict)
    """Whether each action is on."""
    is_listed: bool = False
    """Whether a status has listed the actions, so that there are no others."""
    described: dict[str, bytes] = field(default_factory=dict)
    """The payloads of discovery that this process has published, by topic."""
    described_as: tuple[object, ...] = ()
    """The name, the views and the actions in these payloads."""
    lease: int = 0
    """The largest lease of an event; 0 outside a fleet."""
    seen: datetime | None = None
    """The time of the stream's newest event."""
    retained: dict[str, bytes] = field(default_factory=dict)
    """The payloads that this process has published, by topic, without the picture."""
    picture: str | None = None
    """The path of the picture that this process has published. Its bytes are read again when they are needed."""

    @property
    def labels_by_view(self) -> dict[ViewKey, list[str]]:
        """The labels of the actions of each view. A stream without any view has one without names."""
        found: dict[ViewKey, list[str]] = {view: [] for view in self.views}
        for action in self.actions:
            found.setdefault(action.view, []).append(action.label)
        return found or {UNNAMED: []}


def retained_topics(
    prefix: str,
    stream: str,
    views: Mapping[ViewKey, Collection[str]],
    *,
    discovery: bool,
    pictures: PictureMode = "",
) -> set[str]:
    """Return all retained topics of a stream with these views, each with the labels of its actions."""
    base = f"{prefix}/{stream}"
    topics = {f"{base}/availability", *(label_topic(base, view) for view in views)}
    topics |= {action_topic(base, ActionKey(*view, label)) for view, labels in views.items() for label in labels}
    topics |= picture_topics(base, pictures)
    return topics | discovery_topics(prefix, stream, views, pictures) if discovery else topics


def store_stream(stream: PublishedStream) -> dict[str, Any]:
    """Return what a later process needs, for the position file; `restore_streams` is the inverse.

    The view without names has the form of earlier versions.
    """
    stored: dict[str, Any] = {"name": stream.name, "label": stream.views.get(UNNAMED), "actions": {}}
    if stream.lease:
        stored["lease"] = stream.lease
    views = []
    for view, labels in stream.labels_by_view.items():
        actions = {label: stream.actions[ActionKey(*view, label)] for label in labels}
        if view == UNNAMED:
            stored["actions"] = actions
        else:
            views.append({**view._asdict(), "label": stream.views.get(view), "actions": actions})
    return {**stored, "views": views, "is_named": UNNAMED not in stream.views} if views else stored


def restore_streams(memory: dict[str, Any]) -> dict[str, PublishedStream]:
    """Return the streams in the memory of an earlier process, without payloads. Raises `UsageError`."""
    try:
        return {name: _restore_stream(name, stored) for name, stored in memory.get("streams", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(_UNKNOWN_FORM) from None


def _restore_stream(name: str, stored: dict[str, Any]) -> PublishedStream:
    stream = PublishedStream(name=stored.get("name", name), lease=int(stored.get("lease", 0)))
    parts = [(UNNAMED, stored)] if not stored.get("is_named", False) else []
    parts += [
        (ViewKey(*map(_checked_name, (each["region"], each["model_name"]))), each) for each in stored.get("views", ())
    ]
    for view, part in parts:
        stream.views[view] = part["label"]
        stream.actions.update({ActionKey(*view, label): is_on for label, is_on in dict(part["actions"]).items()})
    return stream


def _checked_name(name: Any) -> str | None:
    if name is not None and not valid_stream_name(name):
        raise ValueError(name)
    return None if name is None else str(name)


def restore_options(
    memory: dict[str, Any], prefix: str, discovery: bool, pictures: PictureMode
) -> tuple[str, bool, PictureMode]:
    """Return the prefix of an earlier process, whether it used discovery, and how it published pictures.

    The arguments are the defaults. Raises `UsageError`.
    """
    found = memory.get("prefix", prefix), memory.get("discovery", discovery), memory.get("pictures", pictures)
    if not isinstance(found[0], str) or not isinstance(found[1], bool) or found[2] not in ("", "bytes", "link"):
        raise UsageError(_UNKNOWN_FORM)
    return found


def restore_obsolete(memory: dict[str, Any]) -> set[str]:
    """Return the topics that an earlier process had not removed yet. Raises `UsageError`."""
    topics = memory.get("obsolete", [])
    if not isinstance(topics, list) or not all(isinstance(topic, str) for topic in topics):
        raise UsageError(_UNKNOWN_FORM)
    return set(topics)
