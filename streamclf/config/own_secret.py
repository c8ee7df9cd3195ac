"""Define the type of a secret that stands in the configuration itself, like `${WEBHOOK_SECRET}`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from streamclf.net.secret_files import MAX_SECRET_CHARS, MIN_SECRET_CHARS
from streamclf.redact import register_secret


def _check_secret(value: str | None) -> str | None:
    if value is not None:
        register_secret(value)
        if not MIN_SECRET_CHARS <= len(value) <= MAX_SECRET_CHARS or not value.isascii():
            raise ValueError(f"{MIN_SECRET_CHARS} to {MAX_SECRET_CHARS} ASCII characters, like ${{NAME}}")
    return value


OwnSecret: TypeAlias = Annotated[str, AfterValidator(_check_secret)]
"""16 to 4096 ASCII characters, which are masked in all output."""
