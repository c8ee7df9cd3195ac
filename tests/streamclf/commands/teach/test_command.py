from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from support.bundles import make_brightness_bundle
from support.example_films import BLUE, RED, write_examples
from support.repository import ROOT

from engines.bundle import load_bundle

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    make_brightness_bundle(folder / "base")
    write_examples(folder / "examples", {"red": RED, "<script>alert(1)": BLUE}, each=5)
    return folder


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "streamclf", "teach", "examples", "--base", "base", *options]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(folder: Path, *options: str) -> tuple[int, str, str]:
    process = start(folder, *options)
    out, err = process.communicate(timeout=250)
    return process.returncode, out.decode(), err.decode()


def test_json_lines_report_and_next_steps(films: Path) -> None:
    code, out, err = run(films, "-o", "models/yard", "--json")
    assert (code, err) == (0, "")
    events = [orjson.loads(line) for line in out.splitlines()]
    assert events[0]["event"] == "start"
    assert events[0]["labels"] == {"<script>alert(1)": 5, "red": 5}
    assert events[0]["films"] == 10
    progress = [event for event in events if event["event"] == "progress"]
    assert list(dict.fromkeys(event["stage"] for event in progress)) == ["read", "measure", "fit", "write"]
    shares = [event["share"] for event in progress]
    assert shares == sorted(shares)
    assert {event["film_number"] for event in progress if event["stage"] == "read"} == set(range(1, 11))
    done = events[-1]
    assert done["event"] == "done"
    assert done["model"] == load_bundle(films / "models/yard").spec.id
    assert done["balanced_accuracy"] > 0.8
    assert len(done["per_label"]) == len(done["confusion"]) == 2
    assert "models:\n    yard: models/yard" in done["next"]
    page = (films / done["report"]).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("data:image/jpeg;base64,") >= 10

    code, out, err = run(films, "-o", "models/yard")
    assert code == 2
    assert err == (
        "streamclf: -o models/yard: a bundle is there; --add goes on from its examples, --force replaces it. "
        "See: streamclf teach --help\n"
    )
    code, out, err = run(films, "-o", "models/yard", "--force")
    assert code == 0
    assert re.match(r"On films that were held out: \d+% balanced accuracy \(95 % interval", out)


def test_an_error_is_also_a_json_line(films: Path) -> None:
    code, out, err = run(films, "-o", "models/other", "--json", "--base", "nowhere")
    assert code == 2
    last = orjson.loads(out.splitlines()[-1])
    assert (last["event"], last["code"]) == ("error", 2)
    assert last["message"].startswith("model=nowhere: no such directory")
    assert err.startswith(f"streamclf: {last['message']}")


def test_ctrl_c_leaves_nothing(films: Path, tmp_path: Path) -> None:
    output = tmp_path / "stopped" / "yard"
    process = start(films, "-o", str(output), "--json")
    assert process.stdout is not None
    assert orjson.loads(process.stdout.readline())["event"] == "start"  # the earliest moment: training is short
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    expected = f"streamclf teach: interrupted; nothing was written to {output}\n"
    assert (process.returncode, err.decode()) == (130, expected)
    assert not output.parent.exists()
