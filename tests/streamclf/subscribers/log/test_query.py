"""A query prints the newest events that match, also while the log is written, and refuses other files."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hub_process import HubProcess, action, prediction, status
from support.outlets import log_of_everything

from streamclf.cli import _main
from streamclf.errors import JournalError, UsageError
from streamclf.events.positions import Position
from streamclf.events.types import Action, Prediction, Status, StreamEvent, Window
from streamclf.producer.link import EventProducer
from streamclf.subscribers.log import query
from streamclf.subscribers.log.query import run_query
from streamclf.subscribers.log.sinks import SqliteSink
from streamclf.subscribers.outlet_command import run_outlet

EPOCH = "9f" * 16
NOW = datetime.now(timezone.utc)


def events(count: int) -> list[StreamEvent]:
    """Make one event a minute up to now: predictions of two labels on three streams, each tenth an action or status."""
    found: list[StreamEvent] = []
    for number in range(count):
        at = NOW - timedelta(minutes=count - 1 - number)
        common: dict[str, Any] = {
            "stream": f"cam{number % 3}", "epoch": EPOCH, "offset": number + 1, "previous": 0, "time": at
        }  # fmt: skip
        if number % 20 == 9:
            found.append(
                Action(label="fight", phase="start", started_s=1.0, at_s=2.0, probability=0.8, peak=0.9, **common)
            )
        elif number % 20 == 19:
            found.append(Status(state="live", reason="all is well", **common))
        else:
            label = "fight" if number % 5 == 0 else "still"
            window = Window(start_s=float(number), end_s=number + 2.5, frames=32)
            found.append(Prediction(window=window, top=((label, (number % 10) / 10),), model="m@1", **common))
    return found


@pytest.fixture(autouse=True)
def _now() -> None:
    """Set the time of the test: the module may have been imported minutes before."""
    global NOW
    NOW = datetime.now(timezone.utc)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "events.db"
    sink = SqliteSink(path)
    sink.write(events(300), Position(EPOCH, 300))
    sink.close()
    return path


def found(capsys: pytest.CaptureFixture[str], db: Path, **filters: Any) -> list[dict[str, Any]]:
    assert run_query(db, as_json=True, **filters) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_newest_events_that_match_are_printed_oldest_first(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [event["offset"] for event in found(capsys, db, limit=3)] == [298, 299, 300]
    assert len(found(capsys, db)) == 100
    assert len(found(capsys, db, limit=1000)) == 300
    fights = found(capsys, db, label="fight", since="1h", limit=1000)
    assert [event["offset"] for event in fights] == sorted(event["offset"] for event in fights)
    assert {event["type"] for event in fights} == {"prediction", "action"}
    assert len(fights) == 12 + 3
    assert all(event["offset"] > 240 for event in fights)
    some = found(capsys, db, stream="cam1", type="prediction", min_p=0.8, since="4h", until="2h")
    assert [(e["stream"], e["top"][0][1] >= 0.8) for e in some] == [("cam1", True)] * len(some)
    assert some
    assert found(capsys, db, type="status", label="live", limit=1)[0]["reason"] == "all is well"
    assert found(capsys, db, label="never") == []
    earlier = (NOW - timedelta(minutes=10)).isoformat()
    assert len(found(capsys, db, since=earlier)) == 11
    assert len(found(capsys, db, until=earlier, limit=1000)) == 290


def test_a_name_that_no_event_has_is_reported_with_the_nearest(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_query(db, stream="cam9", label="figt") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"streamclf query: no stream cam9; {db} has cam0, cam1, cam2; did you mean cam2?",
        f"streamclf query: no label figt; {db} has fight, live, still; did you mean fight?",
    ]
    assert run_query(db, stream="cam1", min_p=1.0) == 0
    assert capsys.readouterr() == ("", "")


def test_no_label_can_break_the_printed_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.db"
    sink = SqliteSink(path)
    window = Window(start_s=1.0, end_s=3.5, frames=32)
    prediction = Prediction(
        stream="door", epoch=EPOCH, offset=1, previous=0, time=NOW, window=window, model="m@1",
        top=(("\x1b[2J\nwipe'; DROP TABLE events;--", 0.5),),
    )  # fmt: skip
    sink.write([prediction, *events(20)[1:]], Position(EPOCH, 20))
    sink.close()
    assert run_query(path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    assert "wipe'; DROP" in lines[0]
    assert "\x1b" not in "".join(lines)
    assert "start at 2.00 s, since 1.00 s" in lines[9]
    assert lines[19].endswith("all is well")
    assert run_query(path, label=prediction.top[0][0], as_json=True) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


VIEWS = [(None, None), ("gate", None), ("gate", "hands"), ("yard", "hands")]


def events_of_views() -> list[StreamEvent]:
    """Make a prediction and an action for each of four views of one stream, with one label at one media time."""
    window = Window(start_s=1.0, end_s=3.5, frames=32)
    found: list[StreamEvent] = []
    for number, (region, model) in enumerate(VIEWS):
        common: dict[str, Any] = {"stream": "door", "epoch": EPOCH, "previous": 0, "time": NOW, "region": region,
                                  "model_name": model}  # fmt: skip
        found += [
            Prediction(window=window, top=(("wave", 0.5),), model="m@1", offset=2 * number + 1, **common),
            Action(label="wave", phase="start", started_s=1.0, at_s=2.0, probability=0.8, peak=0.9,
                   offset=2 * number + 2, **common),
        ]  # fmt: skip
    return found


def view(event: dict[str, Any]) -> tuple[str | None, str | None]:
    return event.get("region"), event.get("model_name")


def test_views_with_equal_labels_are_found_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = tmp_path / "events.db"
    sink = SqliteSink(db)
    sink.write(events_of_views(), Position(EPOCH, 8))
    sink.close()
    assert len(found(capsys, db)) == 8
    assert [view(event) for event in found(capsys, db, region="gate", type="action")] == VIEWS[1:3]
    assert [view(event) for event in found(capsys, db, model="hands", type="action")] == VIEWS[2:]
    assert [view(event) for event in found(capsys, db, region="yard", model="hands", label="wave")] == VIEWS[3:] * 2
    assert run_query(db, region="gates") == 0
    assert capsys.readouterr().err.endswith("no region gates; " + f"{db} has gate, yard; did you mean gate?\n")
    assert run_query(db, type="action") == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["gate · hands" in line for line in lines] == [False, False, True, False]
    plan = sqlite3.connect(db).execute("EXPLAIN QUERY PLAN SELECT * FROM events WHERE region='gate'").fetchall()
    assert "events_by_region" in plan[0][-1]


def test_a_log_of_an_earlier_version_is_read_and_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = tmp_path / "events.db"
    sink = SqliteSink(db)
    sink.write(events(20), Position(EPOCH, 20))
    sink.close()
    with sqlite3.connect(db) as connection:
        for name in ("region", "model"):
            connection.execute(f"DROP INDEX events_by_{name}")
        for column in ("region", "model_name"):
            connection.execute(f"ALTER TABLE events DROP COLUMN {column}")
    connection.close()
    assert len(found(capsys, db, label="fight")) == 4 + 1
    assert found(capsys, db, region="gate") == []
    sink = SqliteSink(db)
    assert sink.position() == Position(EPOCH, 20)
    (later,) = events_of_views()[2:3]
    sink.write([replace(later, offset=21)], Position(EPOCH, 21))
    sink.close()
    assert [event["offset"] for event in found(capsys, db, region="gate")] == [21]
    assert len(found(capsys, db)) == 21


def test_a_prediction_with_several_labels_is_found_by_the_first_that_applies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = tmp_path / "events.db"
    window = Window(start_s=1.0, end_s=3.5, frames=32)
    sink = SqliteSink(db)
    sink.write(
        [
            Prediction(stream="hall", epoch=EPOCH, offset=number + 1, previous=0, time=NOW, window=window, model="m",
                       top=(("fall", 0.9), ("open", 0.8)), labels=labels)
            for number, labels in enumerate([("fall", "open"), ()])
        ],
        Position(EPOCH, 2),
    )  # fmt: skip
    sink.close()
    assert [event["offset"] for event in found(capsys, db, label="fall")] == [1]
    assert run_query(db) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "fall" in first
    assert first.endswith("also open")
    assert "fall" not in second


@given(st.text(max_size=100), st.text(max_size=40))
def test_no_value_becomes_sql_or_a_traceback(label: str, moment: str) -> None:
    for filters in ({"label": label}, {"stream": label}, {"type": label}, {"since": moment}, {"until": moment}):
        with pytest.raises((UsageError, JournalError)):
            run_query(Path("/no/such/events.db"), **filters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"since": "yesterday"}, "since='yesterday': must be an age like 90s, 1h, 7d"),
        ({"until": "99999999999d"}, "at most 100 years"),
        ({"stream": "a/b"}, "stream 'a/b': 1 to 64"),
        ({"region": "a/b"}, "region 'a/b': 1 to 64"),
        ({"model": ""}, "model '': 1 to 64"),
        ({"type": "heartbeat"}, "one of prediction, action, status"),
        ({"min_p": 1.5}, r"min_p=1.5: 0 to 1"),
        ({"limit": 0}, "limit=0: 1 to 100000"),
        ({"limit": 100_001}, "limit=100001: 1 to 100000"),
        ({"label": ""}, "label of 0 characters"),
    ],
)
def test_an_invalid_argument_is_refused_with_value_and_limit(db: Path, filters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_query(db, **filters)


def test_a_file_that_is_not_a_log_is_refused_with_a_remedy(
    tmp_path: Path, db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.db").write_text("hello " * 1000)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE events(time)")
    other.close()
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(db.read_bytes()[:8192] + b"\xff" * 16384)
    (tmp_path / "empty.db").touch()
    for name in ("text.db", "other.db", "damaged.db", "empty.db"):
        with pytest.raises(JournalError, match="streamclf log ENDPOINT -o FILE"):
            run_query(tmp_path / name)
    with pytest.raises(UsageError, match="no such file"):
        run_query(tmp_path / "none.db")
    assert _main(["query", str(tmp_path / "none.db")]) == 2
    assert _main(["query", str(tmp_path / "text.db")]) == 1
    assert _main(["query", str(db), "--label", "fight", "--since", "1h", "--json"]) == 0
    assert capsys.readouterr().out.count("\n") == 15
    assert not (tmp_path / "none.db").exists()


def test_a_query_that_takes_too_long_is_stopped(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "_DEADLINE_S", -1.0)
    monkeypatch.setattr(query, "_STEPS", 10)
    with pytest.raises(JournalError, match="give --since, --stream or --label"):
        run_query(db, min_p=0.5)


def test_a_query_reads_a_log_that_is_being_written_and_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.db"
    with HubProcess() as hub:
        with EventProducer(hub.link, "test") as link:
            for number in range(50):
                link.post(prediction(number=number))
            link.post(action("start"))
            link.post(status())
        assert run_outlet(hub.events, log_of_everything(path), once=True) == 0
    before = path.read_bytes()
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")  # as `streamclf log` does during a batch
    capsys.readouterr()
    assert [event["type"] for event in found(capsys, path, limit=3)] == ["prediction", "action", "status"]
    assert len(found(capsys, path, label="wave", since="1h")) == 51
    writer.execute("ROLLBACK")
    writer.close()
    assert path.read_bytes() == before
    with query.open_log(path) as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM events")


def test_the_journal_of_a_running_service_is_queried_like_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with HubProcess() as hub:
        with EventProducer(hub.link, "test") as link:
            for number in range(50):
                link.post(prediction(number=number))
            link.post(action("start", region="gate", model_name="hands"))
            link.post(prediction(labels=["still"], model_name="hands"))
            link.post(prediction(labels=[], region="gate"))
            link.post(status())
        assert run_outlet(hub.events, log_of_everything(tmp_path / "events.db"), once=True) == 0
        capsys.readouterr()
        assert len(found(capsys, hub.journal, region="gate")) == len(found(capsys, hub.journal, model="hands")) == 2
        for filters in (
            {}, {"label": "wave", "since": "1h"}, {"label": "still"}, {"type": "status"}, {"min_p": 0.9},
            {"until": "1h"}, {"region": "gate"}, {"model": "hands"},
        ):  # fmt: skip
            assert found(capsys, hub.journal, **filters) == found(capsys, tmp_path / "events.db", **filters)  # type: ignore[arg-type]
        for source, target in ((hub.journal, "journal.csv"), (tmp_path / "events.db", "log.csv")):
            assert run_query(source, output=tmp_path / target) == 0
        assert (tmp_path / "journal.csv").read_text() == (tmp_path / "log.csv").read_text()
        with EventProducer(hub.link, "more") as link:  # the query has left no lock
            link.post(status("gate"))
        assert [event["stream"] for event in found(capsys, hub.journal, limit=1)] == ["gate"]
        with query.open_log(hub.journal) as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM main.events")
        assert hub.stop() == 0
        assert len(found(capsys, hub.journal)) == 55


def test_damaged_events_and_newer_formats_of_a_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with HubProcess() as hub:
        with EventProducer(hub.link, "test") as link:
            for name in ("door", "gate"):
                link.post(status(name))
        assert hub.stop() == 0
        with sqlite3.connect(hub.journal) as db:
            db.execute("UPDATE events SET body='{' WHERE offset=1")
        assert [event["stream"] for event in found(capsys, hub.journal)] == ["gate"]
        db.execute("UPDATE meta SET value=2 WHERE key='format'")
        db.commit()
        db.close()
        with pytest.raises(JournalError, match=r"format 2, and this version of streamclf reads formats up to 1"):
            run_query(hub.journal)


def test_json_is_utf_8_whatever_the_encoding_of_the_terminal(tmp_path: Path) -> None:
    sink = SqliteSink(tmp_path / "events.db")
    window = Window(start_s=1.0, end_s=3.5, frames=32)
    prediction = Prediction(
        stream="door", epoch=EPOCH, offset=1, previous=0, time=NOW, window=window, model="m@1", top=(("café 🚗", 0.5),)
    )
    sink.write([prediction], Position(EPOCH, 1))
    sink.close()
    command = [sys.executable, "-m", "streamclf", "query", str(tmp_path / "events.db")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout)["top"][0][0] == "café 🚗"
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True)
    assert b"caf\\xe9 \\U0001f697" in done.stdout
