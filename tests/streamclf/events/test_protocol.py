"""Test docs/protocol.md: its programs run, and its schema is up to date."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading

from support.hub_process import HubProcess, action, prediction, status, wait_until
from support.repository import ROOT

from streamclf.events.types import json_schema
from streamclf.producer.link import EventProducer

DOCS = ROOT / "docs"


def programs() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / "protocol.md").read_text(), re.S)


def test_schema_is_up_to_date() -> None:
    remedy = "write it again: json.dumps(json_schema(), indent=1)"
    assert json.loads((DOCS / "events.schema.json").read_text()) == json_schema(), remedy


def test_documented_programs_run_and_print_events() -> None:
    plain, with_package, replay = programs()
    with HubProcess() as hub, EventProducer(hub.link, "test") as link:
        stop = threading.Event()

        def post() -> None:
            while not stop.wait(0.05):
                for draft in (prediction(), action("start"), action("end"), status()):
                    link.post(draft)

        poster = threading.Thread(target=post)
        poster.start()
        try:
            wait_until(lambda: link.unacknowledged == 0, "confirmation")
            for program, expected in ((plain, "door wave 0.91"), (with_package, "Action("), (replay, "{'v': 1")):
                code = program.replace("tcp://127.0.0.1:5555", hub.events).replace("tcp://127.0.0.1:5556", hub.replay)
                process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True)
                assert process.stdout is not None
                try:
                    assert process.stdout.readline().startswith(expected)
                finally:
                    process.kill()
                    process.communicate(timeout=10)
        finally:
            stop.set()
            poster.join()
