"""Define the rule for stream names, and the error for a name that no stream has."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from typing import Final

STREAM_NAME_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"
STREAM_NAME_RULE: Final = "1 to 64 letters, digits, _ and -"
"""The rule in words, for error messages."""
MAX_NAME_CHARS: Final = 64
"""Characters of a stream's name for people, which is any text."""
MAX_STREAMS: Final = 400
"""Streams of one service."""
_MAX_SHOWN: Final = 12
_STREAM_NAME: Final = re.compile(STREAM_NAME_PATTERN)


def valid_stream_name(name: object) -> bool:
    """Return whether `name` is 1 to 64 letters, digits, `_` and `-`: safe in a topic, a path and a URL."""
    return isinstance(name, str) and _STREAM_NAME.fullmatch(name) is not None


def describe_unknown(kind: str, name: str, known: Collection[str], owner: str) -> str:
    """Return the text for a name that is not among `known`, like `no stream dor; the service has door, yard; …`."""
    more = f" and {len(known) - _MAX_SHOWN} more" if len(known) > _MAX_SHOWN else ""
    shown = ", ".join([*known][:_MAX_SHOWN]) + more
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"no {kind} {name}; {owner} has {shown or 'none'}{meant}"
