"""Publish the picture of each stream's latest clip, for an image entity of Home Assistant: its bytes, or a link."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timezone

import orjson

from streamclf.events.types import TIME_FORMAT, Action, Clip
from streamclf.events.views import view_keys
from streamclf.subscribers.clip_pictures import ClipPictures, picture_path
from streamclf.subscribers.mqtt.discovery import PictureMode
from streamclf.subscribers.mqtt.message import MqttMessage, origin
from streamclf.subscribers.mqtt.published_stream import PublishedStream


class PictureMessages:
    """Make the messages of clips with a picture. `pictures` is None where none are published."""

    def __init__(self, pictures: ClipPictures | None) -> None:
        self._pictures = pictures
        self.mode: PictureMode = ""
        """Whether bytes or links are published."""
        if pictures is not None and (pictures.has_bytes or pictures.has_first or pictures.has_links):
            self.mode = "link" if pictures.has_links else "bytes"

    def messages(self, base: str, stream: PublishedStream, clip: Clip) -> Iterator[MqttMessage]:
        """Make the messages of a clip; none without a picture. `base` is PREFIX/STREAM.

        The description comes first: the picture triggers automations, which read the description.
        """
        path = picture_path(clip)
        if self._pictures is None or path is None:
            return
        body = {
            "label": clip.label,
            "probability": clip.probability,
            "part": clip.part,
            "last": clip.last,
            "action": clip.action,
            "began": f"{clip.began.astimezone(timezone.utc):{TIME_FORMAT}}Z",
            "file": clip.file,
            "picture": path,
            **view_keys(clip),
            **origin(clip),
        }
        jpeg = self._pictures.read(path)
        link, film = self._pictures.link(path), self._pictures.link(clip.file)
        if jpeg is None and link is None:
            return
        if link is not None:
            body |= link.to_json()
        if film is not None:
            body["film_url"] = film.url
        about = f"{base}/picture/about"
        stream.retained[about] = orjson.dumps(body)
        yield MqttMessage(topic=about, payload=stream.retained[about], retain=True)
        if jpeg is not None:
            stream.picture = path
            yield MqttMessage(topic=f"{base}/picture", payload=jpeg, retain=True)

    def first(self, base: str, stream: PublishedStream, action: Action, preview: bytes) -> Iterator[MqttMessage]:
        """Make the messages of a picture that was taken at the start of an action; none if it is no picture."""
        jpeg = None if self._pictures is None else self._pictures.draw_first(action, preview)
        if jpeg is None or self.mode == "link":
            return
        body = {"label": action.label, "probability": action.probability, "action": action.offset}
        body |= view_keys(action) | origin(action)
        about = f"{base}/picture/about"
        stream.retained[about], stream.picture = orjson.dumps(body), None
        yield MqttMessage(topic=about, payload=stream.retained[about], retain=True)
        yield MqttMessage(topic=f"{base}/picture", payload=jpeg, retain=True)

    def again(self, base: str, stream: PublishedStream) -> MqttMessage | None:
        """Make the message of the picture again, for a broker that may have lost it; None without one."""
        jpeg = None if self._pictures is None else self._pictures.read(stream.picture)
        return None if jpeg is None else MqttMessage(topic=f"{base}/picture", payload=jpeg, retain=True)
