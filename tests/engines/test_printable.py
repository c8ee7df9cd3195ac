"""Text from outside neither controls a terminal nor forges a log line."""

from __future__ import annotations

import logging
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.printable import PrintableFormatter, path_text, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fall [person]", "fall [person]"),
        ("café, cafe\u0301, 落下, 👨\u200d👩\u200d👧, مرحبا", "café, cafe\u0301, 落下, 👨\u200d👩\u200d👧, مرحبا"),
        ("x\x1b]0;PWNED\x07.mp4", r"x\x1b]0;PWNED\x07.mp4"),
        ("a\nb\rc\td\x7f\x9b31m", r"a\nb\rc\td\x7f\x9b31m"),
        ("gpj.\u202eexe\u2066\u2028\u2029\u200f", r"gpj.\u202eexe\u2066\u2028\u2029\u200f"),
        (os.fsdecode(b"caf\xe9.mp4"), r"caf\xe9.mp4"),
        ("\ud800", r"\ud800"),
        ("C:\\new", "C:\\new"),
    ],
)
def test_only_characters_that_control_the_output_are_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


@given(st.text())
def test_the_result_is_one_line_of_valid_unicode(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    shown.encode()


def test_a_path_keeps_its_control_characters_but_is_valid_unicode() -> None:
    assert path_text(os.fsdecode(b"caf\xe9\n\xc3\xa9.mp4")) == "caf\\xe9\né.mp4"


def test_a_log_record_is_one_line_and_a_traceback_is_indented() -> None:
    formatter = PrintableFormatter("%(levelname)s %(message)s")
    try:
        raise ValueError("x\nERROR forged \x1b[31m")
    except ValueError:
        failure = sys.exc_info()
    record = logging.LogRecord("n", logging.ERROR, "p", 1, "label %s", ("a\nERROR forged",), failure)
    first, *rest = formatter.format(record).split("\n")
    assert first == r"ERROR label a\nERROR forged"
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1] == r"    ERROR forged \x1b[31m"
