"""Credentials never reach a log, an event or an exception's text."""

from __future__ import annotations

import logging
import re
import threading
from types import TracebackType
from urllib.parse import quote, quote_plus, unquote

MASK = "***"

# A password may hold raw / ? # or @ where nobody encoded it, so the user part ends at the last @ of the word:
# rather one host name hidden too much than half a password shown.
_USER_PART = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]*://)[^\s\"'<>]*@")
_QUERY_SECRET = re.compile(
    r"([?&;](?:[a-z_]*(?:pass|password|passwd|pwd|token|secret|signature|api_?key|auth)|key|sig)=)[^&;#\s\"'<>]*",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(authorization:\s*)[^\r\n]+", re.IGNORECASE)

MIN_SECRET_CHARS = 3
"""Masking every occurrence of one or two characters would make texts unreadable; in URLs they are masked anyway."""
MAX_SECRETS = 4096

_secrets: dict[str, None] = {}
_lock = threading.Lock()


def redact(text: str) -> str:
    """`text` without the user part of any URL, secret query values and every secret that was registered."""
    for secret in tuple(_secrets):
        text = text.replace(secret, MASK)
    text = _USER_PART.sub(rf"\g<1>{MASK}@", text)
    text = _QUERY_SECRET.sub(rf"\g<1>{MASK}", text)
    return _HEADER.sub(rf"\g<1>{MASK}", text)


def register_secret(secret: str) -> None:
    """Mask `secret` from now on wherever it stands, plain, percent-encoded or in Python's `repr`."""
    plain = unquote(secret)
    forms = {form for text in (secret, plain) for form in (text, quote(text, safe=""), quote(text), quote_plus(text))}
    forms |= {repr(form)[1:-1] for form in (secret, plain)}
    with _lock:
        # Longest first: a secret that is part of another must not leave the other's rest behind.
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


class RedactingFormatter(logging.Formatter):
    """A formatter whose records, tracebacks included, hold no credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line or lines, redacted."""
        return redact(super().format(record))

    def formatException(  # noqa: N802 - the name is logging's
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """The traceback, redacted: logging caches it in the record, where other handlers find it."""
        return redact(super().formatException(ei))
