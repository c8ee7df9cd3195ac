"""Change single values in a YAML text, and keep every other byte: comments, quotes, blank lines, order, anchors.

A library that writes a document again, such as ruamel.yaml, also writes the lines that did not change: it moves
comments, changes spaces and indentation, and leaves out anchors that nothing uses. Here the parser's positions say
which characters hold a value, and only these are replaced. Each result is parsed again, and must be the old content
with that one change; otherwise the edit is refused. So a layout that this module does not know costs the edit, never
the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from streamclf.config.yaml_text import YamlTextError, compose_yaml, parse_yaml

Keys: TypeAlias = Sequence[str]
Scalar: TypeAlias = str | int | float | bool
Value: TypeAlias = Scalar | Sequence[Any] | Mapping[str, Any]
"""A list is written on one line."""

DEFAULT_INDENT: Final = 2
_REFUSED: Final = "this place of the file has a layout that cannot be changed here; edit the file by hand"
_ALIAS: Final = re.compile(r"\s*:\s*\*[^\s,\]}]+")
_VALUE_BEGINS: Final = re.compile(r"\s*:[ \t]*")
_COMMENT_LINE: Final = re.compile(r"(?P<indent> *)#[^\n]*(?:\n|\Z)")


class YamlEditError(ValueError):
    """A change that cannot be made to this text. The message names the place and the remedy, and quotes no value."""


def set_value(text: str, keys: Keys, value: Value) -> str:
    """Return `text` with `value` at the place `keys`; missing sections are added. Raises `YamlEditError`.

    A value or a list that is there is replaced; a section is not.
    """
    return _checked(text, _Edit(text, keys).set(value), keys, value)


def remove_value(text: str, keys: Keys) -> str:
    """Return `text` without the key at the place `keys`. Comments above it stay. Raises `YamlEditError`."""
    return _checked(text, _Edit(text, keys).remove(), keys, None)


def _checked(before: str, after: str, keys: Keys, value: Any) -> str:
    """Return `after`, if it is the document `before` with that change and nothing else."""
    expected = parse_yaml(before).value
    section = expected = {} if expected is None else _copied(expected)
    for key in keys[:-1]:
        section = section.setdefault(key, {})
    if value is None:
        del section[keys[-1]]
    else:
        section[keys[-1]] = value
    try:
        is_right = json.dumps(parse_yaml(after).value) == json.dumps(expected)
    except YamlTextError:
        is_right = False
    if not is_right:
        raise YamlEditError(f"{_shown(keys)}: {_REFUSED}")
    return after


def _copied(value: Any) -> Any:
    """Copy the mappings of a document, so that a mapping which an alias repeats can change in one place."""
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key of a mapping and its value, with their places in the text: `begin` of the key to `end` of the value."""

    key: ScalarNode
    value: Node
    begin: int
    end: int
    value_begin: int
    is_alias: bool


