"""Remove credentials from texts, so that no credential reaches a log, an event or an exception's text."""

from __future__ import annotations

import re
import threading
from urllib.parse import quote, quote_plus, unquote

from engines.printable import PrintableFormatter

MASK = "***"

# A password that was not percent-encoded may hold / ? # or @. So the user part ends at the last @ of the word: this may
# hide a host name, but it never shows half a password.
_USER_PART = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]*://)[^\s\"'<>]*@")
_QUERY_SECRET = re.compile(
    r"([?&;](?:[a-z_]*(?:pass|password|passwd|pwd|token|secret|signature|api_?key|auth)|key|sig)=)[^&;#\s\"'<>]*",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(authorization:\s*)[^\r\n]+", re.IGNORECASE)

MIN_SECRET_CHARS = 3
"""Masking one or two characters everywhere would make texts unreadable; in URLs they are masked anyway."""
MAX_SECRETS = 4096

_secrets: dict[str, None] = {}
_lock = threading.Lock()


def redact(text: str) -> str:
    """Return `text` without the user part of any URL, secret query values and every registered secret."""
    for secret in tuple(_secrets):
        text = text.replace(secret, MASK)
    text = _USER_PART.sub(rf"\g<1>{MASK}@", text)
    text = _QUERY_SECRET.sub(rf"\g<1>{MASK}", text)
    return _HEADER.sub(rf"\g<1>{MASK}", text)


def register_secret(secret: str) -> None:
    """Mask `secret` from now on in every text: plain, percent-encoded or in Python's `repr`."""
    plain = unquote(secret)
    forms = {form for text in (secret, plain) for form in (text, quote(text, safe=""), quote(text), quote_plus(text))}
    forms |= {repr(form)[1:-1] for form in (secret, plain)}
    with _lock:
        # Longest first: otherwise masking a secret that is part of a longer one would leave the rest of the longer one.
        known = sorted({*_secrets, *(form for form in forms if len(form) >= MIN_SECRET_CHARS)}, key=len, reverse=True)
        if len(known) > MAX_SECRETS:
            raise ValueError(f"{len(known)} secrets registered: at most {MAX_SECRETS}; register each once")
        _secrets.clear()
        _secrets.update(dict.fromkeys(known))


def register_url(url: str) -> None:
    """Mask the password of `url`, also where a library shows it without the rest of the URL."""
    match = _USER_PART.match(url)
    if match:
        user_part = match[0][len(match[1]) : -1]
        _, _, password = user_part.partition(":")
        register_secret(password)


class RedactingFormatter(PrintableFormatter):
    """Format log records without credentials and without control characters, tracebacks included."""

    def clean(self, text: str) -> str:
        """Return `text` without credentials."""
        return redact(text)
