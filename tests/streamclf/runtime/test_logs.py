"""Log lines: their fields as text, as JSON and for journald, and nothing in them that controls a terminal."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamclf.redact import register_secret
from streamclf.runtime.logs import JsonFormatter, TextFormatter

CODE = """
import logging, sys
from streamclf.redact import register_secret
from streamclf.runtime.logs import configure_logging
register_secret("hunter22")
configure_logging("capture[door]", stream="door")
log = logging.getLogger("streamclf.test")
log.debug("fine")
log.info("at %s", "rtsp://me:hunter22@cam/1")
log.warning("a\\x1b[31m\\nERROR forged", extra={"stream": "yard"})
try:
    raise ValueError("no\\nhunter22")
except ValueError:
    log.exception("stopped by a bug")
"""


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import time

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def record(text: str, at_s: float = 1_795_927_681.25, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("streamclf.x", logging.WARNING, "", 0, text, (), None)
    made.created = at_s
    for key, value in more.items():
        setattr(made, key, value)
    return made


def lines_of(**environ: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={**os.environ, **environ}, capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()


def test_a_line_has_the_local_time_with_its_offset_in_winter_and_summer() -> None:
    formatter = TextFormatter("hub")
    assert formatter.format(record("x", stream="door")) == "2026-11-29 05:48:01+0100 WARNING hub  door: x"
    summer_s = 1_795_927_681.25 - 150 * 86_400
    assert formatter.format(record("x", summer_s)) == "2026-07-02 06:48:01+0200 WARNING hub  x"


def test_a_json_line_has_stable_fields() -> None:
    assert json.loads(JsonFormatter("hub").format(record("x", stream="door"))) == {
        "ts": "2026-11-29T05:48:01.250+01:00",
        "level": "warning",
        "process": "hub",
        "logger": "streamclf.x",
        "stream": "door",
        "message": "x",
    }
    assert "stream" not in json.loads(JsonFormatter("hub").format(record("x")))


def test_text_lines_have_one_record_each_and_no_secret() -> None:
    lines = lines_of(STREAMCLF_LOG="info")
    assert re.fullmatch(r"2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d\+0[12]00 INFO    capture\[door\]  at rtsp://.*", lines[0])
    assert lines[1].endswith(r"WARNING capture[door]  yard: a\x1b[31m\nERROR forged")
    assert lines[3].startswith("    Traceback")
    assert "hunter22" not in "".join(lines)


def test_json_lines_hold_the_traceback_and_no_secret() -> None:
    lines = lines_of(STREAMCLF_LOG="debug", STREAMCLF_LOG_FORMAT="json")
    debug, info, warning, error = map(json.loads, lines)
    assert (debug["level"], info["stream"], warning["stream"]) == ("debug", "door", "yard")
    assert warning["message"] == r"a\x1b[31m\nERROR forged"
    assert error["message"] == "stopped by a bug"
    assert "ValueError: no" in error["exc"]
    assert "hunter22" not in "".join(lines)


def test_journald_gets_priorities_instead_of_times(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with path.open("wb") as journal:
        stat = os.fstat(journal.fileno())
        environ = {**os.environ, "JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}
        subprocess.run([sys.executable, "-c", CODE], env=environ, stderr=journal, check=True)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("<6>INFO    capture[door]  at rtsp://")
    assert lines[1].startswith("<4>WARNING capture[door]  yard: ")
    assert lines_of(JOURNAL_STREAM="1:2")[0].startswith("2"), "stderr leads elsewhere"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("STREAMCLF_LOG", "verbose", "STREAMCLF_LOG=verbose: one of debug, info, warning, error"),
        ("STREAMCLF_LOG_FORMAT", "xml", "STREAMCLF_LOG_FORMAT=xml: one of text, json"),
    ],
)
def test_an_unknown_level_or_format_is_an_error(variable: str, value: str, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamclf", "run", "none.yaml"],
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, f"streamclf: {message}. See: streamclf run --help\n")


def test_a_secret_in_a_message_is_masked() -> None:
    register_secret("s3cr3t-value")
    assert "s3cr3t-value" not in TextFormatter("hub").format(record("s3cr3t-value"))
    assert "s3cr3t-value" not in JsonFormatter("hub").format(record("s3cr3t-value"))
