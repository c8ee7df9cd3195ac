"""The commands, the configuration and the programs on README's first pages work without a change."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clips import write_clip
from support.hub_process import wait_until
from support.ports import free_port
from support.repository import ROOT
from support.service import Service

README = (ROOT / "README.md").read_text()
DEADLINE_S = 200


def blocks(title: str, language: str) -> list[str]:
    """Return the code blocks of one section."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## )", README, re.MULTILINE | re.DOTALL)
    assert found, f"README has no section {title!r}"
    return re.findall(rf"^```{language}\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)


def run(line: str, folder: Path) -> str:
    """Run one command line of the README in `folder` and return its standard output."""
    name, *words = shlex.split(line, comments=True)
    assert name == "streamclf"
    command = [sys.executable, "-m", "streamclf", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `film.mp4`."""
    path = tmp_path_factory.mktemp("readme")
    write_clip(path / "film.mp4", frames=75)
    return path


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150


def test_files_are_classified(folder: Path) -> None:
    lines = [line for block in blocks("Try it", "sh") for line in block.splitlines() if "classify" in line]
    table, as_json, annotated, report = lines
    assert "film.mp4" in run(table, folder)
    result = json.loads(run(as_json, folder))
    assert result["windows"][0]["top"][0][0]
    run(annotated, folder)
    assert (folder / "out.mp4").stat().st_size > 1000
    run(report, folder)
    assert "film.mp4" in (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def endpoints(folder: Path) -> Iterator[dict[str, str]]:
    """The service of the README, on free ports; maps the README's endpoints to the ones in use."""
    (yaml,) = blocks("Run a service", "yaml")
    there = ["tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556", "{port: 8080}"]
    first, second, page = (free_port() for _ in range(3))
    here = dict(zip(there, (f"tcp://127.0.0.1:{first}", f"tcp://127.0.0.1:{second}", f"{{port: {page}}}"), strict=True))
    for old, new in here.items():
        yaml = yaml.replace(old, new)
    (folder / "cameras.yaml").write_text(yaml)
    check, start = blocks("Run a service", "sh")[0].splitlines()
    run(check, folder)
    with Service(*shlex.split(start)[1:], cwd=folder) as service:
        service.wait_for_line("publishing on")
        yield here


def test_the_commands_for_a_running_service_work(folder: Path, endpoints: dict[str, str]) -> None:
    status, watch, query = (replaced(line, endpoints) for line in blocks("Run a service", "sh")[1].splitlines())
    assert json.loads(run(status.split("#")[0] + " --json", folder))
    assert shlex.split(watch, comments=True)[:2] == ["streamclf", "watch"]  # needs a screen
    wait_until((folder / "events.db").exists, "the service has begun its log")
    wait_until(lambda: "film" in run(query, folder), "the log has a status")


@pytest.mark.parametrize("number", [0, 1])
def test_the_programs_print_events(number: int, folder: Path, endpoints: dict[str, str]) -> None:
    program = replaced(blocks("Read the events", "python")[number], endpoints)
    program = program.replace('types=["action"]', 'types=["prediction"]')  # an action would need a covered camera
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", program], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "film" in line, process.stderr.read() if process.stderr else ""
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_S)


def replaced(text: str, endpoints: dict[str, str]) -> str:
    for old, new in endpoints.items():
        text = text.replace(old, new)
    return text
