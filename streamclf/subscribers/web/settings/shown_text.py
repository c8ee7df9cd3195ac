"""Show configurations and their differences without the passwords in them."""

from __future__ import annotations

import contextlib
import difflib
import re
from typing import Final

from streamclf.config.placeholders import PLACEHOLDER, SECRET_KEYS, register_config_secrets
from streamclf.config.yaml_text import YamlTextError, parse_yaml
from streamclf.redact import MASK, credentials_in, redact, register_secrets

MAX_DIFF_LINES: Final = 400
_SECRET_LINE: Final = re.compile(
    rf"((?:^|[\s{{,])[\"']?(?:{'|'.join(sorted(SECRET_KEYS))})[\"']?\s*:[ \t]*)(?![\"']?\x01)[^\s#,}}][^\n,}}]*",
    re.MULTILINE,
)
_KEPT: Final = re.compile(
    rf"(?<=//)(?:{PLACEHOLDER.pattern}:?)+@|(?<=[\\s\"'=]){PLACEHOLDER.pattern}(?=[\"'\\s,}}&]|$)", re.MULTILINE
)
"""Placeholders that stand alone: those of a whole user part, and those that are a whole value."""


def masked(text: str) -> str:
    """Return a configuration's text with its passwords masked. `${NAME}` stays where it is a whole value."""
    with contextlib.suppress(YamlTextError):  # the patterns below still find text that resembles a secret
        register_config_secrets(parse_yaml(_without_placeholders(text)).value)
    names: list[str] = []

    def keep(match: re.Match[str]) -> str:
        names.append(match[0])
        return f"\x01{len(names) - 1}\x02"

    hidden = redact(_SECRET_LINE.sub(rf"\g<1>{MASK}", _KEPT.sub(keep, text)))
    return re.sub("\x01(\\d+)\x02", lambda match: names[int(match[1])], hidden)


def difference(before: str, after: str) -> str:
    """Return the lines that differ, as a unified diff without passwords; at most 400 lines."""
    # Masked before the comparison: a line with a password must not show a part of it in any form.
    lines = list(difflib.unified_diff(masked(before).splitlines(), masked(after).splitlines(), n=2, lineterm=""))[2:]
    more = [f"… and {len(lines) - MAX_DIFF_LINES} more lines"] if len(lines) > MAX_DIFF_LINES else []
    return "\n".join(lines[:MAX_DIFF_LINES] + more)


def find_plain_secret(address: str) -> bool:
    """Return whether an address holds a password in plain text, and mask it in all output from now on."""
    found = [text for text in credentials_in(address) if PLACEHOLDER.sub("", text)]
    register_secrets(found)
    return bool(found)


def _without_placeholders(text: str) -> str:
    """Return the text without `${NAME}`, which must not be taken for secrets to mask."""
    return PLACEHOLDER.sub("", text)
