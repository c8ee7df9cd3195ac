"""Parse YAML that a person wrote, or an attacker: bounded in depth, aliases and size, with errors in our own words.

The errors never quote the text, because a password may stand next to a mistake. They name line, column and problem.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Place: TypeAlias = tuple[str | int, ...]
"""The keys and indices that lead to a value, like `("streams", "door", "url")`."""

MAX_DEPTH: Final = 32
MAX_VALUES: Final = 200_000
"""Largest number of keys and values, each alias counted as often as it is used."""
MAX_NUMBER_CHARS: Final = 64
_TAG: Final = "tag:yaml.org,2002:"
_TAGS: Final = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge"))
_UNUSABLE: Final = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f\\ud800-\\udfff]")
"""Control characters, which no path, URL or name may contain, and halves of characters, which cannot be printed."""
_KEY_THAT_MAY_BE_SHOWN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NUMBERS: Final = frozenset({_TAG + "int", _TAG + "float"})
_CONSTRUCTOR_ERRORS: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""The errors of PyYAML's constructors for a text that does not fit its tag, such as `!!int abc` and `0x_`."""
_QUOTES: Final = "put a value that begins with a sign into quotes"
_PROBLEMS: Final = (
    ("mapping values are not allowed", "a colon where none may be; put a value with a colon into quotes"),
    ("mapping keys are not allowed", "a question mark where none may be; put the value into quotes"),
    ("sequence entries are not allowed", "a dash where none may be; begin a list on a line of its own"),
    ("expected ',' or '}'", "a comma or } is missing before this place"),
    ("expected ',' or ']'", "a comma or ] is missing before this place"),
    ("could not find expected ':'", "a line without a colon; write `key: value`"),
    ("expected <block end>", "wrong indentation, or text after the end of a value; put the value into quotes"),
    ("found character '\\t'", "a tab; indent with spaces"),
    ("found character", f"a value cannot begin with this character; {_QUOTES}"),
    ("found undefined alias", f"* begins an alias that is not defined; {_QUOTES}"),
    ("found duplicate anchor", "& begins an anchor that is defined already; give it another name"),
    ("found unknown escape", "an unknown escape after \\; in single quotes \\ is an ordinary character"),
    ("found unexpected end of stream", "quotes that do not end; close them"),
    ("found unexpected document separator", "quotes that do not end; close them"),
    ("expected the node content", "a value is missing here"),
    ("expected alphabetic or numeric", f"* or & without a name; {_QUOTES}"),
    ("expected chomping or indentation", f"| and > begin a text in the lines below; {_QUOTES}"),
    ("found undefined tag handle", f"! begins a tag; {_QUOTES}"),
    ("while scanning a tag", f"! begins a tag; {_QUOTES}"),
    ("while parsing a tag", f"! begins a tag; {_QUOTES}"),
    ("could not determine a constructor", "could not determine a constructor for this tag; remove the tag"),
    ("expected a single document", "a second document (---); give one"),
    ("expected '<document start>'", "text after the end of the document; check the indentation"),
    ("while scanning a directive", f"% begins a directive; {_QUOTES}"),
    ("expected a mapping", "<< needs an alias of keys and values"),
    ("found unhashable key", "a list or section cannot be a key; put the key into quotes"),
)
"""The beginning of PyYAML's problem or context, and our words for it. PyYAML's own words may quote the text."""


class YamlTextError(ValueError):
    """Text that is not YAML, or not of the supported kind. The message names the place and quotes no value."""


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """The value of a document, and the line of each key and list item in it."""

    value: Any
    lines: Mapping[Place, int]


def parse_yaml(text: str) -> YamlDocument:
    """Parse one document: text, numbers, true, false, null, lists and mappings. Raises `YamlTextError`."""
    with _loading(text) as loader:
        node = loader.get_single_node()
        return (
            YamlDocument(None, {}) if node is None else YamlDocument(loader.construct_document(node), _lines_of(node))
        )


def compose_yaml(text: str) -> Node | None:
    """Return the root node of one document, with the place of each value in `text`. Raises `YamlTextError`.

    An alias is the same node as its anchor. Keys that `<<` merges are not in the node's mapping.
    """
    with _loading(text) as loader:
        node: Node | None = loader.get_single_node()
        return node


