"""Read a secret or token from a file that only its owner can read, and mask it in all output."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from streamclf.errors import UsageError
from streamclf.net.trusted_files import check_secrecy, read_key_file
from streamclf.redact import register_secret

MIN_SECRET_CHARS: Final = 16
MAX_SECRET_CHARS: Final = 4096
_EXAMPLE: Final = "for example from: openssl rand -hex 32"


def read_secret(path: Path, what: str = "secret") -> bytes:
    """Read the secret in `path`, without white space at its ends. Raises `UsageError`, also if others can read it."""
    data, mode = read_key_file(path, max_bytes=MAX_SECRET_CHARS + 64, remedy=f"give a file with the {what}")
    secret = data.strip()
    if not MIN_SECRET_CHARS <= len(secret) <= MAX_SECRET_CHARS:
        raise UsageError(
            f"{path}: a {what} of {len(secret)} bytes; {MIN_SECRET_CHARS} to {MAX_SECRET_CHARS}, {_EXAMPLE}"
        )
    check_secrecy(path, mode)
    register_secret(secret.decode("utf-8", "replace"))
    return secret


def read_token(path: Path) -> str:
    """Read the token in `path`, which clients send in a header: ASCII, without white space at its ends."""
    token = read_secret(path, "token")
    if not token.isascii():
        raise UsageError(f"{path}: not plain text; give a file with the token, from: openssl rand -hex 32")
    return token.decode("ascii")
