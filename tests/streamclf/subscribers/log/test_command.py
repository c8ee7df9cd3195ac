"""`streamclf log` writes each event once, even if hub and log are killed, and records the events that are lost."""

from __future__ import annotations

import contextlib
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
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.hub_process import HubProcess, action, clip, prediction, status, wait_until
from support.outlets import log_of_everything

from streamclf.errors import BusError
from streamclf.events.drafts import Draft
from streamclf.events.positions import Position
from streamclf.events.types import Heartbeat
from streamclf.producer.link import EventProducer
from streamclf.subscribers.delivery import CatchUp
from streamclf.subscribers.log.rotation import complete_files
from streamclf.subscribers.outlet_command import run_outlet

CHAOS_S = float(os.environ.get("STREAMCLF_CHAOS_S", "2.5"))
"""How long processes are killed at random; set it to 60 for a long run."""


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def start_log(endpoint: str, output: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from pathlib import Path; from streamclf.client import stream_views\n"
        "from support.outlets import log_of_everything\n"
        "from streamclf.subscribers.outlet_command import run_outlet\n"
        "stream_views.SERVICE_SILENT_S = 0.5\n"
        "sys.exit(run_outlet(sys.argv[1], log_of_everything(sys.argv[2], rotate=sys.argv[3:])))"
    )
    arguments = [sys.executable, "-c", code, endpoint, str(output), *rotation(output)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, env=env)


def rotation(output: Path) -> list[str]:
    """Rotate into small files, so that kills hit rotations; `plain.jsonl` and a table stay one file."""
    return [] if output.suffix == ".db" or output.stem == "plain" else ["20KB"]


def end_log(process: subprocess.Popen[bytes], number: int) -> tuple[int, str]:
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
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


def size_of(output: Path) -> int:
    """Return the bytes of all files of a log."""
    size = 0
    for path in output.parent.glob(f"{output.stem}*{output.suffix}*"):
        with contextlib.suppress(FileNotFoundError):  # the log may rename it at this moment
            size += path.stat().st_size
    return size


def logged_rows(path: Path) -> list[tuple[int, str]]:
    if path.suffix == ".jsonl":
        files = [*complete_files(path), path]
        assert (len(files) > 3) == (path.stem != "plain")
        texts = [each.read_text() for each in files]
        assert all(text.endswith("\n") for text in texts)
        return [(json.loads(line)["offset"], line) for text in texts for line in text.splitlines()]
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT offset, body FROM events ORDER BY id").fetchall()
        assert db.execute("SELECT count(*) FROM lost").fetchone() == (0,)
    db.close()
    return rows


def test_the_log_equals_the_journal_after_hub_and_logs_were_killed_at_random(hub: HubProcess, tmp_path: Path) -> None:
    chance = random.Random(1)
    outputs = [tmp_path / name for name in ("events.db", "plain.jsonl", "events.jsonl")]
    logs = {path: start_log(hub.events, path) for path in outputs}
    sizes = dict.fromkeys(outputs, 0)
    """The bytes that each log had written when its process started."""
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
        latest = end + 120
        # On a loaded machine a log starts late. So most of them may write before they are killed, and the kills go on
        # until the small files were rotated.
        while (now := time.monotonic()) < end or (now < latest and len(complete_files(outputs[2])) < 3):
            time.sleep(chance.uniform(0.1, 0.6))
            victim = chance.choice([*outputs, None])
            if victim is None:
                hub.kill()
                time.sleep(chance.uniform(0.0, 0.3))
                hub.start()
            else:
                may_write = chance.random() < 0.8
                while may_write and size_of(victim) == sizes[victim] and time.monotonic() < latest:
                    time.sleep(0.02)
                end_log(logs[victim], signal.SIGKILL)
                sizes[victim] = size_of(victim)
                logs[victim] = start_log(hub.events, victim)
    finally:
        stop.set()
        poster.join()
    assert link.close(20.0) == 0
    assert link.dropped == {}
    for path, log in logs.items():
        end_log(log, signal.SIGKILL)
        assert (
            run_outlet(
                hub.events,
                log_of_everything(path, rotate=rotation(path)),
                once=True,
                seconds=60,
            )
            == 0
        )
    assert hub.stop() == 0
    journal = journal_rows(hub.journal)
    assert len(journal) == posted
    for path in outputs:
        assert logged_rows(path) == journal, path


def test_the_log_reports_that_it_waits_for_a_service_and_ends_on_sigint(tmp_path: Path) -> None:
    logs = [start_log("tcp://127.0.0.1:9", tmp_path / name) for name in ("events.db", "events.jsonl")]
    for log in logs:
        assert log.stderr is not None
        assert b"waiting for a service at tcp://127.0.0.1:9" in log.stderr.readline()
        code, err = end_log(log, signal.SIGINT)
        assert code == 0
        assert "0 events written" in err


def test_once_without_a_service_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.subscribers.outlet_command.ONCE_SILENCE_S", 0.2)
    with pytest.raises(BusError, match="is the service running"):
        run_outlet("tcp://127.0.0.1:9", log_of_everything(tmp_path / "events.db"), once=True)


