"""Encode dataclasses as JSON, and build them again, for messages between processes of one service.

The values were checked where they entered the service. The decoder checks the types, so that two versions that do not
fit together fail at once.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import orjson

MessageT = TypeVar("MessageT")


def encode_message(message: object) -> bytes:
    """Encode a dataclass as one line of JSON."""
    return orjson.dumps(message)


def decode_message(kind: type[MessageT], body: bytes) -> MessageT:
    """Build a `kind` from its JSON. Raises `ValueError` that names the field, and not its value."""
    return cast(MessageT, _build(kind, orjson.loads(body), kind.__name__))


def _build(kind: Any, value: Any, place: str) -> Any:
    """Return `value`, which came from JSON, as `kind`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _build_one_of(arguments, value, place)
    if origin is Literal:
        is_right = value in arguments
    elif origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(kinds) == len(value):
            return tuple(_build(each, item, place) for each, item in zip(kinds, value, strict=True))
        is_right = False
    elif origin is dict and isinstance(value, dict):
        return {key: _build(arguments[1], item, f"{place}.{key}") for key, item in value.items()}
    elif isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints = _hints(kind)
        if unknown := value.keys() - hints.keys():
            raise ValueError(f"{place}: unknown keys {', '.join(sorted(unknown))}")
        if missing := [name for name in hints if name not in value]:
            raise ValueError(f"{place}: {', '.join(missing)} missing")
        return kind(**{name: _build(hint, value[name], f"{place}.{name}") for name, hint in hints.items()})
    elif kind is float and type(value) is int:
        return float(value)
    else:
        is_right = kind is Any or type(value) is kind
    if not is_right:
        raise ValueError(f"{place}: {type(value).__name__} instead of {getattr(kind, '__name__', kind)}")
    return value


def _build_one_of(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    error: ValueError | None = None
    for kind in kinds:
        if kind is not NoneType:
            try:
                return _build(kind, value, place)
            except ValueError as failure:
                error = failure
    raise error or ValueError(f"{place}: no value")


@lru_cache(maxsize=32)
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}
