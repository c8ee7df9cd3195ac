"""Define the rule for stream names: a pattern for schemas, and a check that is quick enough for every message."""

from __future__ import annotations

import re
from typing import Final

STREAM_NAME_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"
STREAM_NAME_RULE: Final = "1 to 64 letters, digits, _ and -"
"""The rule in words, for error messages."""
MAX_NAME_CHARS: Final = 64
"""Characters of a stream's name for people, which is any text."""
_STREAM_NAME: Final = re.compile(STREAM_NAME_PATTERN)


def valid_stream_name(name: object) -> bool:
    """Return whether `name` is 1 to 64 letters, digits, `_` and `-`: safe in a topic, a path and a URL."""
    return isinstance(name, str) and _STREAM_NAME.fullmatch(name) is not None
