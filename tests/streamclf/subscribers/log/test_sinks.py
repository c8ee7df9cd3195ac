"""The suffix chooses the log; files of other programs are refused and left untouched."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from support.hub_process import HubProcess

from streamclf.config.log_file import Rotation
from streamclf.errors import JournalError, UsageError
from streamclf.events.positions import Position
from streamclf.events.types import Status
from streamclf.subscribers.log.sinks import SqliteSink, open_sink


@pytest.mark.parametrize("name", ["events.txt", "events", "missing/events.db"])
def test_a_name_without_a_known_suffix_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        open_sink(tmp_path / name)


@pytest.mark.parametrize("name", ["door.csv", "door.parquet"])
def test_csv_and_parquet_are_refused_with_the_command_that_exports_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"log to door\.db, .* with: streamclf query door\.db -o {name}"):
        open_sink(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_sqlite_log_cannot_be_rotated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a SQLite log is one file; rotate a \.jsonl log"):
        open_sink(tmp_path / "events.db", Rotation(max_bytes=10_000))


def test_files_of_other_programs_are_refused_and_unchanged(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE mine(x)")
    db.close()
    (tmp_path / "poem.jsonl").write_text("roses are red\n")
    (tmp_path / "text.db").write_text("roses are red\n" * 100)
    (tmp_path / "half.jsonl").write_text("violets")
    for name in ("foreign.db", "poem.jsonl", "text.db", "half.jsonl"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(JournalError, match="give a new file"):
            open_sink(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_a_log_with_a_damaged_position_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    SqliteSink(path).close()
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name='position'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with closing(SqliteSink(path)) as sink, pytest.raises(JournalError, match=r"events\.db: .*give a new file"):
        sink.position()


def test_the_journal_of_a_service_is_not_opened_as_a_log() -> None:
    with HubProcess() as hub, pytest.raises(JournalError, match="journal"):
        SqliteSink(hub.journal)


def test_a_sqlite_log_removes_events_beyond_its_age(tmp_path: Path) -> None:
    now = datetime.now(timezone.utc)

    def event(offset: int, age: timedelta) -> Status:
        return Status(stream="door", epoch="9f" * 16, offset=offset, previous=0, time=now - age, state="live")

    sink = open_sink(tmp_path / "events.db", Rotation(keep_s=86400.0))
    sink.write([event(1, timedelta(days=3)), event(2, timedelta(hours=1))], Position("9f" * 16, 2))
    sink.write([event(3, timedelta(days=2)), event(4, timedelta(0))], Position("9f" * 16, 4))
    sink.close()
    with closing(sqlite3.connect(tmp_path / "events.db")) as db:
        assert [row[0] for row in db.execute("SELECT offset FROM events ORDER BY id")] == [2, 4]


@pytest.mark.parametrize("name", ["events.db", "events.jsonl"])
def test_a_log_stays_below_its_size_and_keeps_the_newest_events(tmp_path: Path, name: str) -> None:
    limit, epoch = 1_000_000, "9f" * 16
    sink = open_sink(tmp_path / name, Rotation(keep_bytes=limit))
    largest = 0
    for first in range(1, 8001, 100):
        sink.write([_status(offset) for offset in range(first, first + 100)], Position(epoch, first + 99))
        files = [path for path in tmp_path.iterdir() if not path.name.endswith(("-wal", "-shm"))]
        largest = max(largest, sum(path.stat().st_size for path in files))
    sink.close()
    assert 0.7 * limit < largest < 1.1 * limit
    kept = _offsets(tmp_path / name)
    assert kept == list(range(kept[0], 8001))
    assert 1000 < len(kept) < 6000
    again = open_sink(tmp_path / name, Rotation(keep_bytes=limit))
    assert again.position() == Position(epoch, 8000)
    again.close()


def test_complete_files_are_removed_by_age(tmp_path: Path) -> None:
    path, day = tmp_path / "events.jsonl", 86400.0
    for offset in range(1, 5):
        sink = open_sink(path, Rotation(max_bytes=1000))
        sink.write([_status(4 * offset + number) for number in range(4)], Position("9f" * 16, 4 * offset + 3))
        sink.close()
    names = ["events.000001.jsonl", "events.000002.jsonl", "events.000003.jsonl", "events.jsonl"]
    assert sorted(each.name for each in tmp_path.iterdir()) == names
    for name, age_days in zip(names, (12, 9, 3, 0), strict=True):
        changed_s = time.time() - age_days * day
        os.utime(tmp_path / name, (changed_s, changed_s))
    open_sink(path, Rotation(keep_s=10 * day)).close()
    assert sorted(each.name for each in tmp_path.iterdir()) == names[1:]
    open_sink(path, Rotation(keep_s=day)).close()
    assert sorted(each.name for each in tmp_path.iterdir()) == names[2:], "the newest one may hold the position"


def _status(offset: int) -> Status:
    now = datetime.now(timezone.utc)
    reason = "rtsp://camera.example/live: connection refused; check address and port, and that the server runs" * 2
    return Status(stream="door", epoch="9f" * 16, offset=offset, previous=0, time=now, state="offline", reason=reason)


def _offsets(path: Path) -> list[int]:
    if path.suffix == ".db":
        with closing(sqlite3.connect(path)) as db:
            return [row[0] for row in db.execute("SELECT offset FROM events ORDER BY id")]
    files = [*sorted(path.parent.glob(f"{path.stem}.0*")), path]
    return [json.loads(line)["offset"] for file in files for line in file.read_text().splitlines()]
