"""Sign cookies and links with a key that is derived from the page's token, and limit the rate of failed logins."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

SESSION_S: Final = 7 * 86400.0
"""A login is valid for this long."""
FREE_ATTEMPTS: Final = 5
"""Failed logins of one address before it has to wait."""
FIRST_WAIT_S: Final = 2.0
LONGEST_WAIT_S: Final = 300.0
_FORGET_S: Final = 3600.0
"""An address without failures for this long begins anew."""
_MAX_ADDRESSES: Final = 4096
_MAX_REVOKED: Final = 4096


class Signer:
    """Sign short texts. The key depends on the token alone: a restart of the page keeps logins, a new token ends them.

    Without a token the key is random, so that signatures end with the process.
    """

    def __init__(self, token: str | None) -> None:
        seed = secrets.token_bytes(32) if token is None else token.encode()
        self._key = hmac.digest(seed, b"streamclf page signatures v1", hashlib.sha256)

    def sign(self, purpose: str, text: str, valid_s: float) -> str:
        """Return `text` with an expiry and a signature that is valid for `purpose` alone; it fits into a URL's path.

        `text` has characters of `A-Z a-z 0-9 _ -` only.
        """
        body = f"{text}.{int(time.time() + valid_s)}"
        return f"{body}.{self._signature(purpose, body)}"

    def verify(self, purpose: str, signed: str) -> str | None:
        """Return the text that `sign` was given; None if the signature is wrong or has expired."""
        body, _, signature = signed.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(purpose, body).encode()):
            return None
        text, _, expires = body.rpartition(".")
        return text if expires.isascii() and expires.isdigit() and time.time() < int(expires) else None

    def _signature(self, purpose: str, body: str) -> str:
        digest = hmac.digest(self._key, f"{purpose}\0{body}".encode("utf-8", "replace"), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


class Sessions:
    """Make, check and end logins. A login is a signed value in a cookie; the page keeps only the ended ones."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._revoked: OrderedDict[str, None] = OrderedDict()

    def begin(self) -> str:
        """Return the cookie's value of a new login."""
        return self._signer.sign("session", secrets.token_urlsafe(18), SESSION_S)

    def is_valid(self, value: str) -> bool:
        """Return whether the cookie's value is that of a login that has not ended."""
        session = self._signer.verify("session", value)
        return session is not None and session not in self._revoked

    def end(self, value: str) -> None:
        """End a login: its cookie is not accepted again by this process."""
        if (session := self._signer.verify("session", value)) is not None:
            self._revoked[session] = None
            if len(self._revoked) > _MAX_REVOKED:
                self._revoked.popitem(last=False)


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last_s: float = 0.0
    wait_until_s: float = 0.0


class LoginLimit:
    """Let each address wait after several failed logins, twice as long each time."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> float:
        """Return for how long the address has to wait at monotonic `now_s`; 0 if it may try now."""
        found = self._failures.get(_group_of(address))
        return 0.0 if found is None else max(0.0, found.wait_until_s - now_s)

    def note_failure(self, address: str, now_s: float) -> None:
        """Count a failed login."""
        group = _group_of(address)
        found = self._failures.pop(group, None)
        if found is None or now_s - found.last_s > _FORGET_S:
            found = _Failures()
        self._failures[group] = found
        found.count, found.last_s = found.count + 1, now_s
        if found.count >= FREE_ATTEMPTS:
            doublings = min(found.count - FREE_ATTEMPTS, 16)
            found.wait_until_s = now_s + min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**doublings)
        if len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def note_success(self, address: str) -> None:
        """Forget the failures of an address that has logged in."""
        self._failures.pop(_group_of(address), None)


def _group_of(address: str) -> str:
    """Return the network of an IPv6 address, of which a client has 2**64 addresses, or the address itself."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or ip_network((ip, 64), strict=False))
    return address