def test_once_ends_at_the_head_of_the_first_heartbeat_or_of_a_new_journal() -> None:
    events: Any = SimpleNamespace(position=None)
    catch_up = CatchUp(events)
    assert not catch_up.update(heartbeat("ab" * 16, head=5))
    events.position = Position("ab" * 16, 4)
    assert not catch_up.update(heartbeat("ab" * 16, head=9))
    assert not catch_up.update(heartbeat("cd" * 16, head=2))
    events.position = Position("cd" * 16, 1)
    assert not catch_up.update(None)
    events.position = Position("cd" * 16, 2)
    assert catch_up.update(None)


def test_a_heartbeat_that_waited_in_a_queue_does_not_end_the_catching_up() -> None:
    events: Any = SimpleNamespace(position=Position("ab" * 16, 5))
    since = datetime.now(timezone.utc) + timedelta(seconds=60)
    assert not CatchUp(events, since).update(heartbeat("ab" * 16, head=5))
    assert CatchUp(events, since - timedelta(seconds=120)).update(heartbeat("ab" * 16, head=5))


def heartbeat(epoch: str, head: int) -> Heartbeat:
    now = datetime.now(timezone.utc)
    return Heartbeat(epoch=epoch, time=now, head=head, oldest=1, last={}, replay="tcp://127.0.0.1:1")


def test_label_and_probability_are_columns(hub: HubProcess, tmp_path: Path) -> None:
    with EventProducer(hub.link, "test") as link:
        for draft in (prediction(), action("start"), status()):
            link.post(draft)
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
    output = tmp_path / "events.db"
    assert run_outlet(hub.events, log_of_everything(output), once=True) == 0
    with sqlite3.connect(output) as db:
        rows = db.execute("SELECT stream, type, label, probability FROM events ORDER BY id").fetchall()
    db.close()
    assert rows == [
        ("door", "prediction", "wave", 0.91),
        ("door", "action", "wave", 0.9),
        ("door", "status", "live", None),
    ]


def test_events_removed_by_retention_are_recorded_as_lost(hub: HubProcess, tmp_path: Path) -> None:
    outputs = [tmp_path / "events.db", tmp_path / "events.jsonl"]
    with EventProducer(hub.link, "test") as link:
        for upto in (5, 20):
            for number in range(upto):
                link.post(prediction(number=number))
            wait_until(lambda: link.unacknowledged == 0, "confirmation")
            if upto == 5:
                for output in outputs:
                    assert run_outlet(hub.events, log_of_everything(output), once=True) == 0
    hub.stop()
    with sqlite3.connect(hub.journal) as db:
        db.execute("DELETE FROM events WHERE offset<=10")
    db.close()
    hub.start()
    for output in outputs:
        for _ in range(2):
            assert run_outlet(hub.events, log_of_everything(output), once=True) == 0
    with sqlite3.connect(outputs[0]) as db:
        assert db.execute("SELECT first, last FROM lost").fetchall() == [(6, 10)]
        offsets = [row[0] for row in db.execute("SELECT offset FROM events ORDER BY id")]
    db.close()
    lines = [json.loads(line) for line in outputs[1].read_text().splitlines()]
    assert offsets == [1, 2, 3, 4, 5, *range(11, 26)]
    assert [line.get("offset", "lost") for line in lines] == [1, 2, 3, 4, 5, "lost", *range(11, 26)]
    assert (lines[5]["first"], lines[5]["last"]) == (6, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "events.db", "--rotate", "1d"], "events.db: a SQLite log is one file"),
        (["-o", "events.jsonl", "--rotate", "often"], "rotate=often: give one size like 100MB"),
        (["-o", "events.jsonl", "--keep", "3"], "keep=3: a number of files needs rotate"),
        (
            ["-o", "events.db", "--types", "action,pictures"],
            "types.1: must be 'prediction', 'action', 'status' or 'clip'",
        ),
        (["-o", "events.csv"], "then export it with: streamclf query events.db -o events.csv"),
        (["-o", "events.xlsx"], "ends in .xlsx; give a name that ends in .db or .jsonl"),
    ],
)
def test_the_command_line_refuses_invalid_arguments_in_one_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
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
    output = tmp_path / "events.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "streamclf", "log", hub.events, "-o", str(output), "--once",
         "--types", "prediction", "--rotate", "1KB", "--rotate", "1d", "--keep", "1"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3000 events written" in done.stderr
    assert len(complete_files(output)) == 1
    assert json.loads(output.read_text().splitlines()[-1])["offset"] == 3000


@pytest.mark.parametrize(
    ("options", "logged"),
    [([], ["action", "status", "clip"]), (["--types", "prediction, action"], ["prediction", "action"])],
)
@pytest.mark.parametrize("name", ["events.db", "events.jsonl"])
def test_predictions_are_logged_on_request_only(
    hub: HubProcess, tmp_path: Path, name: str, options: list[str], logged: list[str]
) -> None:
    with EventProducer(hub.link, "test") as link:
        for draft in (prediction(), action("start"), status(), clip(), prediction(number=1)):
            link.post(draft)
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
        output = tmp_path / name
        command = [sys.executable, "-m", "streamclf", "log", hub.events, "-o", str(output), "--once", *options]
        for _ in range(2):  # the second run continues where the first one ended
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
    if name == "events.jsonl":
        types = [json.loads(line)["type"] for line in output.read_text().splitlines()]
    else:
        with sqlite3.connect(output) as db:
            types = [row[0] for row in db.execute("SELECT type FROM events ORDER BY id")]
        db.close()
    assert types == (logged if "prediction" not in logged else [*logged, "prediction"])
