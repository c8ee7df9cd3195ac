"""`streamclf log` writes each event once, whoever is killed, and says what it could not get."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hub_process import HubProcess, action, prediction, status, wait_until

from streamclf.errors import BusError, JournalError, UsageError
from streamclf.events.drafts import Draft
from streamclf.producer.link import EventProducer
from streamclf.subscribers.log.command import run_log
from streamclf.subscribers.log.rotation import completed
from streamclf.subscribers.log.sinks import SqliteSink, open_sink

HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None
CHAOS_S = float(os.environ.get("STREAMCLF_CHAOS_S", "4"))
"""Set it to 60 for the long run."""


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def start_logger(endpoint: str, output: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from pathlib import Path; from streamclf.subscribers.log.command import run_log\n"
        "sys.exit(run_log(sys.argv[1], Path(sys.argv[2]), rotate=sys.argv[3:]))"
    )
    arguments = [sys.executable, "-c", code, endpoint, str(output), *rotation(output)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE)


def rotation(output: Path) -> list[str]:
    """Small files, so that the kills hit their changes; `plain.jsonl` stays one, as a table does."""
    return [] if output.suffix == ".db" or output.stem == "plain" else ["20KB"]


def end_logger(process: subprocess.Popen[bytes], number: int) -> tuple[int, str]:
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    return process.returncode, err.decode()


def choose_draft(number: int) -> Draft:
    stream = f"cam{number % 5}"
    return status(stream, chunks=number) if number % 7 == 0 else prediction(stream, number=number)


def journal_rows(path: Path) -> list[tuple[int, str]]:
    with sqlite3.connect(path) as db:
        rows = [
            (offset, body.decode()) for offset, body in db.execute("SELECT offset, body FROM events ORDER BY offset")
        ]
    db.close()
    return rows


def logged_rows(path: Path) -> list[tuple[int, str]]:
    if path.suffix == ".parquet":
        return [(row["offset"], row["body"]) for row in parquet_rows(path)]
    if path.suffix in (".jsonl", ".csv"):
        files = [*completed(path), path]
        assert (len(files) > 3) == (path.stem != "plain")
        texts = [each.read_text() for each in files]
        assert all(text.endswith("\n") for text in texts)
        if path.suffix == ".csv":
            return [(int(row["offset"]), row["epoch"]) for text in texts for row in csv.DictReader(io.StringIO(text))]
        return [(json.loads(line)["offset"], line) for text in texts for line in text.splitlines()]
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT offset, body FROM events ORDER BY id").fetchall()
        assert db.execute("SELECT count(*) FROM lost").fetchone() == (0,)
    db.close()
    return rows


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    """As a reader of the directory sees them, file after file."""
    pq = pytest.importorskip("pyarrow.parquet")
    files = sorted(path.glob("date=*/part-*.parquet"), key=lambda each: each.name)
    assert files
    return [row for each in files for row in pq.ParquetFile(each).read().to_pylist()]


def test_hub_and_loggers_killed_at_random_the_log_equals_the_journal(hub: HubProcess, tmp_path: Path) -> None:
    chance = random.Random(1)
    names = ["events.db", "plain.jsonl", "events.jsonl", "events.csv", *(["events.parquet"] if HAS_PYARROW else [])]
    outputs = [tmp_path / name for name in names]
    loggers = {path: start_logger(hub.events, path) for path in outputs}
    link = EventProducer(hub.link, "test")
    stop = threading.Event()
    posted = 0

    def post() -> None:
        nonlocal posted
        while not stop.wait(0.0005):
            link.post(choose_draft(posted))
            posted += 1

    poster = threading.Thread(target=post)
    poster.start()
    try:
        end = time.monotonic() + CHAOS_S
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.1, 0.6))
            victim = chance.choice([*outputs, None])
            if victim is None:
                hub.kill()
                time.sleep(chance.uniform(0.0, 0.3))
                hub.start()
            else:
                end_logger(loggers[victim], signal.SIGKILL)
                loggers[victim] = start_logger(hub.events, victim)
    finally:
        stop.set()
        poster.join()
    assert link.close(20.0) == 0
    assert link.dropped == {}
    for path, logger in loggers.items():
        end_logger(logger, signal.SIGKILL)
        assert run_log(hub.events, path, once=True, seconds=60, rotate=rotation(path)) == 0
    assert hub.stop() == 0
    journal = journal_rows(hub.journal)
    assert len(journal) == posted
    epoch = json.loads(journal[0][1])["epoch"]
    for path in outputs:
        expected = [(offset, epoch) for offset, _ in journal] if path.suffix == ".csv" else journal
        assert logged_rows(path) == expected, path
    if HAS_PYARROW:
        assert len(list(outputs[-1].glob("date=*/part-*.parquet"))) > 3


def test_it_waits_for_a_service_says_so_and_ends_cleanly_on_sigint(tmp_path: Path) -> None:
    loggers = [start_logger("tcp://127.0.0.1:9", tmp_path / name) for name in ("events.db", "events.jsonl")]
    for logger in loggers:
        assert logger.stderr is not None
        assert b"waiting for a service at tcp://127.0.0.1:9" in logger.stderr.readline()
        code, err = end_logger(logger, signal.SIGINT)
        assert code == 0
        assert "0 events written" in err


def test_once_without_a_service_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.subscribers.log.command._ONCE_PATIENCE_S", 0.2)
    with pytest.raises(BusError, match="is the service running"):
        run_log("tcp://127.0.0.1:9", tmp_path / "events.db", once=True)


def test_labels_and_probabilities_are_columns(hub: HubProcess, tmp_path: Path) -> None:
    with EventProducer(hub.link, "test") as link:
        for draft in (prediction(), action("start"), status()):
            link.post(draft)
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
    output = tmp_path / "events.db"
    assert run_log(hub.events, output, once=True) == 0
    with sqlite3.connect(output) as db:
        rows = db.execute("SELECT stream, type, label, probability FROM events ORDER BY id").fetchall()
    db.close()
    assert rows == [
        ("door", "prediction", "wave", 0.91),
        ("door", "action", "wave", 0.9),
        ("door", "status", "live", None),
    ]


def test_what_retention_removed_is_recorded_as_lost(hub: HubProcess, tmp_path: Path) -> None:
    outputs = [tmp_path / "events.db", tmp_path / "events.jsonl", tmp_path / "events.csv"]
    if HAS_PYARROW:
        outputs.append(tmp_path / "events.parquet")
    with EventProducer(hub.link, "test") as link:
        for upto in (5, 20):
            for number in range(upto):
                link.post(prediction(number=number))
            wait_until(lambda: link.unacknowledged == 0, "confirmation")
            if upto == 5:
                for output in outputs:
                    assert run_log(hub.events, output, once=True) == 0
    hub.stop()
    with sqlite3.connect(hub.journal) as db:
        db.execute("DELETE FROM events WHERE offset<=10")
    db.close()
    hub.start()
    for output in outputs:
        for _ in range(2):
            assert run_log(hub.events, output, once=True) == 0
    with sqlite3.connect(outputs[0]) as db:
        assert db.execute("SELECT first, last FROM lost").fetchall() == [(6, 10)]
        offsets = [row[0] for row in db.execute("SELECT offset FROM events ORDER BY id")]
    db.close()
    lines = [json.loads(line) for line in outputs[1].read_text().splitlines()]
    assert offsets == [1, 2, 3, 4, 5, *range(11, 26)]
    assert [line.get("offset", "lost") for line in lines] == [1, 2, 3, 4, 5, "lost", *range(11, 26)]
    assert (lines[5]["first"], lines[5]["last"]) == (6, 10)
    tables = [list(csv.DictReader(io.StringIO(outputs[2].read_text())))]
    if HAS_PYARROW:
        tables.append(parquet_rows(outputs[3]))
    for rows in tables:
        assert [int(row["offset"]) for row in rows] == [1, 2, 3, 4, 5, 6, *range(11, 26)]
        assert [row["type"] for row in rows if row["type"] != "prediction"] == ["lost"]
        assert int(rows[5]["last"]) == 10


@pytest.mark.parametrize("name", ["events.txt", "events", "missing/events.db"])
def test_a_name_that_says_nothing_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        open_sink(tmp_path / name)


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE mine(x)")
    db.close()
    (tmp_path / "poem.jsonl").write_text("roses are red\n")
    (tmp_path / "text.db").write_text("roses are red\n" * 100)
    (tmp_path / "half.jsonl").write_text("violets")
    (tmp_path / "sums.csv").write_text("a,b\n1,2\n")
    for name in ("foreign.db", "poem.jsonl", "text.db", "half.jsonl", "sums.csv"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(JournalError, match="new"):
            open_sink(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_the_services_own_journal_is_not_taken_for_a_log(hub: HubProcess) -> None:
    with pytest.raises(JournalError, match="journal"):
        SqliteSink(hub.journal)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "events.db", "--rotate", "1d"], "events.db: SQLite stays one file"),
        (["-o", "events.csv", "--rotate", "often"], "rotate=often: one size like 100MB"),
        (["-o", "events.jsonl", "--keep", "3"], "keep=3: only together with --rotate"),
        (["-o", "events.xlsx"], "ends in .xlsx; give a name that ends in .db, .jsonl, .csv or .parquet"),
    ],
)
def test_the_command_line_refuses_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamclf", "log", "tcp://127.0.0.1:9", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_rotates(hub: HubProcess, tmp_path: Path) -> None:
    with EventProducer(hub.link, "test") as link:
        for number in range(3000):
            link.post(prediction(number=number))
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
    output = tmp_path / "events.csv"
    done = subprocess.run(
        [sys.executable, "-m", "streamclf", "log", hub.events, "-o", str(output), "--once",
         "--rotate", "1KB", "--rotate", "1d", "--keep", "1"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3000 events written" in done.stderr
    assert len(completed(output)) == 1
    assert output.read_text().splitlines()[-1].startswith("3000,")