class _Edit:
    """One change to a text, at the place `keys`."""

    def __init__(self, text: str, keys: Keys) -> None:
        self._text, self._keys = text, list(keys)
        self._newline = "\r\n" if "\r\n" in text else "\n"

    def set(self, value: Value) -> str:
        """Return the text with the value."""
        root = compose_yaml(self._text)
        if root is None:
            return self._text + self._block_lines(self._keys[0], self._nested(self._keys[1:], value), 0, 0)
        section, depth = root, 0
        while True:
            if not isinstance(section, MappingNode):
                raise YamlEditError(f"{_shown(self._keys[:depth])}: not a section of keys; edit the file by hand")
            entry = self._find(section, self._keys[depth])
            if entry is None:
                inner = self._nested(self._keys[depth + 1 :], value)
                return self._add(section, self._keys[depth], inner, self._indent(section) or self._indent(root))
            if depth == len(self._keys) - 1:
                if isinstance(value, Mapping):
                    raise YamlEditError(f"{_shown(self._keys)}: exists already; choose another name")
                return self._replace(entry, value)
            if entry.is_alias:
                raise YamlEditError(
                    f"{_shown(self._keys[: depth + 1])}: repeats another section (*); edit the file by hand"
                )
            section, depth = entry.value, depth + 1

    def remove(self) -> str:
        """Return the text without the key."""
        section: Node | None = compose_yaml(self._text)
        entry = None
        for key in self._keys:
            if not isinstance(section, MappingNode) or (entry and entry.is_alias):
                raise YamlEditError(f"{_shown(self._keys)}: {_REFUSED}")
            parent, entry = section, self._find(section, key)
            if entry is None:
                raise YamlEditError(f"{_shown(self._keys)}: not in the file; it may be in `defaults`, or come from <<")
            section = entry.value
        assert entry is not None
        if parent.flow_style:
            return self._remove_from_flow(parent, entry)
        begin = self._text.rfind("\n", 0, entry.begin) + 1
        if self._text[begin : entry.begin].strip():
            raise YamlEditError(f"{_shown(self._keys)}: {_REFUSED}")
        return self._text[:begin] + self._text[self._line_end(entry.end) :]

    def _replace(self, entry: _Entry, value: Scalar | Sequence[Any]) -> str:
        if isinstance(entry.value, MappingNode) and not entry.is_alias:
            raise YamlEditError(f"{_shown(self._keys)}: {_REFUSED}")
        if isinstance(entry.value, SequenceNode) and "#" in self._text[entry.value_begin : entry.end]:
            raise YamlEditError(
                f"{_shown(self._keys)}: the list has comments, which would be lost; edit the file by hand"
            )
        space = "" if self._text[entry.value_begin - 1].isspace() else " "
        rest = self._text[entry.end :]
        return (
            self._text[: entry.value_begin] + space + _flow_text(value) + (" " if rest.startswith("#") else "") + rest
        )

    def _add(self, section: MappingNode, key: str, value: Any, indent: int) -> str:
        """Add a key at the end of a section."""
        entries = self._entries(section)
        if section.flow_style:
            quoted = any(entry.key.style == '"' for entry in entries)
            pair = f"{_key_text(key, quoted)}: {_flow_text(value, quoted)}"
            if not entries:
                end = section.end_mark.index - 1
                return self._text[:end] + pair + self._text[end:]
            end = entries[-1].end
            return f"{self._text[:end]}, {pair}{self._text[end:]}"
        last = entries[-1]  # a section in block style has at least one key
        column = last.key.start_mark.column
        siblings = [entry.value for entry in entries if isinstance(entry.value, MappingNode) and not entry.is_alias]
        if siblings and all(node.flow_style for node in siblings) and isinstance(value, Mapping):
            lines = f"{' ' * column}{_key_text(key)}: {_flow_text(value)}{self._newline}"
        else:
            lines = self._block_lines(key, value, column, indent)
        end = self._after_comments(self._line_end(last.end), column)
        before = self._text[:end]
        if not before.endswith("\n"):
            before += self._newline
            lines = lines.removesuffix(self._newline)
        return before + lines + self._text[end:]

    def _remove_from_flow(self, parent: MappingNode, entry: _Entry) -> str:
        entries = self._entries(parent)
        number = next(i for i, each in enumerate(entries) if each.begin == entry.begin)
        if number + 1 < len(entries):
            return self._text[: entry.begin] + self._text[entries[number + 1].begin :]
        begin = entries[number - 1].end if number else entry.begin
        return self._text[:begin] + self._text[entry.end :]

    def _entries(self, section: MappingNode) -> list[_Entry]:
        return [self._entry(key, value) for key, value in section.value]

    def _find(self, section: MappingNode, key: str) -> _Entry | None:
        for key_node, value in section.value:
            if isinstance(key_node, ScalarNode) and key_node.value == key:
                return self._entry(key_node, value)
        return None

    def _entry(self, key: ScalarNode, value: Node) -> _Entry:
        """Find where a value is. The parser gives the anchor's place for an alias, which is before the alias."""
        begin, after_key = key.start_mark.index, key.end_mark.index
        if alias := _ALIAS.match(self._text, after_key):
            star = alias[0].index("*")
            return _Entry(key, value, begin, alias.end(), after_key + star, True)
        if isinstance(value, ScalarNode) and value.start_mark.index == value.end_mark.index:  # an empty value
            colon = _VALUE_BEGINS.match(self._text, after_key)
            place = after_key if colon is None else colon.end()
            return _Entry(key, value, begin, place, place, False)
        return _Entry(key, value, begin, self._content_end(value), value.start_mark.index, False)

    def _content_end(self, node: Node) -> int:
        """Return the end of a value, without the comments and blank lines that the parser counts to it."""
        if isinstance(node, MappingNode) and not node.flow_style and node.value:
            return self._entry(*node.value[-1]).end
        if not isinstance(node, ScalarNode) and not getattr(node, "flow_style", True) and node.value:
            return self._content_end(node.value[-1])
        end: int = node.end_mark.index
        return len(self._text[:end].rstrip()) if getattr(node, "style", None) in ("|", ">") else end

    def _line_end(self, place: int) -> int:
        """Return the place after the line break of the line."""
        end = self._text.find("\n", place)
        return len(self._text) if end < 0 else end + 1

    def _after_comments(self, place: int, column: int) -> int:
        """Return the place after comment lines that are indented deeper than `column`.

        They belong to the key above, for instance keys that the user may activate by removing the #.
        """
        while line := _COMMENT_LINE.match(self._text, place):
            if len(line["indent"]) <= column:
                break
            place = line.end()
        return place

    def _indent(self, section: Node) -> int:
        """Return the indentation of the first section within a section; 0 if there is none."""
        for entry in self._entries(section) if isinstance(section, MappingNode) else ():
            node = entry.value
            if isinstance(node, MappingNode) and not node.flow_style and not entry.is_alias and node.value:
                step: int = node.value[0][0].start_mark.column - entry.key.start_mark.column
                return max(0, step)
        return 0

    def _block_lines(self, key: str, value: Any, column: int, indent: int) -> str:
        indent = indent or DEFAULT_INDENT
        head = f"{' ' * column}{_key_text(key)}:"
        if not isinstance(value, Mapping):
            return f"{head} {_flow_text(value)}{self._newline}"
        if not value:
            return f"{head} {{}}{self._newline}"
        inner = (self._block_lines(name, item, column + indent, indent) for name, item in value.items())
        return head + self._newline + "".join(inner)

    @staticmethod
    def _nested(keys: Sequence[str], value: Any) -> Any:
        for key in reversed(keys):
            value = {key: value}
        return value


def _scalar_text(value: Scalar) -> str:
    """Write one value; text is plain where every YAML parser reads it as text, else quoted."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


def _key_text(key: str, quoted: bool = False) -> str:
    if not quoted and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*(?: [A-Za-z0-9_-]+)*", key):
        try:
            if parse_yaml(f"{key}: 0").value == {key: 0}:
                return key
        except YamlTextError:
            pass
    return json.dumps(key, ensure_ascii=False)


def _flow_text(value: Any, quoted: bool = False) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key_text(k, quoted)}: {_flow_text(v, quoted)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_flow_text(each, quoted) for each in value) + "]"
    return _scalar_text(value)


def _shown(keys: Sequence[str]) -> str:
    return ".".join(keys) or "the file"
