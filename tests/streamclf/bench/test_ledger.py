"""Parts of a long measurement: kept one by one, taken up again, never lost to another part's failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamclf.bench.ledger import Ledger
from streamclf.errors import BenchError


def good(part: str, limit_s: float) -> dict[str, Any]:
    return {"figure": len(part)}


def bad(part: str, limit_s: float) -> dict[str, Any]:
    raise BenchError(f"{part} failed")


def test_a_failure_is_a_result_and_the_others_go_on(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "kept")
    assert ledger.measure(["a", "bb"], lambda part, s: (bad if part == "a" else good)(part, s), part_s=60) == []
    assert dict(Ledger(tmp_path / "kept").results) == {"a": {"error": "a failed"}, "bb": {"figure": 2}}


def test_only_again_tries_what_failed(tmp_path: Path) -> None:
    Ledger(tmp_path / "kept").measure(["a"], bad, part_s=60)
    ledger = Ledger(tmp_path / "kept")
    ledger.measure(["a"], good, part_s=60)
    assert "error" in ledger.results["a"]
    ledger.measure(["a"], good, part_s=60, again=True)
    assert Ledger(tmp_path / "kept").results["a"] == {"figure": 1}


def test_no_part_begins_for_which_there_is_no_time() -> None:
    ledger, limits = Ledger(), []

    def note(part: str, limit_s: float) -> dict[str, Any]:
        limits.append(limit_s)
        return {}

    assert ledger.measure(["a", "b"], note, part_s=60, within_s=0) == ["a", "b"]
    assert ledger.measure(["a", "b"], note, part_s=60, within_s=30) == []
    assert max(limits) <= 30


def test_a_torn_last_line_is_left_out_and_written_past(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    Ledger(path).measure(["a", "b"], good, part_s=60)
    path.write_bytes(path.read_bytes()[:-12])  # killed while b's result was being written
    ledger = Ledger(path)
    assert list(ledger.results) == ["a"]
    ledger.measure(["a", "b"], good, part_s=60)
    assert list(Ledger(path).results) == ["a", "b"]


def test_a_file_of_something_else_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("shopping list\n")
    with pytest.raises(BenchError, match="not a file of kept figures"):
        Ledger(path)
    assert path.read_text() == "shopping list\n"


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"cannot be written .* choose another --keep"):
        Ledger(tmp_path / "file" / "kept").measure(["a"], good, part_s=60)
