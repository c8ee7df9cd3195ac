"""A client saves a stretch of a real service's stream as an example, and gets the reason where it cannot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.live import Setup
from support.service import DEADLINE_S, Service

import streamclf
from streamclf.client.examples import save_example
from streamclf.clips.example_info import read_film_facts
from streamclf.errors import ClipError
from streamclf.events.example_request import ExampleRequest
from streamclf.events.types import Heartbeat, Prediction
from streamclf.net.curve_client import ServiceAddress


class Running:
    def __init__(self, folder: Path, service: Service) -> None:
        self.folder = folder
        self.address = ServiceAddress(endpoint=service.endpoint)
        self.replay = self._first_heartbeat().replay

    def _first_heartbeat(self) -> Heartbeat:
        with streamclf.subscribe(self.address.endpoint) as events:
            deadline = time.monotonic() + DEADLINE_S
            seen = False
            while time.monotonic() < deadline:
                event = events.receive(1.0)
                seen = seen or (isinstance(event, Prediction) and event.window.end_s > 4.0)
                if seen and isinstance(event, Heartbeat):
                    return event
        raise AssertionError("no heartbeat after a prediction")

    def save(self, stream: str, *, ago_s: float, seconds: float, label: str = "open") -> Path:
        now_s = time.time()
        request = ExampleRequest(
            stream=stream, begin=now_s - ago_s, end=now_s - ago_s + seconds, project="yard", label=label
        )
        result = save_example(self.address, self.replay, request)
        assert result.file is not None
        return self.folder / "examples" / result.file


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    setup = Setup(tmp_path_factory.mktemp("examples"))
    streams = {"door": setup.film, "paused": {**setup.film, "enabled": False}}
    path = setup.write(streams=streams, examples={"last_s": 20})
    with Service("run", str(path), cwd=setup.folder, env=setup.env) as service:
        yield Running(setup.folder, service)


def test_a_stretch_of_a_stream_becomes_a_film_that_plays(running: Running) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            film = running.save("door", ago_s=3.0, seconds=1.0)
        except ClipError as error:
            found: object = error
        else:
            assert film.parent == running.folder / "examples" / "yard" / "open"
            found = facts = read_film_facts(film)
            assert facts is not None
            if 0.8 <= facts.seconds <= 1.3:
                return
        # On a busy machine, a part of that second may have had no picture. A later second is whole.
        assert time.monotonic() < deadline, found


def test_the_reason_reaches_the_client(running: Running) -> None:
    with pytest.raises(ClipError, match="no video of that time is kept"):
        running.save("door", ago_s=500, seconds=5)
    with pytest.raises(ClipError, match="no process reads this stream"):
        running.save("paused", ago_s=2, seconds=1)
    with pytest.raises(ClipError, match="no process reads this stream"):
        running.save("absent", ago_s=2, seconds=1)
    with pytest.raises(ClipError, match="control character"):
        running.save("door", ago_s=2, seconds=1, label="a\nb")
