"""A stream that the service does not have is refused, with the names of those that it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hub_process import HubProcess, status, wait_until

from streamclf.errors import UsageError
from streamclf.producer.link import EventProducer
from streamclf.runtime.jobs import StreamDescription
from streamclf.subscribers.status import run_status
from streamclf.subscribers.watch import run_watch

MESSAGE = "no stream dor; the service has door, yard; did you mean door?"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    streams = {name: StreamDescription() for name in ("door", "yard")}
    with HubProcess(streams=streams) as hub, EventProducer(hub.link, "test") as link:
        for name in streams:
            link.post(status(name, "live", chunks=15))
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
        yield hub


def test_status_shows_the_chosen_streams_only(hub: HubProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_status(hub.events, streams=["yard"], as_json=True, timeout_s=60) == 0
    assert list(json.loads(capsys.readouterr().out)["streams"]) == ["yard"]


def test_status_and_watch_refuse_a_stream_that_is_not_there(hub: HubProcess, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{MESSAGE[:-1]}.$"):
        run_status(hub.events, streams=["yard", "dor"], timeout_s=60)
    with pytest.raises(UsageError, match=f"^{MESSAGE[:-1]}.$"):
        run_watch(hub.events, streams=["dor"], record=tmp_path / "x.mp4", seconds=20)
    assert not list(tmp_path.iterdir())