@contextlib.contextmanager
def _loading(text: str) -> Iterator[_Loader]:
    """Yield a loader of `text`, and raise its errors as `YamlTextError`."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        yield loader
    except yaml.MarkedYAMLError as error:
        raise YamlTextError(_explain(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlTextError(f"line {line}: a control character; remove it") from None
    except RecursionError:  # a caller may be deep in the stack already
        raise YamlTextError(f"nested too deeply; at most {MAX_DEPTH} levels") from None
    finally:
        if loader is not None:
            loader.dispose()


def _explain(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    texts = (error.problem or "", error.context or "")
    words = next((ours for theirs, ours in _PROBLEMS if any(text.startswith(theirs) for text in texts)), None)
    if isinstance(error, _FaultError):
        words = error.problem
    return f"{_place_of(mark)}{words or 'not valid YAML; compare it with the examples in the documentation'}"


def _place_of(mark: Any) -> str:
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "


class _FaultError(yaml.MarkedYAMLError):
    """A mistake that this module has found; its words are our own."""

    def __init__(self, node: Any, problem: str) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):
    """A YAML loader with bounds, which refuses repeated keys and reads only true and false as booleans.

    A repeated key would silently lose the first stream of that name; `on` and `off` are keys of an action. Dates stay
    text. Each node is counted while it is composed, so the loader stops before a bound is exceeded.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - a class attribute of the base class, too
        letter: [item for item in resolvers if item[0] not in (_TAG + "bool", _TAG + "timestamp")]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._sizes: dict[str | None, int] = {}
        """The number of values under each complete anchor."""

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Compose the next node. Raises `YamlTextError` beyond the bounds, and for an alias within its own anchor."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._sizes:
                raise _FaultError(event, "an alias within its own anchor; a value cannot contain itself")
            self._count(event, self._sizes.get(event.anchor, 1))
            return super().compose_node(parent, index)
        before = self._values
        self._count(event, 1)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _FaultError(event, f"nested too deeply; at most {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._values - before
        if node is not None and node.tag not in _TAGS:
            raise _FaultError(node, "could not determine a constructor for this tag; remove the tag, or use quotes")
        return node

    def _count(self, event: Any, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise _FaultError(event, f"more than {MAX_VALUES} values, with those that aliases repeat")

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Construct a value. Raises `YamlTextError` for text that does not fit its tag."""
        if node.tag in _NUMBERS and len(str(node.value)) > MAX_NUMBER_CHARS:
            raise _FaultError(node, f"a number of more than {MAX_NUMBER_CHARS} characters; use quotes for text")
        try:
            return super().construct_object(node, deep=True)
        except _CONSTRUCTOR_ERRORS:
            raise _FaultError(node, f"not a value of type {node.tag.removeprefix(_TAG)}; use quotes for text") from None

    def construct_scalar(self, node: ScalarNode | MappingNode) -> Any:
        """Return the text of a value. Raises `YamlTextError` for characters that no value may contain."""
        text = super().construct_scalar(node)
        if _UNUSABLE.search(text):
            raise _FaultError(node, "a control character, or half of a character; remove it")
        return text

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping. Raises `YamlTextError` for a key that appears twice, or is not a single value."""
        lines: dict[str, int] = {}
        for key_node, _ in node.value if isinstance(node, MappingNode) else ():
            if not isinstance(key_node, ScalarNode):
                raise _FaultError(key_node, "a list or section cannot be a key; put the key into quotes")
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in lines and key_node.tag != _TAG + "merge":
                shown = f"key {key!r}" if _KEY_THAT_MAY_BE_SHOWN.fullmatch(key) else "a key"
                raise _FaultError(
                    key_node, f"{shown} appears twice, again in line {line}; line {lines[key]} has it already, keep one"
                )
            lines[key] = line
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=True)
        return mapping


_Loader.add_implicit_resolver(_TAG + "bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def _lines_of(root: Node) -> dict[Place, int]:
    """Return the line of each key and item; those that come from an alias have the anchor's lines."""
    lines: dict[Place, int] = {}
    waiting: list[tuple[Place, Node]] = [((), root)]
    while waiting:
        place, node = waiting.pop()
        if isinstance(node, MappingNode):
            for key, value in node.value:
                inner = (*place, str(key.value))
                lines[inner] = key.start_mark.line + 1
                waiting.append((inner, value))
        elif isinstance(node, SequenceNode):
            for number, item in enumerate(node.value):
                inner = (*place, number)
                lines[inner] = item.start_mark.line + 1
                waiting.append((inner, item))
    return lines
