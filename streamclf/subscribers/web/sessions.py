"""Begin and end logins, whose cookies are signed, and limit the rate of failed logins."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from streamclf.net.signer import Signer

SESSION_S: Final = 7 * 86400.0
"""A login is valid for this long."""
FREE_ATTEMPTS: Final = 5
"""Failed logins of one address before it has to wait."""
FIRST_WAIT_S: Final = 2.0
LONGEST_WAIT_S: Final = 300.0
_FORGET_S: Final = 3600.0
"""After this time without failures, the failures of an address are forgotten."""
_MAX_ADDRESSES: Final = 4096
_MAX_REVOKED: Final = 4096


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
