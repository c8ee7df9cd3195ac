"""Parse the address that a webhook posts to, and mask the parts of it that may be secrets."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote

from streamclf.errors import UsageError
from streamclf.net.urls import UrlError, split_url
from streamclf.redact import register_secret, register_secrets

MIN_TOKEN_CHARS: Final = 16
"""A name of this length in a path may be a token, as in the webhooks of Slack and Discord."""
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The address of a receiver. Its text leaves out path and query, which for many services are the secret."""

    scheme: str
    host: str
    port: int
    path: str = field(repr=False)
    authorization: str | None = field(repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_target(url: str) -> Target:
    """Parse an http or https URL. Raises `UsageError`, which shows no part of the URL."""
    example = "http://host[:port]/path or https://…"
    if url.partition(":")[0].lower() not in ("http", "https") or _UNPRINTABLE.search(url) or " " in url:
        raise UsageError(f"the webhook's URL: no http or https, or a character that must be encoded; give {example}")
    try:
        parts = split_url(url, example=example)
    except UrlError as error:
        raise UsageError(f"the webhook's URL: {error}") from None
    _register_secrets(parts)
    authorization = None
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
        register_secret(password)
        register_secret(encoded)
        authorization = f"Basic {encoded}"
    return Target(
        scheme=parts.scheme,
        host=parts.hostname or "",
        port=parts.port or (443 if parts.scheme == "https" else 80),
        path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        authorization=authorization,
    )


def _register_secrets(parts: SplitResult) -> None:
    """Mask the parts of the receiver's URL that may be secrets: long names in its path, and values of its query."""
    values = [value for _, value in parse_qsl(parts.query)]
    register_secrets(each for each in [*parts.path.split("/"), *values] if len(each) >= MIN_TOKEN_CHARS)
