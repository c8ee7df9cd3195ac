"""A service whose endpoints another program has ends before it starts a process."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from streamclf.config.publish import PublishConfig
from streamclf.config.service import load_config
from streamclf.errors import EndpointInUseError
from streamclf.supervisor import endpoint_checks, supervisor
from streamclf.supervisor.endpoint_checks import check_endpoints
from streamclf.supervisor.preflight import preflight
from streamclf.supervisor.supervisor import Supervisor


def test_a_service_on_a_taken_port_starts_no_process(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_checks, "RELEASE_S", 0.3)
    monkeypatch.setattr(supervisor, "ProcessSet", lambda *_, **__: pytest.fail("a process would start"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        events = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        file = tmp_path / "service.yaml"
        file.write_text(
            f"streams: {{a: {{url: {clip}}}}}\npublish: {{events: '{events}', replay: 'tcp://127.0.0.1:*'}}\n"
        )
        with pytest.raises(EndpointInUseError, match=f"publish.events {events}: Address already in use"):
            Supervisor(preflight(load_config(file))).run()


def test_the_hub_of_a_killed_service_gets_time_to_end() -> None:
    other = socket.create_server(("127.0.0.1", 0))
    publish = PublishConfig(events=f"tcp://127.0.0.1:{other.getsockname()[1]}", replay="tcp://127.0.0.1:*")
    threading.Timer(0.5, other.close).start()
    check_endpoints(publish)
