"""One command runs the service with its outlets: kills and live changes lose no event for any receiver."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.clips import write_clip
from support.hub_process import wait_until
from support.live import Setup
from support.mosquitto import PROGRAM, Mosquitto
from support.mqtt_broker import MqttBroker
from support.receiver import Receiver
from support.service import DEADLINE_S, Service

from streamclf.client.subscription import subscribe
from streamclf.events.outlet_status import OutletStatus
from streamclf.events.types import Heartbeat
from streamclf.net.curve_keys import make_keys

TOKEN = "path-secret-of-this-receiver"
SECRET = "secret-of-this-test-0123456789"
KINDS = ("prediction", "action", "status")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def wait_outlets(endpoint: str | Path, condition: Callable[[dict[str, OutletStatus]], bool]) -> dict[str, OutletStatus]:
    """Wait for a heartbeat whose outlets meet `condition`, and return them."""
    last: dict[str, OutletStatus] = {}

    def is_met() -> bool:
        nonlocal last
        event = events.receive(0.5)
        if isinstance(event, Heartbeat):
            last = event.outlets
        return condition(last)

    with subscribe(endpoint, types=["heartbeat"]) as events:
        wait_until(is_met, "the outlets", DEADLINE_S)
    return last


def outlet_pids(service: Service) -> dict[str, int]:
    """Return the process of each outlet, by the name on its command line."""
    found = {}
    for pid in service.children("streamclf.subscribers"):
        found[Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[3].decode()] = pid
    return found


def journal_offsets(path: Path, *types: str) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT offset, body FROM events ORDER BY offset").fetchall()
    return [offset for offset, body in rows if json.loads(body)["type"] in types]


def test_no_receiver_misses_an_event_when_outlets_and_hub_are_killed_and_changed(setup: Setup) -> None:
    write_clip(setup.folder / "short.mp4", frames=15, fps=10, width=160, height=96, gop=10)
    actions = {"bright": {"on": 0.01, "off": 0.0, "min_s": 0.0}}
    with Receiver() as receiver, Mosquitto() if PROGRAM else MqttBroker() as broker:
        webhook: dict[str, Any] = {
            "url": f"{receiver.url}/{TOKEN}",
            "secret": "${SIGNING_KEY}",
            "types": "prediction, action",
            "updates": True,
        }
        outlets: dict[str, Any] = {
            "log": {"file": "events.db", "types": list(KINDS)},
            "mqtt": {"broker": broker.url, "types": list(KINDS), "updates": True},
            "webhook": webhook,
            "metrics": {"port": 0},
        }
        path = setup.write(streams={"film": setup.film}, actions=actions, outlets=outlets)
        with Service("run", str(path), cwd=setup.folder, env={"SIGNING_KEY": SECRET}) as service:
            endpoint = service.endpoint
            names = {"log", "mqtt", "webhook", "metrics"}

            def all_deliver(found: dict[str, OutletStatus]) -> bool:
                return found.keys() == names and all(
                    each.delivered and each.state == "running" for each in found.values()
                )

            wait_outlets(endpoint, all_deliver)
            first = outlet_pids(service)
            arguments = [Path(f"/proc/{pid}/cmdline").read_text() for pid in service.descendants()]
            for pid in [*first.values(), *service.children("streamclf.hub")]:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: outlet_pids(service).keys() == names, "new processes", DEADLINE_S)
            wait_outlets(endpoint, all_deliver)
            second = outlet_pids(service)
            assert not set(second.values()) & set(first.values())

            for pid in service.children("streamclf.hub"):
                os.kill(pid, signal.SIGTERM)  # as from an operator: the service continues with another hub
            receiver.stop()
            waiting = wait_outlets(endpoint, lambda found: "webhook" in found and found["webhook"].state == "waiting")[
                "webhook"
            ]
            assert waiting.reason
            assert "refused" in waiting.reason
            receiver.start()

            outlets["webhook"] = {**webhook, "batch": 20}
            outlets["log"] = [outlets["log"], {"name": "actions", "file": "actions.jsonl", "types": "action"}]
            del outlets["metrics"]
            setup.write(outlets=outlets)
            service.process.send_signal(signal.SIGHUP)
            service.wait_for_line("new configuration applied: outlets log-actions, metrics, webhook")
            names = {"log", "log-actions", "mqtt", "webhook"}
            wait_outlets(endpoint, all_deliver)
            third = outlet_pids(service)
            assert {name for name in names if third[name] == second.get(name)} == {"log", "mqtt"}

            setup.write(streams={"film": {"url": "short.mp4"}})  # the service ends with the film
            service.process.send_signal(signal.SIGHUP)
            assert service.wait() == 0
        output = "\n".join([*service.lines, *arguments])
        journal = setup.folder / "streamclf.db"
        everything = journal_offsets(journal, *KINDS)
        assert len(everything) > 50
        assert journal_offsets(setup.folder / "events.db", *KINDS) == everything
        lines = (setup.folder / "actions.jsonl").read_text().splitlines()
        assert [json.loads(line)["offset"] for line in lines] == journal_offsets(journal, "action")
        posted = [event["offset"] for request in receiver.accepted for event in events_of(request.json)]
        assert list(dict.fromkeys(posted)) == journal_offsets(journal, "prediction", "action")
        assert len(posted) <= len(set(posted)) + 3  # the kill, the receiver's end and the change repeat one at most
        published = [json.loads(body)["offset"] for kind in KINDS for body in broker.on(f"streamclf/film/{kind}")]
        assert sorted(set(published)) == everything
        for secret in (TOKEN, SECRET):
            assert secret not in output


def events_of(body: Any) -> list[Any]:
    return list(body["events"]) if "events" in body else [body]


def test_with_keys_the_outlets_need_none_and_one_that_cannot_start_is_parked(setup: Setup) -> None:
    public, secret = make_keys(setup.folder, "server")
    allowed = setup.folder / "allowed"
    allowed.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        publish = {**setup.config["publish"], "keys": str(secret), "allow": str(allowed)}
        outlets = {"log": {"file": "events.db", "types": "prediction"}, "metrics": {"port": port}}
        path = setup.write(streams={"film": setup.film}, publish=publish, outlets=outlets)
        with Service("run", str(path), cwd=setup.folder) as service:
            endpoint = service.endpoint
            client, key_file = make_keys(setup.folder, "me", service=public, endpoint=endpoint)
            client.rename(allowed / client.name)
            found = wait_outlets(key_file, lambda found: bool(found) and found["metrics"].state == "parked")
            assert found["log"].state == "running"
            assert found["log"].delivered > 0
            assert "give another --host or --port" in (found["metrics"].reason or "")
            assert service.process.poll() is None
            program = [sys.executable, "-m", "streamclf", "status", str(key_file)]
            shown = subprocess.run([*program, "--json"], capture_output=True, text=True, timeout=60, check=True)
            assert json.loads(shown.stdout)["outlets"]["metrics"]["state"] == "parked"
            table = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True).stdout
            assert "parked" in table
    used.close()
