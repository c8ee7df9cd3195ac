"""The one rule for stream names, quick enough for every message from outside."""

from __future__ import annotations

import re
from typing import Final

_STREAM_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def valid_stream_name(name: object) -> bool:
    """Whether `name` is 1 to 64 letters, digits, `_` and `-`: safe in a topic, a path and a URL."""
    return isinstance(name, str) and _STREAM_NAME.fullmatch(name) is not None
