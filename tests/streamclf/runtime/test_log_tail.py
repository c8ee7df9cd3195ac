"""The last lines of all processes of a service are in one small file."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamclf.runtime import log_tail
from streamclf.runtime.log_tail import TAIL_VARIABLE, kept_log_tail, read_log_tail
from streamclf.runtime.logs import TextFormatter

CHILD = """
import logging
from streamclf.runtime.logs import configure_logging
configure_logging("capture[door]", stream="door")
logging.getLogger("x").warning("from rtsp://user:secret-word@camera/")
"""


def test_lines_of_a_process_and_of_its_children_without_credentials(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with kept_log_tail(path, TextFormatter("service")):
        logging.getLogger("service").warning("first")
        subprocess.run([sys.executable, "-c", CHILD], check=True, stderr=subprocess.DEVNULL, timeout=30)
        logging.getLogger("service").error("two\nlines")
    logging.getLogger("service").warning("afterwards")
    lines = read_log_tail(path, 10)
    assert [line.split(maxsplit=3)[3] for line in lines] == [
        "service  first",
        "capture[door]  from rtsp://***@camera/",
        r"service  two\nlines",
    ]
    assert "secret-word" not in path.read_text()
    assert TAIL_VARIABLE not in os.environ


def test_the_file_is_bounded_and_holds_the_newest_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_tail, "MAX_FILE_BYTES", 1000)
    path = tmp_path / "log"
    with kept_log_tail(path, TextFormatter("service")):
        for number in range(500):
            logging.getLogger("service").warning("line %d", number)
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) < 2500
    assert [line.rpartition(" ")[2] for line in read_log_tail(path, 3)] == ["497", "498", "499"]


def test_a_removed_directory_ends_no_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # one of another test may write to a closed stream
    with kept_log_tail(tmp_path / "gone" / "log", TextFormatter("service")):
        logging.getLogger("service").warning("lost")
    assert read_log_tail(tmp_path / "gone" / "log", 3) == []
    assert "Traceback" not in capsys.readouterr().err
