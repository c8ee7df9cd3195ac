"""Keep the topics whose retained message has to be removed from the broker."""

from __future__ import annotations

from collections.abc import Iterable

from streamclf.subscribers.mqtt.message import MqttMessage


class ObsoleteTopics:
    """Collect obsolete topics, until the broker has confirmed that their messages are gone."""

    def __init__(self, topics: set[str], *, most: int) -> None:
        """Begin with `topics`; remember at most `most` topics that were removed."""
        self._waiting, self._most = topics, most
        self._removed: set[str] = set()
        """Obsolete topics so far, so that each old event of a removed stream does not remove them again."""

    @property
    def waiting(self) -> list[str]:
        """The topics that the broker has not confirmed yet."""
        return sorted(self._waiting)

    def mark(self, topics: set[str]) -> None:
        """Mark topics as obsolete, if they are not removed already."""
        if len(self._removed) < self._most:
            self._waiting |= topics - self._removed
            self._removed |= topics

    def mark_former(self, topics: Iterable[str], current: set[str]) -> None:
        """Mark the topics of an earlier process, without those that are current now."""
        self._waiting.update(topics)
        self._waiting -= current

    def mark_current(self, topic: str) -> None:
        """Note that a message is published on a topic again."""
        self._waiting.discard(topic)
        self._removed.discard(topic)

    def messages(self) -> list[MqttMessage]:
        """Make the messages that remove retained ones; call `confirm` once the broker has confirmed them."""
        return [MqttMessage(topic=topic, payload=b"", retain=True) for topic in self.waiting]

    def confirm(self) -> None:
        """Note that no obsolete message is left on the broker."""
        self._waiting.clear()
