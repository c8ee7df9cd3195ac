"""Authenticate with the basic and digest schemes (RFC 7617, RFC 7616 and RFC 2617, on which RTSP relies)."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from streamclf.sources.rtsp.address import Credentials

MAX_CHALLENGES = 16
HASHES = {"SHA-256": "sha256", "SHA-512-256": "sha512_256", "MD5": "md5"}
"""Digest algorithms, strongest first; each also as `-sess`."""
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?:\s+(?=[A-Za-z0-9-]+\s*=)|\s*(?=,|$))")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """A server's demand for authentication (`WWW-Authenticate`)."""

    scheme: str
    parameters: dict[str, str]

    @property
    def is_stale(self) -> bool:
        """Whether the last credentials were right, but their nonce has expired."""
        return self.parameters.get("stale", "").lower() == "true"


class Authenticator:
    """Respond to one challenge, for as many requests as its nonce is valid."""

    def __init__(self, credentials: Credentials, challenge: Challenge) -> None:
        self._credentials = credentials
        self._challenge = challenge
        self._count = 0

    def header(self, method: str, uri: str, cnonce: str | None = None) -> str:
        """Return the value of the `Authorization` header; `cnonce` is random by default."""
        user, password = self._credentials.user, self._credentials.password
        if self._challenge.scheme == "basic":
            return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._count += 1
        return self._digest(method, uri, cnonce or os.urandom(16).hex())

    def _digest(self, method: str, uri: str, cnonce: str) -> str:
        import hashlib  # with OpenSSL 4 MB, only for cameras with a password

        given = self._challenge.parameters
        user, password = self._credentials.user, self._credentials.password
        algorithm = given.get("algorithm") or "MD5"
        realm, nonce = given.get("realm", ""), given.get("nonce", "")
        with_qop = "auth" in _list(given.get("qop", ""))

        def digest(*parts: str) -> str:
            name = HASHES[algorithm.upper().removesuffix("-SESS")]
            # The server chooses the algorithm.
            return hashlib.new(name, ":".join(parts).encode(), usedforsecurity=False).hexdigest()

        secret = digest(user, realm, password)
        if algorithm.upper().endswith("-SESS"):
            secret = digest(secret, nonce, cnonce)
        count = f"{self._count:08x}"
        middle = (nonce, count, cnonce, "auth") if with_qop else (nonce,)
        named = digest(user, realm) if given.get("userhash", "").lower() == "true" else user
        fields = [("username", named), ("realm", realm), ("nonce", nonce), ("uri", uri)]
        fields.append(("response", digest(secret, *middle, digest(method, uri))))
        if "opaque" in given:
            fields.append(("opaque", given["opaque"]))
        text = [f'{key}="{_escaped(value)}"' for key, value in fields]
        if "algorithm" in given:
            text.append(f"algorithm={algorithm}")
        if with_qop:
            text += ["qop=auth", f"nc={count}", f'cnonce="{cnonce}"']
        elif algorithm.upper().endswith("-SESS"):
            text.append(f'cnonce="{cnonce}"')
        if given.get("userhash", "").lower() == "true":
            text.append("userhash=true")
        return "Digest " + ", ".join(text)


def choose_challenge(headers: Sequence[str]) -> Challenge | None:
    """Choose the strongest challenge in `WWW-Authenticate` headers that we can respond to; None if there is none."""
    challenges = [challenge for header in headers for challenge in _challenges(header)]
    return min((challenge for challenge in challenges if _rank(challenge) is not None), key=_rank_of, default=None)


def _rank(challenge: Challenge) -> int | None:
    if challenge.scheme == "basic":
        return len(HASHES)
    algorithm = (challenge.parameters.get("algorithm") or "MD5").upper().removesuffix("-SESS")
    qop = _list(challenge.parameters.get("qop", ""))
    if challenge.scheme != "digest" or algorithm not in HASHES or (qop and "auth" not in qop):
        return None
    import hashlib

    return list(HASHES).index(algorithm) if HASHES[algorithm] in hashlib.algorithms_available else None


def _rank_of(challenge: Challenge) -> int:
    rank = _rank(challenge)
    assert rank is not None  # `choose_challenge` has removed the others
    return rank


def _challenges(header: str) -> list[Challenge]:
    """Parse the challenges of one header. Commas separate the challenges, and also their parameters."""
    found: list[Challenge] = []
    at = 0
    while len(found) < MAX_CHALLENGES and (scheme := _SCHEME.match(header, at)):
        at = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, at):
            key, quoted, plain = parameter.groups()
            parameters[key.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            at = parameter.end()
        found.append(Challenge(scheme=scheme[1].lower(), parameters=parameters))
    return found


def _list(text: str) -> list[str]:
    return [part.strip().lower() for part in text.split(",") if part.strip()]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
