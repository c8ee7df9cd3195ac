"""Remove credentials from texts, so that no credential reaches a log, an event or an exception's text."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeAlias
from urllib.parse import quote, quote_plus, unquote

from engines.printable import PrintableFormatter, printable

MASK = "***"

ErrorWriter: TypeAlias = Callable[[type[BaseException], BaseException | None, TracebackType | None], None]

# A password that was not percent-encoded may hold / ? # or @. So the user part ends at the last @ of the word: this may
# hide a host name, but it never shows half a password. One slash is enough: people and `pathlib` drop the other one.
_USER_PART = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]*:/{1,3})[^\s\"'<>]*[@\uff20\ufe6b]")
_PARAMETER = (
    r"(?:[a-z0-9.-]*(?:pass|passwd|passphrase|password|pwd|token|secret|signature|credentials?|api[_-]?key|"
    r"access[_-]?key|auth|session(?:[_-]?id)?|jwt)|key|sig|pw|pin|hash)"
)
_QUERY_VALUE = re.compile(
    # Some cameras have their password in the path: /user=admin_password=..._channel=1
    rf"((?:^|[?&;/_,\s\"'])(?:[a-z0-9]+[_-])*{_PARAMETER}=)[^&;#\s\"'<>]*",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(authorization:\s*)[^\r\n]+", re.IGNORECASE)
_AT_SIGN = re.compile("[@\uff20\ufe6b]")
_COLON = re.compile("[:\uff1a\ufe55]")
_SCHEME = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://|(?:(?:rtsp|http|rtmp|mqtt)s?|file|ftp|tcp|udp|srt):/*|//", re.IGNORECASE
)
_NEXT_IN_PATH = re.compile(r"_[a-z]+=", re.IGNORECASE)
_MAX_CANDIDATES = 8

MIN_SECRET_CHARS = 3
"""Masking one or two characters everywhere would make texts unreadable; in URLs they are masked anyway."""
_MIN_PART_CHARS = 6
"""Shorter secrets are masked only where they stand alone: a password `ann` would make `cannot` unreadable."""
MIN_TOKEN_CHARS = 12
"""A user name without a password may be a token. Shorter ones, like `admin`, are masked in URLs only."""
MAX_SECRETS = 4096
"""With more secrets than this, forget the oldest: a service may get new passwords for years."""

_secrets: dict[str, tuple[str, ...]] = {}
"""The forms of each registered secret, oldest first."""
_masked: tuple[str, ...] = ()
"""All forms, longest first: otherwise masking a part of a longer secret would leave the rest of the longer one."""
_lock = threading.Lock()


def redact(text: str) -> str:
    """Return `text` without the user part of any URL, secret query values and every registered secret."""
    for secret in _masked:
        if secret in text:
            text = text.replace(secret, MASK) if len(secret) >= _MIN_PART_CHARS else _masked_alone(secret, text)
    text = _USER_PART.sub(rf"\g<1>{MASK}@", text)
    text = _QUERY_VALUE.sub(rf"\g<1>{MASK}", text)
    return _HEADER.sub(rf"\g<1>{MASK}", text)


def _masked_alone(secret: str, text: str) -> str:
    return re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", MASK, text)


def register_secret(secret: str) -> None:
    """Mask `secret` from now on in every text: plain, percent-encoded, in Python's `repr` or in JSON."""
    register_secrets([secret])


def register_secrets(secrets: Iterable[str]) -> None:
    """Mask each of `secrets` from now on, as `register_secret` does."""
    global _masked
    with _lock:
        for secret in secrets:
            _secrets.pop(secret, None)
            _secrets[secret] = tuple(form for form in _forms_of(secret) if len(form) >= MIN_SECRET_CHARS)
        while len(_secrets) > MAX_SECRETS:
            del _secrets[next(iter(_secrets))]
        forms = {form for each in _secrets.values() for form in each}
        _masked = tuple(sorted(forms, key=lambda form: (-len(form), form)))


def register_url(url: str) -> None:
    """Mask the credentials in `url`, also where a library shows them without the rest of the URL."""
    register_secrets(credentials_in(url))


def credentials_in(url: str) -> Iterator[str]:
    """Yield the password of `url`, and secret values of its path and query. `url` need not be a valid URL.

    Signs in a password may hide where it ends. So each @ is taken for the end once.
    """
    slashes = _SCHEME.match(url)
    rest = url[slashes.end() :] if slashes else url
    ends = [match.start() for match in _AT_SIGN.finditer(rest)][:_MAX_CANDIDATES]
    for end in ends:
        user, *password = _COLON.split(rest[:end], maxsplit=1)
        yield from password
        if not password and len(user) >= MIN_TOKEN_CHARS and (slashes or ":" in url):
            yield user
    if slashes and not ends:  # an @ may have been forgotten: what is no port may be a password
        _, *password = _COLON.split(re.split("[/?#]", rest)[0], maxsplit=1)
        yield from (text for text in password if not text.isdigit() and "]" not in text)
    for match in _QUERY_VALUE.finditer(url):
        value = match[0][len(match[1]) :]
        yield from {value, _NEXT_IN_PATH.split(value, maxsplit=1)[0]}


def replace_secret_parameters(url: str, replace: Callable[[str], str]) -> str:
    """Return `url` with `replace(value)` in place of each secret value of its path and query."""

    def replaced(match: re.Match[str]) -> str:
        value = match[0][len(match[1]) :]
        secret = _NEXT_IN_PATH.split(value, maxsplit=1)[0]
        rest = replace_secret_parameters(value[len(secret) :], replace)
        return f"{match[1]}{replace(secret) if secret else ''}{rest}"

    return _QUERY_VALUE.sub(replaced, url)


def _forms_of(secret: str) -> set[str]:
    plain = unquote(secret)
    forms = {form for text in (secret, plain) for form in (text, quote(text, safe=""), quote(text), quote_plus(text))}
    for text in (secret, plain):
        forms |= {
            repr(text)[1:-1],
            ascii(text)[1:-1],
            json.dumps(text)[1:-1],
            json.dumps(text, ensure_ascii=False)[1:-1],
        }
    return forms


def redact_uncaught_errors() -> None:
    """Print the traceback of an error that nothing catches without credentials, in each thread."""

    def write(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        import traceback

        text = redact("".join(traceback.format_exception(kind, error, trace)))
        print("\n".join(map(printable, text.rstrip("\n").split("\n"))), file=sys.stderr, flush=True)

    handle_uncaught_errors(write)


def handle_uncaught_errors(write: ErrorWriter) -> None:
    """Call `write` with the type, the error and the traceback of each error that nothing catches, in any thread."""

    def write_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            write(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = write
    threading.excepthook = write_thread
    sys.unraisablehook = lambda args: write(args.exc_type, args.exc_value, args.exc_traceback)


class RedactingFormatter(PrintableFormatter):
    """Format log records without credentials and without control characters, tracebacks included."""

    def clean(self, text: str) -> str:
        """Return `text` without credentials."""
        return redact(text)
