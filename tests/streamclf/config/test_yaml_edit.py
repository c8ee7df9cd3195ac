"""Edits of a YAML text: the intended change, and every other byte as it was."""

from __future__ import annotations

import difflib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.config.yaml_edit import YamlEditError, remove_value, set_value
from streamclf.config.yaml_text import YamlTextError, parse_yaml

FILE = """\
# The cameras of the office.
model: camera-events   # built in

defaults: {read_timeout_s: 3}
streams:
    # front
    door: {url: "rtsp://${U}:${P}@10.0.0.5/s", name: 'Front door'}   # the door
    yard:
        url:   a.mp4    # odd   spacing
        loop: true


    # back
    back: &back
        <<: {hop: 2}
        camera: 0
        # a comment at the end
actions:
  covered: { on: 0.80, off: 0.5, min_s: 0.6 }   # spaced
  moved:
    on: .9
    active:
    - mon-fri 08:00-18:00
    - "sat"
publish: {keep: 7d}
# the end
"""


def changed(before: str, after: str) -> list[str]:
    """Return the lines that differ, with - and +."""
    return [line for line in difflib.ndiff(before.splitlines(True), after.splitlines(True)) if line[0] in "-+"]


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (
            "actions.covered.on",
            0.7,
            ["-   covered: { on: 0.80, off: 0.5, min_s: 0.6 }   # spaced\n",
             "+   covered: { on: 0.7, off: 0.5, min_s: 0.6 }   # spaced\n"],
        ),
        ("actions.moved.on", 1, ["-     on: .9\n", "+     on: 1\n"]),
        ("actions.moved.off", 0.25, ["+     off: 0.25\n"]),
        ("actions.flashing", {"on": 0.7, "off": 0.5}, ["+   flashing:\n", "+     on: 0.7\n", "+     off: 0.5\n"]),
        ("streams.hall", {"url": "rtsp://h/x"}, ["+     hall:\n", '+         url: "rtsp://h/x"\n']),
        ("streams.hall", {"url": "${CAMERA} # 1"}, ["+     hall:\n", '+         url: "${CAMERA} # 1"\n']),
        ("streams.yard.enabled", False, ["+         enabled: false\n"]),
        ("streams.back.enabled", False, ["+         enabled: false\n"]),
        (
            "streams.yard.actions.moved.on",
            0.5,
            ["+         actions:\n", "+             moved:\n", "+                 on: 0.5\n"],
        ),
        ("unknown_below", 0.25, ["+ unknown_below: 0.25\n"]),
        ("defaults.hop", 2, ["- defaults: {read_timeout_s: 3}\n", "+ defaults: {read_timeout_s: 3, hop: 2}\n"]),
    ],
)  # fmt: skip
def test_only_the_lines_of_a_new_value_change(keys: str, value: Any, expected: list[str]) -> None:
    assert changed(FILE, set_value(FILE, keys.split("."), value)) == expected


