"""Parse RTSP URLs into a server's address and our credentials."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from streamclf.errors import SourceError
from streamclf.sources.rtsp.sdp import MAX_CONTROL_CHARS

PORTS = {"rtsp": 554, "rtsps": 322}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user name and password, which `repr` hides."""

    user: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(***)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RtspAddress:
    """The address of a server. `url` is for requests, without user and password."""

    url: str
    host: str
    port: int
    tls: bool


def parse_url(url: str, shown: str) -> tuple[RtspAddress, Credentials | None]:
    """Parse an RTSP URL. Raises `SourceError`, which calls the URL `shown`, if it is not one."""
    # Encode the characters that a request line cannot contain, so that a URL cannot end that line.
    text = "".join(char if "!" <= char <= "~" else _encoded(char) for char in url.strip())
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise SourceError(f"{shown}: not a URL; give one like rtsp://HOST:PORT/PATH") from None
    scheme = parts.scheme.lower()
    if scheme not in PORTS or not host or len(text) > MAX_CONTROL_CHARS:
        raise SourceError(
            f"{shown}: not an RTSP URL; give one like rtsp://HOST:PORT/PATH, of at most {MAX_CONTROL_CHARS} characters"
        )
    user_part, _, place = parts.netloc.rpartition("@")
    user, _, password = user_part.partition(":")
    bare = f"{scheme}://{place}{parts.path}" + (f"?{parts.query}" if parts.query else "")
    credentials = Credentials(user=unquote(user), password=unquote(password)) if user_part else None
    address = RtspAddress(url=bare, host=host, port=PORTS[scheme] if port is None else port, tls=scheme == "rtsps")
    return address, credentials


def join_control(base: str, control: str) -> str:
    """Return the URL of a track: `control` itself if it is a URL, else appended to `base`, as all servers expect.

    The rules for relative links do not apply: `rtsp://camera/live?channel=1` and `track1` give
    `rtsp://camera/live?channel=1/track1`.
    """
    if control in ("", "*"):
        return base
    if control.lower().startswith(("rtsp://", "rtsps://")):
        return control
    return base + control if base.endswith("/") else f"{base}/{control}"


def resolve_redirect(address: RtspAddress, location: str, shown: str) -> RtspAddress:
    """Return the address that `location` redirects to.

    Raises `SourceError` for another host, or one without TLS where we had it: a server must not be able to redirect our
    password, or our requests, elsewhere.
    """
    found, _ = parse_url(location, f"{shown}: redirected to an invalid address")
    if found.host != address.host:
        raise SourceError(f"{shown}: redirects to another host; configure the URL of that host if you trust it")
    if address.tls and not found.tls:
        raise SourceError(
            f"{shown}: redirects from rtsps to rtsp, without encryption; configure that URL if you trust it"
        )
    return found


def _encoded(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "replace"))
