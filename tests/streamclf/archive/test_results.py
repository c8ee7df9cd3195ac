"""Results of two models, of two runs at once, and of a run that was killed at its end are never mixed or doubled."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamclf.archive.results import ArchiveResults
from streamclf.archive.worker import FilmRows
from streamclf.errors import UsageError

LABELS = ("a", "b")


def rows_of(film: str, count: int = 2) -> FilmRows:
    probabilities = np.tile(np.array([[0.25, 0.75]], np.float32), (count, 1))
    starts_s = np.arange(float(count))
    return FilmRows(film=film, starts_s=starts_s, ends_s=starts_s + 1, probabilities=probabilities)


def open_results(path: Path, model: str = "m") -> ArchiveResults:
    return ArchiveResults(path, identity={"model": model}, labels=LABELS)


def test_a_run_that_was_killed_after_its_file_was_complete_does_not_double_rows(tmp_path: Path) -> None:
    path, parts = tmp_path / "r.parquet", tmp_path / "r.parquet.parts"
    results = open_results(path)
    results.add(rows_of("x"))
    results.flush()
    shutil.copytree(parts, tmp_path / "kept")
    results.finish()
    shutil.copytree(tmp_path / "kept", parts)  # as if the removal of the parts had not happened
    again = open_results(path)
    assert again.done == {"x"}
    again.add(rows_of("y"))
    again.finish()
    assert pq.read_table(path)["file"].to_pylist() == ["x", "x", "y", "y"]


def test_results_of_another_model_are_refused_and_named(tmp_path: Path) -> None:
    results = open_results(tmp_path / "r.parquet")
    results.add(rows_of("x"))
    results.finish()
    with pytest.raises(UsageError, match=r"has results of model 'm' \(now 'other'\); choose another name"):
        open_results(tmp_path / "r.parquet", model="other")


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"x" * 1000])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.parquet").write_bytes(content)
    with pytest.raises(UsageError, match="is not a complete Parquet file"):
        open_results(tmp_path / "r.parquet")
    assert (tmp_path / "r.parquet").read_bytes() == content


def test_a_table_of_another_program_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"file": ["x"]}), tmp_path / "r.parquet")
    with pytest.raises(UsageError, match="was not written by this command"):
        open_results(tmp_path / "r.parquet")


def test_two_runs_cannot_write_the_same_results(tmp_path: Path) -> None:
    first = open_results(tmp_path / "r.parquet")
    with pytest.raises(UsageError, match="another run writes these results"):
        open_results(tmp_path / "r.parquet")
    first.finish()
    open_results(tmp_path / "r.parquet").finish()


def test_of_several_failures_of_a_film_the_last_is_kept_until_it_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    for error in ("first", "second"):
        results = open_results(path)
        assert results.done == set()
        results.add(FilmRows.failed("x", error))
        results.finish()
        assert pq.read_table(path)["error"].to_pylist() == [error]
    results = open_results(path)
    results.add(rows_of("x", 1))
    results.finish()
    assert pq.read_table(path)["error"].to_pylist() == [None]


def test_a_refusal_leaves_no_folder_behind(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "r.parquet")
    with pytest.raises(UsageError, match="was not written by this command"):
        open_results(tmp_path / "r.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["r.parquet"]
