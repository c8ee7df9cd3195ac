"""Log a fleet with the command, while nodes and the logger are killed: the log holds each journalled event once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from support.fleet import FleetRig
from support.hub_process import wait_until


def logged(path: Path) -> list[tuple[str, int, str, int]]:
    """Return (epoch, offset, stream, lease) of the events in a log, in its order."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT epoch, offset, stream, json_extract(body, '$.lease') FROM events ORDER BY id"
        try:
            return list(db.execute(query))
        except sqlite3.OperationalError:  # the tables are being made
            return []


def start(fleet: FleetRig, path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "streamclf", "log", fleet.address, "-o", str(path), "--types", "prediction"]
    with (path.parent / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stderr=log)


def test_log_holds_each_event_once_though_a_node_and_the_logger_are_killed(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with FleetRig("a", "b", "c") as fleet:
        for stream, node in (("door", "a"), ("yard", "b"), ("gate", "c")):
            fleet.give(stream, node)
        logger = start(fleet, path)
        try:
            for stream in ("door", "yard", "gate"):
                fleet.post(stream, 40)
            wait_until(lambda: len(logged(path)) >= 30, "the first events", 90)
            logger.send_signal(signal.SIGKILL)
            logger.wait(60)
            fleet.post("door", 40)  # nobody has read these when the node is killed
            fleet.wait_published()
            fleet.kill("a")
            fleet.give("door", "b")
            fleet.post("door", 40)
            fleet.post("gate", 40)
            fleet.wait_published()
            logger = start(fleet, path)
            missing = 40
            wait_until(lambda: len(logged(path)) == len(fleet.journals()) - missing, "all but the lost ones", 90)
            fleet.restart("a", other_ports=True)
            wait_until(lambda: len(logged(path)) == len(fleet.journals()), "those of the node that returned", 90)
            logger.send_signal(signal.SIGTERM)
            assert logger.wait(60) == 0
        finally:
            logger.kill()
            logger.wait(60)
        found = logged(path)
        assert sorted((epoch, offset) for epoch, offset, _, _ in found) == fleet.journals()
    for stream in ("yard", "gate"):
        offsets = [offset for _, offset, name, _ in found if name == stream]
        assert offsets == sorted(offsets)
    text = (tmp_path / "log.txt").read_text()
    assert text.count("node a is lost since") == 1, text
    assert "node a is back" in text


def test_log_of_a_fleet_in_lines_is_refused_with_the_remedy(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streamclf", "log", "fleet://127.0.0.1:1", "-o", str(tmp_path / "events.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "give a .db file" in done.stderr
    assert not (tmp_path / "events.jsonl").exists()
