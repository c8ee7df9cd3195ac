"""Remember what the broker holds of one stream, in this process and for the next one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from streamclf.errors import UsageError
from streamclf.subscribers.mqtt.discovery import PictureMode, discovery_topics, picture_topics, slug

_UNKNOWN_FORM: Final = "the position file holds streams or topics in an unknown form; remove the file to start anew"


@dataclass(slots=True)
class PublishedStream:
    """The values of one stream that the broker holds; None means unknown."""

    name: str
    label: str | None = None
    live: bool | None = None
    is_away: bool = False
    """Whether the stream is not live, which `live` follows after `AWAY_S`."""
    away_since_s: float | None = None
    actions: dict[str, bool | None] = field(default_factory=dict)
    """Whether each action is on, by label."""
    is_listed: bool = False
    """Whether a status has listed the actions, so that there are no others."""
    described: dict[str, bytes] = field(default_factory=dict)
    """The payloads of discovery that this process has published, by topic."""
    described_as: tuple[str, ...] = ()
    """The name and the labels in these payloads."""
    seen: datetime | None = None
    """The time of the stream's newest event."""
    retained: dict[str, bytes] = field(default_factory=dict)
    """The payloads that this process has published, by topic, without the picture."""
    picture: str | None = None
    """The path of the picture that this process has published. Its bytes are read again when they are needed."""


def retained_topics(
    prefix: str, stream: str, labels: Collection[str], *, discovery: bool, pictures: PictureMode = ""
) -> set[str]:
    """Return all retained topics of a stream with these actions."""
    base = f"{prefix}/{stream}"
    topics = {f"{base}/availability", f"{base}/label", *(f"{base}/active/{slug(label)}" for label in labels)}
    topics |= picture_topics(base, pictures)
    return topics | discovery_topics(prefix, stream, labels, pictures) if discovery else topics


def restore_streams(memory: dict[str, Any]) -> dict[str, PublishedStream]:
    """Return the streams in the memory of an earlier process, without payloads. Raises `UsageError`."""
    try:
        return {
            name: PublishedStream(name=stored.get("name", name), label=stored["label"], actions=dict(stored["actions"]))
            for name, stored in memory.get("streams", {}).items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(_UNKNOWN_FORM) from None


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
