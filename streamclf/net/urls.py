"""Split URLs that a person wrote, with errors that explain signs in a password and never quote the URL."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

REMEDY: Final = "percent-encode these signs in user name and password (# is %23, ? %3F, / %2F, @ %40, [ %5B, ] %5D)"
_AT_SIGNS: Final = "\uff20\ufe6b"
"""The full-width and the small at sign, which Unicode's compatibility form (NFKC) makes an @."""
_DIGITS: Final = re.compile(r"[0-9]*")
_LIKE_A_HOST: Final = re.compile(r"@(\[[0-9a-fA-F:.]+\]|[\w-]+(\.[\w-]+)+|localhost|[\w-]+:\d+)(?=[:/?#]|$)")
_ADDRESS_OR_DOMAIN: Final = re.compile(r"\[.*|.*\..*|localhost", re.IGNORECASE)


class UrlError(ValueError):
    """Text that is not a URL, or an ambiguous one. The message names the remedy and quotes no part of the URL."""


def split_url(url: str, *, example: str = "rtsp://HOST:PORT/PATH") -> SplitResult:
    """Split a URL with `//`, a host and perhaps a port, user name and password. Raises `UrlError`.

    Raw signs in a password end the host part too early, so that another host would be contacted. Errors name `example`.
    """
    authority, rest = _split_authority(url)
    user_part = authority.rpartition("@")[0]
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        parts, host = None, None
    if "@" in user_part or any(sign in authority for sign in _AT_SIGNS) or {"[", "]"} & set(user_part):
        raise UrlError(f"a sign in the user name or password is not encoded; {REMEDY}")
    if _password_ends_early(url.partition(":")[0].lower(), authority, rest):
        raise UrlError(
            f"a sign in the user name or password is not encoded; {REMEDY}. An @ that belongs to the path is %40"
        )
    if parts is None:
        hint = f"; {REMEDY}" if user_part else ", with an IPv6 address in brackets"
        raise UrlError(f"not a URL; give {example}{hint}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise UrlError(f"the port is not 1 to 65535; give {example}")
    if not host or any(char.isspace() for char in host):
        raise UrlError(f"no host, or a space in it; give {example}")
    return parts


def _split_authority(url: str) -> tuple[str, str]:
    """Split the text after `//` into user, password, host and port, and the rest, as every URL parser does."""
    _, _, text = url.partition("//")
    end = next((i for i, char in enumerate(text) if char in "/?#"), len(text))
    return text[:end], text[end:]


def _password_ends_early(scheme: str, authority: str, rest: str) -> bool:
    """Return whether `rest` contains the end of a password, because `/`, `?` or `#` in it was not encoded."""
    if "@" in authority or "@" not in rest:
        return False
    name, colon, port = authority.rpartition(":")
    if colon and not authority.endswith("]") and not _DIGITS.fullmatch(port):
        return True
    if "@" in rest.partition("#")[2]:  # no server gets a fragment, so an @ in it is not there on purpose
        return True
    path, mark, query = rest.partition("?")
    if path and mark and "@" not in path and "=" in query.partition("@")[0]:
        return False  # an address as a parameter, like /live?mail=a@example.org
    if _ADDRESS_OR_DOMAIN.fullmatch(name if colon else authority):
        return False
    # `admin:12/x@camera`: a user name without a dot, and digits that look like a port.
    return scheme.startswith("rtsp") or (bool(colon) and _LIKE_A_HOST.search(rest) is not None)
