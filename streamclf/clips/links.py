"""Make links to the films and pictures of the page, which need no login until they expire.

A link is `ADDRESS/shared/clip/EXPIRES.SIGNATURE/STREAM/DATE/NAME`. The signature covers the path and the expiry, with a
key that is derived from the page's token. So an outlet that has the token makes links that the page accepts, and the
end of the link is the file's name, by which phones choose how to show it.
"""

from __future__ import annotations

from typing import Final

from streamclf.clips.names import parse_clip_path
from streamclf.net.signer import Signer

LINK_PREFIX: Final = "/shared/clip/"
"""The page answers paths under it without a login."""
_PURPOSE: Final = "clip"
_MAX_SEAL_CHARS: Final = 128


def clip_link(signer: Signer, path: str, valid_s: float) -> str:
    """Return the link to a clip's file, as a path on the page; `path` is relative to the folder of the clips."""
    signed = signer.sign(_PURPOSE, path, valid_s)
    return f"{LINK_PREFIX}{signed.removeprefix(path + '.')}/{path}"


def linked_path(signer: Signer, link: str) -> str | None:
    """Return the path of the clip's file that a link allows to read; None if the link is wrong or has expired.

    `link` is the path of the request, or its part after `LINK_PREFIX`.
    """
    seal, _, path = link.removeprefix(LINK_PREFIX).partition("/")
    if len(seal) > _MAX_SEAL_CHARS or parse_clip_path(path) is None:
        return None
    return path if signer.verify(_PURPOSE, f"{path}.{seal}") == path else None
