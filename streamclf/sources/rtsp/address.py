"""Where a server is, and who we are to it: an RTSP URL taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from streamclf.errors import SourceError
from streamclf.sources.rtsp.sdp import MAX_CONTROL_CHARS

PORTS = {"rtsp": 554, "rtsps": 322}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Never shown: not by `repr` either."""

    user: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(***)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RtspAddress:
    """`url` is what stands in requests: without user and password."""

    url: str
    host: str
    port: int
    tls: bool


def parse_url(url: str, shown: str) -> tuple[RtspAddress, Credentials | None]:
    """Raises `SourceError`, which calls it `shown`, for what is no RTSP URL."""
    # What cannot stand in a request's line is encoded, so that a URL cannot end that line.
    text = "".join(char if "!" <= char <= "~" else _encoded(char) for char in url.strip())
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise SourceError(f"{shown}: not a URL; like rtsp://HOST:PORT/PATH") from None
    scheme = parts.scheme.lower()
    if scheme not in PORTS or not host or len(text) > MAX_CONTROL_CHARS:
        raise SourceError(f"{shown}: not an RTSP URL; like rtsp://HOST:PORT/PATH, at most {MAX_CONTROL_CHARS} long")
    user_part, _, place = parts.netloc.rpartition("@")
    user, _, password = user_part.partition(":")
    bare = f"{scheme}://{place}{parts.path}" + (f"?{parts.query}" if parts.query else "")
    credentials = Credentials(user=unquote(user), password=unquote(password)) if user_part else None
    address = RtspAddress(url=bare, host=host, port=PORTS[scheme] if port is None else port, tls=scheme == "rtsps")
    return address, credentials


def join_control(base: str, control: str) -> str:
    """The URL of a track: `control` as it is where it is a whole one, else appended, as all servers expect.

    Not by the rules for links: `rtsp://camera/live?channel=1` and `track1` make `rtsp://camera/live?channel=1/track1`.
    """
    if control in ("", "*"):
        return base
    if control.lower().startswith(("rtsp://", "rtsps://")):
        return control
    return base + control if base.endswith("/") else f"{base}/{control}"


def resolve_redirect(address: RtspAddress, location: str, shown: str) -> RtspAddress:
    """Where `location` leads to. Raises `SourceError` for another host, or where it would give up TLS: a server must
    not be able to send our password, or our requests, elsewhere."""
    found, _ = parse_url(location, f"{shown}: redirected to a place that is none")
    if found.host != address.host:
        raise SourceError(f"{shown}: redirects to another host; give the URL of that one, if you trust it")
    if address.tls and not found.tls:
        raise SourceError(f"{shown}: redirects from rtsps to rtsp, without encryption; give that URL, if you trust it")
    return found


def _encoded(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "replace"))
