"""Send the picture of a clip to another system: its bytes, or a link to the page that needs no login."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from logging import WARNING
from typing import Any, Final

from streamclf.clips.folder import ClipFolder
from streamclf.clips.links import clip_link
from streamclf.config.picture_keys import MAX_PICTURE_BYTES, PictureKeys
from streamclf.errors import ClipError, StreamclfError, UsageError
from streamclf.events.types import Action, Clip
from streamclf.events.views import title, view_of
from streamclf.net.secret_files import read_token
from streamclf.net.signer import Signer
from streamclf.subscribers.outlet_report import OutletReport

MEDIA_TYPE: Final = "image/jpeg"
_JPEG_BEGINS: Final = b"\xff\xd8\xff"


@dataclass(frozen=True, slots=True)
class Link:
    """The address of a film or a picture on the page, and when it stops working."""

    url: str
    expires: datetime

    def to_json(self) -> dict[str, str]:
        """Return the link as JSON."""
        return {"url": self.url, "expires": f"{self.expires:%Y-%m-%dT%H:%M:%SZ}"}


class ClipPictures:
    """Read the pictures of clips, or make links to them. Raises `UsageError` for options that cannot work."""

    def __init__(self, keys: PictureKeys, report: OutletReport) -> None:
        self._keys, self._report = keys, report
        self._folder = None if keys.clips is None else ClipFolder(keys.clips)
        self._signer: Signer | None = None
        if keys.link is not None:
            token = keys.link_token if keys.link_token_file is None else read_token(keys.link_token_file)
            if token is None:
                raise UsageError(f"link {keys.link}: links need the token of the page; give --link-token-file")
            self._signer = Signer(token)
        if self.has_first:  # now, because it takes up to a second, for which the first notification would wait
            from streamclf.render import overlay as overlay
        self.missing = 0
        """Pictures that could not be read."""

    @property
    def has_first(self) -> bool:
        """Whether a picture is sent at the start of an action."""
        return self._keys.sends_first_pictures

    @property
    def has_links(self) -> bool:
        """Whether links are sent instead of bytes."""
        return self._signer is not None and self._keys.sends_pictures

    @property
    def has_bytes(self) -> bool:
        """Whether the bytes of pictures are sent."""
        return self._signer is None and self._keys.sends_pictures

    @property
    def bytes_each(self) -> int:
        """The most bytes that one picture takes in JSON; 0 if no bytes are sent."""
        return (self._keys.picture_bytes + 2) // 3 * 4 if self.has_bytes or self.has_first else 0

    def link(self, path: str | None) -> Link | None:
        """Return a link to a clip's file; None without a file, or if no links are sent."""
        if path is None or self._signer is None or not self.has_links:
            return None
        expires = datetime.fromtimestamp(int(time.time() + self._keys.link_valid), timezone.utc)
        return Link(f"{self._keys.link}{clip_link(self._signer, path, self._keys.link_valid)}", expires)

    def read(self, path: str | None) -> bytes | None:
        """Return a picture, made smaller if it exceeds `picture_bytes`.

        Return None without a picture, or if no bytes are sent. A picture that cannot be read is counted and reported.
        """
        if path is None or self._folder is None or not self.has_bytes:
            return None
        try:
            data = self._folder.read_picture(path, MAX_PICTURE_BYTES)
            if not path.endswith(".jpg") or not data.startswith(_JPEG_BEGINS):
                raise UsageError("no JPEG")
            return data if len(data) <= self._keys.picture_bytes else _smaller(data, self._keys.picture_bytes)
        except StreamclfError as error:
            self._count_missing(path, error)
            return None

    def draw_first(self, action: Action, preview: bytes) -> bytes | None:
        """Draw label and probability on a preview, at the start of an action; None if the preview is no picture."""
        from streamclf.clips.stills import draw_picture
        from streamclf.render.overlay import OverlayState
        from streamclf.sources.image_file import ImageError, decode_image

        state = OverlayState(
            stream=title(action.stream, view_of(action)),
            top=((action.label, action.probability),),
            actions=(action.label,),
        )
        try:
            return draw_picture(decode_image(preview), state, self._keys.picture_bytes)
        except (ImageError, ClipError) as error:
            self._count_missing(f"the start of {action.label}", error)
            return None

    def body(self, clip: Clip) -> dict[str, Any]:
        """Return the keys that the event of a clip gets: `picture` with its bytes or link, and `film` with its link."""
        body: dict[str, Any] = {}
        path = picture_path(clip)
        if (jpeg := self.read(path)) is not None:
            body["picture"] = picture_json(jpeg)
        elif (link := self.link(path)) is not None:
            body["picture"] = {"media_type": MEDIA_TYPE, **link.to_json()}
        if (film := self.link(clip.file)) is not None:
            body["film"] = {"media_type": "video/mp4", **film.to_json()}
        return body

    def _count_missing(self, name: str, error: Exception) -> None:
        self.missing += 1
        if self.missing == 1 or self.missing % 100 == 0:
            self._report.notice(f"no picture of {name}: {error}; {self.missing} so far", WARNING)


def picture_json(jpeg: bytes) -> dict[str, str]:
    """Return a picture as it stands in JSON."""
    return {"media_type": MEDIA_TYPE, "base64": base64.b64encode(jpeg).decode()}


def picture_path(clip: Clip) -> str | None:
    """Return the path of the picture that shows a clip: with label and probability if there is one."""
    return clip.drawn or clip.still


def _smaller(jpeg: bytes, max_bytes: int) -> bytes:
    from streamclf.clips.stills import encode_picture
    from streamclf.sources.image_file import ImageError, decode_image

    try:
        return encode_picture(decode_image(jpeg), max_bytes)
    except ImageError as error:
        raise UsageError(str(error)) from None
