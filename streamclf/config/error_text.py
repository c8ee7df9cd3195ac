"""Describe what pydantic has found wrong in a configuration: key, value and remedy, and no secret."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, Final

from pydantic import ValidationError

from streamclf.config.outlets import ONE, SEVERAL
from streamclf.config.yaml_text import Place
from streamclf.errors import plain_fault
from streamclf.net.names import STREAM_NAME_RULE

_HIDDEN_KEYS: Final = frozenset(
    {"url", "push_secret", "push", "camera", "images", "tls_ca", "broker", "secret", "token"}
)
"""Keys whose value may contain a password. An error does not show it."""
_NOT_KEYS: Final = frozenset({"[key]", ONE, SEVERAL})
"""Parts of pydantic's locations that are no keys of the file."""
_MAX_VALUE_CHARS: Final = 60
_MAX_MESSAGE_CHARS: Final = 500
_MAX_ERRORS: Final = 5
_LIKE_A_KEY: Final = re.compile(r"[A-Za-z_]{1,40}")
_LIKE_A_NAME: Final = re.compile(r"[^:/@?=#&\x00-\x1f\x7f]{1,64}")
_LIMIT: Final = re.compile(r"at most (\d+) ")
_MAX_MISSPELT: Final = 3
"""A misspelt key may have so many characters more than the right one."""


def describe(
    error: ValidationError,
    *,
    lines: Mapping[Place, int],
    known_keys: Callable[[Place], Sequence[str]],
    fields: frozenset[str],
    hide_values: Callable[[str, Place], str],
) -> str:
    """Return the first five errors in one line. `fields` are the keys whose values may be shown."""
    items = error.errors(include_url=False, include_context=False)
    texts = [_describe(item, lines, known_keys, fields, hide_values) for item in items[:_MAX_ERRORS]]
    if len(items) > _MAX_ERRORS:
        texts.append(f"and {len(items) - _MAX_ERRORS} more")
    return "; ".join(texts)


def _describe(
    item: Any,
    lines: Mapping[Place, int],
    known_keys: Callable[[Place], Sequence[str]],
    fields: frozenset[str],
    hide_values: Callable[[str, Place], str],
) -> str:
    place: Place = tuple(part for part in item["loc"] if part not in _NOT_KEYS)
    message = plain_fault(item["msg"])
    if item["type"] == "extra_forbidden":
        known = known_keys(place)
        where = ".".join(_shown_places(place[:-1], lines))
        shown = _shown_key(str(place[-1]), known)
        line = "" if shown or place not in lines else f" in line {lines[place]}"
        meant = f"; did you mean {_nearest(shown, known)}?" if shown else ""
        text = f"unknown key{line}; known here: {', '.join(known)}{meant}"
        return f"{'.'.join(filter(None, (where, shown)))}: {text}".lstrip(": ")
    where = ".".join(_shown_places(place, lines))
    if item["type"] == "missing":
        message = "missing; add this key"
    if item["type"] == "string_type" and isinstance(item.get("input"), int | float):
        message = "a number, not a text; put it into quotes"
    if item["type"] == "string_pattern_mismatch":
        message = f"must be {STREAM_NAME_RULE}"  # every pattern of the configuration is that of these names
    if item["type"] in ("dict_type", "model_type"):
        message = "must be a section of keys, like NAME: VALUE"
    if item["type"] == "tuple_type":
        message = "must be a list, like [a, b]"
    if item["type"] == "too_short":
        message = "must not be empty; give at least one, or leave the key out"
    if item["type"] == "too_long" and (limit := _LIMIT.search(message)) and isinstance(item.get("input"), Sized):
        message = f"{len(item['input'])} entries; at most {limit[1]}"
    if place == ("streams",) and item["type"] == "too_short":
        message = "no stream; give at least one"
    if place and place[-1] in fields and place[-1] not in _HIDDEN_KEYS:
        where += _shown_value(item.get("input"))
    text = hide_values(f"{where}: {message}" if where else message, place)
    return text if len(text) <= _MAX_MESSAGE_CHARS else f"{text[:_MAX_MESSAGE_CHARS]}…"


def _shown_value(value: object) -> str:
    """Return `=VALUE` for a single value; for a section or list, nothing."""
    if not isinstance(value, bool | int | float | str):
        return ""
    text = str(value)
    text = text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}…"
    return f"={text if text.isprintable() else repr(text)}"


def _shown_key(key: str, known: Sequence[str]) -> str:
    """Return an unknown key if it is like a known one. Otherwise it may be a password in the wrong place."""
    near = _nearest(key, known) if _LIKE_A_KEY.fullmatch(key) else ""
    return key if near and len(key) <= len(near) + _MAX_MISSPELT else ""


def _nearest(text: str, known: Sequence[str]) -> str:
    return next(iter(difflib.get_close_matches(text, known, n=1, cutoff=0.6)), "")


def _shown_places(place: Place, lines: Mapping[Place, int]) -> Iterator[str]:
    for number, part in enumerate(place):
        is_shown = isinstance(part, int) or _LIKE_A_NAME.fullmatch(part)
        yield str(part) if is_shown else f"(line {lines.get(place[: number + 1], '?')})"
