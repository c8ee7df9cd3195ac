"""Parts of a long measurement: kept one by one, taken up again, never lost to another part's failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamclf.bench.gpu.part_log import PartLog
from streamclf.errors import BenchError


def good(part: str, limit_s: float) -> dict[str, Any]:
    return {"figure": len(part)}


def bad(part: str, limit_s: float) -> dict[str, Any]:
    raise BenchError(f"{part} failed")


def test_a_failure_is_a_result_and_the_others_go_on(tmp_path: Path) -> None:
    ledger = PartLog(tmp_path / "kept")
    assert ledger.measure(["a", "bb"], lambda part, s: (bad if part == "a" else good)(part, s), part_s=60) == []
    assert dict(PartLog(tmp_path / "kept").results) == {"a": {"error": "a failed"}, "bb": {"figure": 2}}


def test_only_again_tries_what_failed(tmp_path: Path) -> None:
    PartLog(tmp_path / "kept").measure(["a"], bad, part_s=60)
    ledger = PartLog(tmp_path / "kept")
    ledger.measure(["a"], good, part_s=60)
    assert "error" in ledger.results["a"]
    ledger.measure(["a"], good, part_s=60, again=True)
    assert PartLog(tmp_path / "kept").results["a"] == {"figure": 1}


def test_no_part_begins_for_which_there_is_no_time() -> None:
    ledger, limits = PartLog(), []

    def note(part: str, limit_s: float) -> dict[str, Any]:
        limits.append(limit_s)
        return {}

    assert ledger.measure(["a", "b"], note, part_s=60, within_s=0) == ["a", "b"]
    assert ledger.measure(["a", "b"], note, part_s=60, within_s=30) == []
    assert max(limits) <= 30


def test_a_torn_last_line_is_left_out_and_written_past(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    PartLog(path).measure(["a", "b"], good, part_s=60)
    path.write_bytes(path.read_bytes()[:-12])  # killed while b's result was being written
    ledger = PartLog(path)
    assert list(ledger.results) == ["a"]
    ledger.measure(["a", "b"], good, part_s=60)
    assert list(PartLog(path).results) == ["a", "b"]


def test_a_file_of_something_else_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("shopping list\n")
    with pytest.raises(BenchError, match="not a file of kept figures"):
        PartLog(path)
    assert path.read_text() == "shopping list\n"


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"cannot be written .* choose another --keep"):
        PartLog(tmp_path / "file" / "kept").measure(["a"], good, part_s=60)
