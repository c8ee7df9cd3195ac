"""The tables of behaviour name tests that exist."""

from __future__ import annotations

import re

import pytest
from support.repository import ROOT

NAMED_TEST = re.compile(r"`([\w/]+\.py)(?:::(\w+))?`")
PAGES = ("field.md", "reliability.md")
FOLDERS = (ROOT, ROOT / "tests/streamclf")


def named_tests(page: str) -> list[tuple[str, str]]:
    rows = [line for line in (ROOT / "docs/development" / page).read_text().splitlines() if line.startswith("| ")]
    return [named for row in rows for named in NAMED_TEST.findall(row) if "/test_" in named[0]]


@pytest.mark.parametrize("page", PAGES)
def test_each_test_that_a_table_names_exists(page: str) -> None:
    named = named_tests(page)
    assert len(named) > 30, "the tables have changed their form"
    for path, name in named:
        files = [file for file in (folder / path for folder in FOLDERS) if file.is_file()]
        assert files, f"{page}: no file {path}"
        assert not name or re.search(rf"def {name}\b", files[0].read_text()), f"{page}: no test {path}::{name}"