def test_a_new_section_comes_after_the_comments_that_belong_to_the_section_above() -> None:
    """A key that is a comment, such as `# log:` in the file of `streamclf init`, stays in its section."""
    outlets = "outlets:\n  web: {port: 8080}\n  # log: {file: events.db}\n"
    assert set_value(outlets, ["hop"], 2) == f"{outlets}hop: 2\n"
    assert set_value(outlets.rstrip("\n"), ["hop"], 2) == f"{outlets}hop: 2"
    assert set_value(f"{outlets}# the end\n", ["hop"], 2) == f"{outlets}hop: 2\n# the end\n"
    log = '  log: {file: "events.db"}\n'  # a key of the section itself comes before its comments
    assert set_value(outlets, ["outlets", "log"], {"file": "events.db"}) == outlets.replace("  #", f"{log}  #")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("streams.yard", ["-     yard:\n", "-         url:   a.mp4    # odd   spacing\n", "-         loop: true\n"]),
        ("streams.back", ["-     back: &back\n", "-         <<: {hop: 2}\n", "-         camera: 0\n"]),
        (
            "actions.covered.min_s",
            ["-   covered: { on: 0.80, off: 0.5, min_s: 0.6 }   # spaced\n",
             "+   covered: { on: 0.80, off: 0.5 }   # spaced\n"],
        ),
        (
            "actions.covered.on",
            ["-   covered: { on: 0.80, off: 0.5, min_s: 0.6 }   # spaced\n",
             "+   covered: { off: 0.5, min_s: 0.6 }   # spaced\n"],
        ),
    ],
)  # fmt: skip
def test_only_the_lines_of_a_removed_value_go(keys: str, expected: list[str]) -> None:
    assert changed(FILE, remove_value(FILE, keys.split("."))) == expected


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"streams": {"a": {"url": "x"}}}),
        json.dumps({"streams": {"a": {"url": "x"}}}, indent=2),
        "streams:\r\n  a:\r\n    url: x # first\r\n",
        "streams: {a: {url: x,},}",
        "streams: {\n  a: {url: x}, # first\n}\n",
        "streams:\n  a:\n    url: x",
        "---\nstreams:\n  a:\n    url: x\n...\n",
        "streams:\n  a:\n    url: |-\n      x\n\n# the end\n",
        "streams:\n  a: {url:\n    x}\nhop: 1\n",
        "'streams':\n  'a': {'url': 'x'}\n",
        "? streams\n: a:\n    url: x\n",
        "streams:\n\n\n  a:\n    url: x\n    images: # none\n  # end\n",
    ],
)
def test_every_layout_is_edited_or_refused(text: str) -> None:
    before = parse_yaml(text).value
    edits = 0
    for keys, value in (
        (["streams", "b"], {"camera": 1}),
        (["streams", "a", "enabled"], False),
        (["streams", "a", "url"], "y"),
        (["actions", "moved"], {"on": 0.5}),
    ):
        try:
            after = set_value(text, keys, value)
        except YamlEditError:
            continue
        edits += 1
        section = parse_yaml(after).value
        for key in keys:
            section = section[key]
        assert section == value
        assert ("\r\n" in after) == ("\r\n" in text)
        assert after.count("\n") == after.count("\r\n") or "\r\n" not in text
        if keys != ["streams", "a", "url"]:
            assert parse_yaml(remove_value(after, keys if keys[0] == "streams" else keys[:1])).value == before
    assert edits == (3 if text.startswith("?") else 4)


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("base: &b {hop: 2}\nstreams: {a: *b}", "streams.a.hop", "streams.a: repeats another section"),
        ("a: &b {on: 0.5}\nc: *b", "a.on", "a.on: this place of the file has a layout that cannot be changed here"),
        ("streams: [1]", "streams.a", "streams: not a section of keys"),
        ("streams: 5", "streams.a", "streams: not a section of keys"),
    ],
)
def test_an_edit_that_would_change_another_place_is_refused(text: str, keys: str, message: str) -> None:
    with pytest.raises(YamlEditError, match=message):
        set_value(text, keys.split("."), 7)


def test_a_key_that_only_an_anchor_or_another_section_gives_is_not_removed() -> None:
    with pytest.raises(YamlEditError, match="not in the file; it may be in `defaults`, or come from <<"):
        remove_value(FILE, ["streams", "back", "hop"])
    with pytest.raises(YamlEditError, match="layout that cannot be changed"):
        remove_value("a: &x {hop: 1}\nb: *x\n", ["a"])


def test_a_section_that_exists_is_not_replaced() -> None:
    with pytest.raises(YamlEditError, match=r"streams\.yard: exists already"):
        set_value(FILE, ["streams", "yard"], {"camera": 0})


def test_an_alias_as_a_value_is_replaced_in_its_place_alone() -> None:
    text = "a: &level 0.5 # base\nb: {on: *level}\n"
    assert set_value(text, ["b", "on"], 0.7) == "a: &level 0.5 # base\nb: {on: 0.7}\n"


def test_an_empty_file_gets_its_first_section() -> None:
    assert (
        set_value("# nothing yet\n", ["streams", "a"], {"camera": 0})
        == "# nothing yet\nstreams:\n  a:\n    camera: 0\n"
    )


@given(
    key=st.text(min_size=1, max_size=12),
    value=st.one_of(
        st.text(max_size=20), st.booleans(), st.integers(-5, 5), st.floats(0, 1).map(lambda x: round(x, 4))
    ),
)
def test_any_text_survives_or_is_refused(key: str, value: Any) -> None:
    for text in (FILE, '{"actions": {"a": {"on": 1}}}'):
        try:
            after = set_value(text, ["actions", key, "on"], value)
        except (YamlEditError, YamlTextError):
            continue
        assert parse_yaml(after).value["actions"][key]["on"] == value


def test_labels_like_numbers_and_words_of_yaml_are_quoted() -> None:
    for key in ("on", "true", "null", "1_000", "0x10", "~", "a: b", "- a", "#x", "größer", "a b", "1.5", "<<"):
        after = set_value(FILE, ["actions", key], {"on": 0.5})
        assert parse_yaml(after).value["actions"][key] == {"on": 0.5}
