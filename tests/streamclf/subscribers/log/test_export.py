"""An export holds every event that the query finds, typed in Parquet and one line each in CSV, or leaves no file."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.cli import _main
from streamclf.errors import JournalError, UsageError
from streamclf.events.positions import Position
from streamclf.events.types import Action, Lost, Prediction, Status, StreamEvent, Window
from streamclf.subscribers.log import export
from streamclf.subscribers.log.query import run_query
from streamclf.subscribers.log.sinks import SqliteSink

EPOCH = "cd" * 16
NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


def logged(path: Path, label: str = "wave", reason: str = "unplugged", predictions: int = 1) -> Path:
    """A log of predictions, one action's end and one status."""
    window = Window(start_s=1.5, end_s=4.25, frames=8)
    events: list[StreamEvent | Lost] = [
        Prediction(stream="door", epoch=EPOCH, offset=number + 1, previous=number, window=window, model="m",
                   time=NOON + timedelta(seconds=number), top=((label, 0.25),))
        for number in range(predictions)
    ]  # fmt: skip
    common: dict[str, Any] = {"stream": "door", "epoch": EPOCH, "previous": 0, "time": NOON + timedelta(days=1)}
    events += [
        Action(label=label, phase="end", started_s=1.0, at_s=2.0, probability=0.5, peak=0.75, offset=9000,
               reason=reason, **common),
        Status(state="offline", reason=reason, offset=None, durable=False, **common),
    ]  # fmt: skip
    sink = SqliteSink(path)
    sink.write(events, Position(EPOCH, 9000))
    sink.close()
    return path


def test_csv_has_one_row_an_event_oldest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "events.csv"
    output.write_text("an older export")
    assert run_query(logged(tmp_path / "events.db"), output=output) == 0
    assert capsys.readouterr() == ("", f"streamclf query: 3 events exported to {output}\n")
    assert output.read_text() == (
        "time,stream,type,label,probability,start_s,end_s,phase,reason,epoch,offset,region,model_name\n"
        f"2026-01-31T12:00:00.000000Z,door,prediction,wave,0.25,1.5,4.25,,,{EPOCH},1,,\n"
        f"2026-02-01T12:00:00.000000Z,door,action,wave,0.5,1.0,2.0,end,unplugged,{EPOCH},9000,,\n"
        f"2026-02-01T12:00:00.000000Z,door,status,offline,,,,,unplugged,{EPOCH},,,\n"
    )
    assert sorted(each.name for each in tmp_path.iterdir() if each.suffix == ".new") == []


