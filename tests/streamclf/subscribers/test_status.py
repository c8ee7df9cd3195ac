"""`streamclf status` reports every stream from a snapshot, and fails within its time limit without a service."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from support.hub_process import HubProcess, action, prediction, status, wait_until
from support.short_silence import short_silence_program

from streamclf.errors import BusError
from streamclf.events.drafts import Draft
from streamclf.producer.link import EventProducer
from streamclf.subscribers.status import run_status


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub, EventProducer(hub.link, "test") as link:
        for number in range(30):
            link.post(prediction(f"cam{number % 2}", number=number))
        link.post(status("cam0", "live", chunks=15))
        link.post(Draft("status", "cam1", {"state": "offline", "reason": "connection refused", "counters": {}}))
        link.post(action("start", "cam0"))
        link.post(status("cam2", "connecting"))
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
        yield hub


def test_json_reports_every_stream_with_the_same_keys(hub: HubProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_status(hub.events, as_json=True, timeout_s=60) == 0
    out = capsys.readouterr().out
    report = json.loads(out)
    assert out.count("\n") == 1
    assert (report["head"], report["oldest"], report["not_durable"], report["dropped"]) == (34, 1, 0, {})
    assert re.fullmatch("[0-9a-f]{32}", report["epoch"])
    assert report["replay"] == hub.replay
    assert abs(datetime.now(timezone.utc) - datetime.fromisoformat(report["time"].replace("Z", "+00:00"))) < timedelta(
        minutes=1
    )
    assert sorted(report["streams"]) == ["cam0", "cam1", "cam2"]
    cam0, cam1, cam2 = (report["streams"][f"cam{n}"] for n in range(3))
    assert (cam0["state"], cam0["reason"], cam0["counters"], cam0["hop"]) == ("live", None, {"chunks": 15}, None)
    assert cam0["decode"] is None
    assert cam0["top"] == [["wave", 0.91], ["still", 0.04]]
    assert cam0["model"] == "gestures@1"
    assert 0 <= cam0["age_s"] < 15
    assert cam0["latency_ms"] > 0
    assert cam0["rate_per_s"] == cam1["rate_per_s"] == 1.5  # 15 in the last ten seconds
    assert cam2["rate_per_s"] == 0
    assert (cam0["action"]["label"], cam0["action"]["phase"]) == ("wave", "start")
    assert (cam1["state"], cam1["reason"], cam1["action"]) == ("offline", "connection refused", None)
    assert (cam2["state"], cam2["top"], cam2["age_s"]) == ("connecting", [], None)
    assert cam0.keys() == cam1.keys() == cam2.keys()


def test_json_reports_the_views_of_a_stream(hub: HubProcess, capsys: pytest.CaptureFixture[str]) -> None:
    with EventProducer(hub.link, "views") as link:
        for view in ({"region": "gate"}, {"region": "gate", "model_name": "hands"}):
            for number in range(10 if len(view) == 1 else 5):
                link.post(prediction("cam1", number=number, **view))
            link.post(action("start", "cam1", **view))
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
    assert run_status(hub.events, as_json=True, timeout_s=60) == 0
    streams = json.loads(capsys.readouterr().out)["streams"]
    views = streams["cam1"]["views"]
    assert [(view["region"], view["model_name"], view["rate_per_s"]) for view in views] == [
        (None, None, 1.5), ("gate", None, 1.0), ("gate", "hands", 0.5),
    ]  # fmt: skip
    assert [view["action"] and view["action"].get("model_name") for view in views] == [None, None, "hands"]
    assert all(view["top"] == [["wave", 0.91], ["still", 0.04]] for view in views)
    assert streams["cam1"]["rate_per_s"] == 3.0
    assert [(view["region"], view["top"]) for view in streams["cam2"]["views"]] == [(None, [])]


def test_without_a_terminal_the_table_is_printed_once(hub: HubProcess) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamclf", "status", hub.events, "--timeout", "20"],
        capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if " cam1" in line]
    assert "offline" in row
    assert "connection refused" in row
    (live,) = [line for line in done.stdout.splitlines() if " cam0" in line]
    assert live.count("▇") == 15, "the recent predictions come from the journal"
    assert "events 1 to 34" in done.stdout
    assert "Ctrl-C" not in done.stdout


def test_in_a_terminal_the_table_is_live_and_names_a_silent_service(hub: HubProcess) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *short_silence_program(), "status", hub.events],
        stdout=theirs, stdin=theirs, stderr=subprocess.PIPE, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""

    def shows(text: bytes) -> bool:
        nonlocal shown
        if select.select([ours], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):  # the other end is closed
                shown += os.read(ours, 65536)
        return text in shown

    try:
        wait_until(lambda: shows(b"events 1 to 34"), "the table", 90)
        with EventProducer(hub.link, "test") as link:
            link.post(prediction("late"))
            wait_until(lambda: shows(b"events 1 to 35"), "the next heartbeat", 90)
        assert shows(b"late")
        hub.kill()
        wait_until(lambda: shows(b"the service is silent"), "the end of the service", 90)
        wait_until(lambda: shows(b"unknown"), "states that nobody knows any more", 90)
        process.send_signal(signal.SIGINT)
        wait_until(lambda: (shows(b"\0"), process.poll())[1] is not None, "the end", 90)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate(timeout=60)
        os.close(ours)


def test_without_a_service_status_prints_one_line_and_exits_with_1() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamclf", "status", "tcp://127.0.0.1:9", "--json", "--timeout", "0.3"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "no message for 0.3 s; no program listens there; is the service running" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_stopped_service_is_an_error(hub: HubProcess) -> None:
    hub.signal(signal.SIGSTOP)
    with pytest.raises(BusError):
        run_status(hub.events, as_json=True, timeout_s=0.5)
