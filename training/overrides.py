"""Apply `key=value` arguments of the command line to a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engines.printable import printable
from streamclf.config.yaml_text import YamlTextError, parse_yaml
from training.errors import RecipeError


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set keys of the recipe in `tree` to the values of `key.sub=value`.

    Raises `RecipeError` for an override that cannot be applied, or that replaces the value of an earlier one.
    """
    earlier: dict[str, str] = {}
    for override in overrides:
        key = override.partition("=")[0]
        for other, text in earlier.items():
            if other == key or other.startswith(f"{key}."):
                raise RecipeError(f"{override!r}: replaces {text!r}, which was given before it; keep one of them")
        earlier[key] = override
        _apply_override(tree, override)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    try:
        override.encode()
    except UnicodeEncodeError:  # bytes of the command line that are not UTF-8
        raise RecipeError(
            f"{printable(override)}: not UTF-8, so no recipe can hold it; rename the file or folder, or link to it"
        ) from None
    if not equals or not key:
        raise RecipeError(f"{override!r}: an override is key=value, such as optimiser.steps=100")
    *parents, last = key.split(".")
    node: Any = tree
    for parent in parents:
        child = node[_index(node, parent, override)] if isinstance(node, list) else node.setdefault(parent, {})
        if not isinstance(child, dict | list):
            raise RecipeError(f"{override!r}: {parent} is a value, not a section")
        node = child
    try:
        node[_index(node, last, override) if isinstance(node, list) else last] = parse_yaml(text).value
    except YamlTextError as error:
        raise RecipeError(f"{override!r}: the value is not YAML ({error})") from error


def _index(items: list[Any], name: str, override: str) -> int:
    """Return `name` as an index of `items`."""
    if not name.isdigit() or int(name) >= len(items):
        raise RecipeError(f"{override!r}: {name} selects no item; the list has items 0 to {len(items) - 1}")
    return int(name)
