"""Sign short texts with an expiry: cookies of the page, and links that need no login."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from typing import Final

_ROUNDS: Final = 100_000


class Signer:
    """Sign short texts. The key depends on the token alone: a restart of the page keeps logins, a new token ends them.

    Without a token the key is random, so that signatures end with the process.
    """

    def __init__(self, token: str | None) -> None:
        seed = secrets.token_bytes(32) if token is None else token.encode()
        # Many rounds: a receiver of one signed link could try weak tokens without asking the page. About 50 ms.
        self._key = hashlib.pbkdf2_hmac("sha256", seed, b"streamclf page signatures v2", _ROUNDS)

    def sign(self, purpose: str, text: str, valid_s: float) -> str:
        """Return `text` with an expiry and a signature that is valid for `purpose` alone; it fits into a URL's path.

        `text` has characters of `A-Z a-z 0-9 _ -` only, or is the path of a clip's file.
        """
        body = f"{text}.{int(time.time() + valid_s)}"
        return f"{body}.{self._signature(purpose, body)}"

    def verify(self, purpose: str, signed: str) -> str | None:
        """Return the text that `sign` was given; None if the signature is wrong or has expired."""
        body, _, signature = signed.rpartition(".")
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), self._signature(purpose, body).encode()):
            return None
        text, _, expires = body.rpartition(".")
        is_number = expires.isascii() and expires.isdigit() and len(expires) <= 20
        return text if is_number and time.time() < int(expires) else None

    def _signature(self, purpose: str, body: str) -> str:
        digest = hmac.digest(self._key, f"{purpose}\0{body}".encode("utf-8", "replace"), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")
