"""Test docs/protocol.md and docs/python-api.md: their programs run, and the schema is up to date."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.fleet import FleetRig
from support.hub_process import HubProcess, action, prediction, status
from support.repository import ROOT

from streamclf.events.types import json_schema
from streamclf.producer.link import EventProducer

DOCS = ROOT / "docs"


def programs(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)


def test_schema_is_up_to_date() -> None:
    remedy = "write it again: json.dumps(json_schema(), indent=1)"
    assert json.loads((DOCS / "events.schema.json").read_text()) == json_schema(), remedy


@pytest.mark.parametrize(
    ("page", "first_lines"),
    [
        ("protocol.md", ["door wave 0.91", "Action(", "{'v': 1"]),
        ("python-api.md", ["door wave ", "Action(", "Action(", ""]),
    ],
)
def test_documented_programs_run_and_print_events(page: str, first_lines: list[str]) -> None:
    readers = [program for program in programs(page) if "subscribe(" in program or "127.0.0.1:5556" in program]
    with HubProcess() as hub, EventProducer(hub.link, "test") as link:
        stop = threading.Event()

        def post() -> None:
            while not stop.wait(0.05):
                for draft in (prediction(), action("start"), action("end"), status()):
                    link.post(draft)

        poster = threading.Thread(target=post)
        poster.start()
        try:
            for program, first_line in zip(readers, first_lines, strict=True):
                code = program.replace("tcp://127.0.0.1:5555", hub.events).replace("tcp://127.0.0.1:5556", hub.replay)
                process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True)
                assert process.stdout is not None
                try:
                    line = process.stdout.readline()
                    assert line.startswith(first_line)
                    assert "door" in line
                finally:
                    process.kill()
                    process.communicate(timeout=60)
        finally:
            stop.set()
            poster.join()


def test_the_documented_program_lists_the_nodes_of_a_fleet() -> None:
    (program,) = [program for program in programs("protocol.md") if '"directory"' in program]
    with FleetRig("hall", "yard") as fleet:
        command = [sys.executable, "-c", program.replace("tcp://127.0.0.1:5550", fleet.endpoint)]
        output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        expected = [f"{name} live {hub.events} {hub.replay}" for name, hub in fleet.hubs.items()]
    assert output.splitlines() == expected


def test_documented_program_pushes_without_a_service(tmp_path: Path) -> None:
    (program,) = [program for program in programs("python-api.md") if "streamclf.push" in program]
    command = [sys.executable, "-c", program]
    subprocess.run(command, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}, timeout=60, check=True)
