"""The picture at the start of an action: a preview of the newest frame, requested only then, and never an old one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from typing import Any

import pytest
from support.fleet import FleetRig
from support.hub_process import HubProcess, status, wait_until
from support.preview_camera import PreviewCamera, grey_jpeg

from streamclf.events.types import Action
from streamclf.net.curve_client import ServiceAddress
from streamclf.producer.link import EventProducer
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers import first_pictures
from streamclf.subscribers.first_pictures import MAX_AGE_S, FirstPictures

EPOCH = "9f" * 16
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)


def start_of(stream: str, offset: int, phase: Any = "start") -> Action:
    return Action(
        stream=stream, epoch=EPOCH, offset=offset, previous=0, time=NOW, label="wave", phase=phase,
        started_s=1.0, at_s=2.0, probability=0.9, peak=0.95,
    )  # fmt: skip


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def test_a_preview_is_requested_at_the_start_only(hub: HubProcess) -> None:
    with (
        EventProducer(hub.link, "capture-door") as link,
        PreviewCamera(link, "door", "yard") as camera,
        closing(FirstPictures(ServiceAddress(endpoint=hub.events))) as pictures,
    ):
        for stream in ("door", "yard"):
            link.post(status(stream, "live"))
        stop = StopRequest()
        assert pictures.fetch([(start_of("door", 6, "end"), 0.0), (start_of("door", 7), MAX_AGE_S + 1)], stop) == {}
        assert camera.posted == 0
        starts = [(start_of("door", 8), 0.1), (start_of("yard", 9), 0.1), (start_of("door", 10), 0.1)]
        assert pictures.fetch(starts, stop) == {(EPOCH, offset): camera.jpeg for offset in (8, 9, 10)}
        wait_until(lambda: not link.preview_wanted("door"), "the cancellation")
        # The previews that were sent before the cancellation came are not taken for new ones.
        old, camera.jpeg = camera.jpeg, grey_jpeg(200)
        found = pictures.fetch([(start_of("door", 11), 0.1)], stop)
        assert found[EPOCH, 11] != old
        assert pictures.missed == 0


def test_a_fleet_is_asked_at_the_node_that_runs_the_stream() -> None:
    with FleetRig("a", "b") as fleet:
        fleet.give("door", "b")
        with (
            EventProducer(fleet.hubs["b"].link, "capture-door") as link,
            PreviewCamera(link, "door") as camera,
            closing(FirstPictures(ServiceAddress(endpoint=fleet.address))) as pictures,
        ):
            link.post(status("door", "live"))
            pictures.receive(1.0)  # reads the directory
            found: dict[tuple[str, int], bytes] = {}
            for _ in range(10):
                found = found or pictures.fetch([(start_of("door", 8), 0.1)], StopRequest())
            assert found == {(EPOCH, 8): camera.jpeg}


def test_a_stalled_stream_is_not_waited_for(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_pictures, "WAIT_S", 0.2)
    with closing(FirstPictures(ServiceAddress(endpoint=hub.events))) as pictures:
        assert pictures.fetch([(start_of("door", 7), 0.0)], StopRequest()) == {}
        assert pictures.missed == 1
        monkeypatch.setattr(first_pictures, "WAIT_S", 600.0)
        stop = StopRequest()
        stop.request()
        assert pictures.fetch([(start_of("door", 8), 0.0)], stop) == {}  # it returns although nothing has come


def test_few_streams_are_requested_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_pictures, "MAX_STREAMS", 2)
    with closing(FirstPictures(ServiceAddress(endpoint="tcp://127.0.0.1:1"))) as pictures:
        assert [pictures.request(start_of(name, 1), 0.0) for name in ("a", "b", "c", "a")] == [True, True, False, True]
        assert pictures.missed == 1


def test_the_picture_comes_from_the_camera(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_pictures, "WAIT_S", 60)  # usually, it comes within a second
    with (
        EventProducer(hub.link, "capture-door") as link,
        PreviewCamera(link, "door"),
        closing(FirstPictures(ServiceAddress(endpoint=hub.events))) as pictures,
    ):
        link.post(status("door", "live"))
        assert pictures.request(start_of("door", 7), 0.0)
        deadline_s = time.monotonic() + first_pictures.WAIT_S + 1
        found: list[tuple[Action, bytes]] = []
        while not found and time.monotonic() < deadline_s:
            found = pictures.receive(0.1)
        assert [action.offset for action, _ in found] == [7]
