"""The log of a measurement in parts: each part is kept, continued after a kill, and not lost if another part fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamclf.bench.gpu.part_log import PartLog
from streamclf.errors import BenchError


def succeed(part: str, limit_s: float) -> dict[str, Any]:
    return {"figure": len(part)}


def fail(part: str, limit_s: float) -> dict[str, Any]:
    raise BenchError(f"{part} failed")


def test_a_failure_is_a_result_and_the_other_parts_go_on(tmp_path: Path) -> None:
    log = PartLog(tmp_path / "kept")
    assert log.measure(["a", "bb"], lambda part, s: (fail if part == "a" else succeed)(part, s), part_s=60) == []
    assert dict(PartLog(tmp_path / "kept").results) == {"a": {"error": "a failed"}, "bb": {"figure": 2}}


def test_failed_parts_are_tried_again_only_on_request(tmp_path: Path) -> None:
    PartLog(tmp_path / "kept").measure(["a"], fail, part_s=60)
    log = PartLog(tmp_path / "kept")
    log.measure(["a"], succeed, part_s=60)
    assert "error" in log.results["a"]
    log.measure(["a"], succeed, part_s=60, retry_failed=True)
    assert PartLog(tmp_path / "kept").results["a"] == {"figure": 1}


def test_a_part_does_not_begin_without_enough_time() -> None:
    log, limits = PartLog(), []

    def record_limit(part: str, limit_s: float) -> dict[str, Any]:
        limits.append(limit_s)
        return {}

    assert log.measure(["a", "b"], record_limit, part_s=60, within_s=0) == ["a", "b"]
    assert log.measure(["a", "b"], record_limit, part_s=60, within_s=30) == []
    assert max(limits) <= 30


def test_a_torn_last_line_is_ignored_and_later_lines_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    PartLog(path).measure(["a", "b"], succeed, part_s=60)
    path.write_bytes(path.read_bytes()[:-12])  # killed while b's result was being written
    log = PartLog(path)
    assert list(log.results) == ["a"]
    log.measure(["a", "b"], succeed, part_s=60)
    assert list(PartLog(path).results) == ["a", "b"]


def test_another_kind_of_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("shopping list\n")
    with pytest.raises(BenchError, match="not a file that --keep has written"):
        PartLog(path)
    assert path.read_text() == "shopping list\n"


def test_the_error_names_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"cannot be written .* choose another file for --keep"):
        PartLog(tmp_path / "file" / "kept").measure(["a"], succeed, part_s=60)
