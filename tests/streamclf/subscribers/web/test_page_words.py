"""The page has words for every value of an event that it shows: an internal name would tell its users nothing."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[4]
STATIC = ROOT / "streamclf" / "subscribers" / "web" / "static"


def keys_of(file: str, name: str) -> set[str]:
    """Return the keys of a constant object of one of the page's scripts."""
    found = re.search(rf"const {name} = \{{(.*?)\n\}};", (STATIC / file).read_text(), re.DOTALL)
    assert found is not None
    return set(re.findall(r"^  (\w+):", found[1], re.MULTILINE))


def test_each_reason_of_an_end_has_words() -> None:
    table = (ROOT / "docs" / "actions.md").read_text().partition("The `reason` of an `end`")[2].split("\n\n")[1]
    assert keys_of("event_detail.js", "REASONS") == set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def test_each_cause_of_a_drop_has_words() -> None:
    protocol = (ROOT / "docs" / "protocol.md").read_text()
    causes = set(re.findall(r"`counters\.dropped_(\w+)`", protocol))
    chunks, windows = re.search(r"Chunks: (.*?)\. Windows: (.*) \|", protocol).groups()  # type: ignore[union-attr]
    causes |= set(re.findall(r"`(\w+)`", chunks)) | set(re.findall(r"(?:^|; )`(\w+)`", windows))
    assert keys_of("health.js", "DROPS") == causes | {"link", "lost_packets"}