@given(st.text(max_size=200), st.text(min_size=1, max_size=128))
def test_any_text_is_one_row_of_csv(tmp_path_factory: pytest.TempPathFactory, reason: str, label: str) -> None:
    body = json.dumps({"phase": "end", "started_s": 1.0, "at_s": 2.0, "reason": reason})
    output = tmp_path_factory.mktemp("export") / "events.csv"
    rows: list[export.LogRow] = [(EPOCH, 7, "2026-01-31T12:00:00.000000Z", "door", "action", label, 0.5, body)]
    assert export.export(output, rows) == 1
    text = output.read_bytes()
    assert text.count(b"\n") == 2
    (row,) = csv.DictReader(io.StringIO(text.decode()))
    assert row["offset"] == "7"
    if reason.isprintable():
        assert row["reason"].removeprefix("'") == reason.removeprefix("'")
    if label.isprintable():
        assert row["label"].removeprefix("'") == label.removeprefix("'")
    assert not row["reason"].startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize(
    ("label", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-1+1", "'-1+1"),
        ("\t=1", "\\t=1"),
        ("\x1b[31m\u202e", r"\x1b[31m\u202e"),
        ("fall [person], café", "fall [person], café"),
    ],
)
def test_no_label_is_a_formula_in_csv_and_parquet_holds_it_exactly(tmp_path: Path, label: str, cell: str) -> None:
    db = logged(tmp_path / "events.db", label=label)
    assert run_query(db, output=tmp_path / "events.csv") == 0
    with (tmp_path / "events.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [cell, cell, "offline"]
    assert rows[0]["probability"] == "0.25"
    pq = pytest.importorskip("pyarrow.parquet")
    assert run_query(db, output=tmp_path / "events.parquet") == 0
    assert pq.ParquetFile(tmp_path / "events.parquet").read().to_pylist()[0]["label"] == label


def test_a_label_is_found_in_either_form_of_its_accents(tmp_path: Path) -> None:
    for number, label in enumerate(("café", "cafe\u0301")):
        db = logged(tmp_path / f"{number}.db", label=label)
        for form in ("café", "cafe\u0301"):
            output = tmp_path / "events.csv"
            assert run_query(db, label=form, output=output) == 0
            assert offsets(output) == [1, 9000]


def test_parquet_is_typed_and_holds_the_published_json(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "events.parquet"
    assert run_query(logged(tmp_path / "events.db"), output=output) == 0
    first, action, status = pq.ParquetFile(output).read().to_pylist()
    assert (first["time"], first["stream"], first["label"], first["probability"]) == (NOON, "door", "wave", 0.25)
    assert (first["start_s"], first["end_s"], first["offset"], first["phase"]) == (1.5, 4.25, 1, None)
    assert json.loads(first["body"])["window"]["frames"] == 8
    assert (action["phase"], action["start_s"], action["reason"]) == ("end", 1.0, "unplugged")
    assert (status["label"], status["offset"], status["probability"]) == ("offline", None, None)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_export_has_all_events_that_match_and_no_default_limit(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(export, "_BATCH_ROWS", 100)
    db, output = logged(tmp_path / "events.db", predictions=350), tmp_path / f"events{suffix}"
    assert run_query(db, output=output) == 0
    assert offsets(output) == [*range(1, 351), 9000, None]
    assert run_query(db, output=output, type="prediction", limit=3) == 0
    assert offsets(output) == [348, 349, 350]
    assert run_query(db, output=output, label="never") == 0
    assert offsets(output) == []


def offsets(path: Path) -> list[int | None]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [int(row["offset"]) if row["offset"] else None for row in csv.DictReader(file)]
    import pyarrow.parquet as pq

    return [row["offset"] for row in pq.ParquetFile(path).read().to_pylist()]


def test_without_pyarrow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    db = logged(tmp_path / "events.db")
    with pytest.raises(UsageError, match="pip install pyarrow"):
        run_query(db, output=tmp_path / "events.parquet")
    assert not (tmp_path / "events.parquet").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("events.xlsx", "ends in .xlsx; give a name that ends in .csv or .parquet"), ("no/events.csv", "create it first"),
     ("folder.csv", "is a directory")],
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_refused_before_the_query(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match=message):
        run_query(tmp_path / "missing.db", output=tmp_path / name)


def test_a_full_disk_leaves_the_older_export_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "events.csv"
    output.write_text("an older export")

    def full(record: object) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export, "_record", full)
    with pytest.raises(JournalError, match=r"events\.csv: No space left on device; free space"):
        run_query(logged(tmp_path / "events.db"), output=output)
    assert output.read_text() == "an older export"
    assert not (tmp_path / "events.csv.new").exists()


def test_the_command_line_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db, output = logged(tmp_path / "events.db"), tmp_path / "actions.csv"
    assert _main(["query", str(db), "--type", "action", "-o", str(output)]) == 0
    assert offsets(output) == [9000]
    assert _main(["query", str(db), "--json", "-o", str(output)]) == 2
    assert "give one of them" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_exports_keep_views_with_equal_labels_apart(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    views = [(None, None), ("gate", None), ("gate", "hands"), (None, "hands")]
    sink = SqliteSink(tmp_path / "events.db")
    sink.write(
        [
            Action(stream="door", epoch=EPOCH, offset=number + 1, previous=0, time=NOON, label="wave", phase="start",
                   started_s=1.0, at_s=2.0, probability=0.5, peak=0.75, region=region, model_name=model)
            for number, (region, model) in enumerate(views)
        ],
        Position(EPOCH, 4),
    )  # fmt: skip
    sink.close()
    output = tmp_path / f"events{suffix}"
    assert run_query(tmp_path / "events.db", output=output) == 0
    if suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(output.read_text())))
        assert [(row["region"] or None, row["model_name"] or None) for row in rows] == views
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(output).to_pylist()
        assert [(row["region"], row["model_name"]) for row in rows] == views
