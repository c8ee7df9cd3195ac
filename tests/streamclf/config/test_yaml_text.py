"""YAML that a mistake or an attacker wrote: bounded, and each error is one line with place and problem."""

from __future__ import annotations

import pytest

from streamclf.config.yaml_text import MAX_DEPTH, MAX_VALUES, YamlTextError, parse_yaml


def _laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: " + "[" * 100_000, f"line 1, column .*: nested too deeply; at most {MAX_DEPTH} levels"),
        ("a: " + "{a: " * 3000 + "1" + "}" * 3000, "nested too deeply"),
        ("a:\n" + "".join(" " * i + "- \n" for i in range(1, 1200)), "nested too deeply"),
        (_laughs(9), f"more than {MAX_VALUES} values, with those that aliases repeat"),
        ("a: &a {x: 1}\n" + f"b: {{<<: [{', '.join(['*a'] * 70_000)}]}}", f"more than {MAX_VALUES} values"),
        ("a: &a [*a]", "line 1, column 8: an alias within its own anchor"),
        ("a: &a {<<: *a}", "an alias within its own anchor"),
        ("a: 0x_", "line 1, column 4: not a value of type int; use quotes"),
        ("a: 0b_", "not a value of type int"),
        ("a: !!int abc", "not a value of type int"),
        ("a: !!float abc", "not a value of type float"),
        ("a: !!bool abc", "not a value of type bool"),
        ("a: " + "1" * 5000, "a number of more than 64 characters"),
        ("a: !!binary é", "could not determine a constructor"),
        ("a: !!timestamp 2026-13-45", "could not determine a constructor"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("? [a, b]\n: 1", "a list or section cannot be a key"),
        ("? {a: b}\n: 1", "a list or section cannot be a key"),
        ("<<: 5", "<< needs an alias"),
        ('a: "b\\0"', "line 1, column 4: a control character"),
        ('a: "\\ud800"', "half of a character"),
        ("a: b\0", "line 1: a control character"),
        ("a: 1\n---\na: 2", "a second document"),
        ("a: 1\n\tb: 2", "a tab; indent with spaces"),
    ],
)
def test_text_beyond_the_bounds_is_one_line_of_error(text: str, problem: str) -> None:
    with pytest.raises(YamlTextError, match=problem) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_dates_stay_text() -> None:
    assert parse_yaml("a: 2026-13-45\nb: 2026-01-02").value == {"a": "2026-13-45", "b": "2026-01-02"}


def test_anchors_and_merges_work_and_each_key_has_its_line() -> None:
    document = parse_yaml("a: &a {x: 1, on: true}\nb:\n  <<: *a\n  x: 2\nc:\n- p\n- q\n")
    assert document.value == {"a": {"x": 1, "on": True}, "b": {"x": 2, "on": True}, "c": ["p", "q"]}
    assert document.lines["b",] == 2
    assert document.lines["b", "x"] == 4
    assert document.lines["c", 1] == 7


def test_an_empty_text_has_no_value() -> None:
    assert parse_yaml("# nothing\n").value is None
