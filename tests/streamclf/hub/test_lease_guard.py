"""Test that a hub in a fleet publishes nothing without a valid lease, and is unchanged outside a fleet."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hub_process import HubProcess, action, prediction, read_journal, wait_until

from streamclf.client.subscription import Subscription, subscribe
from streamclf.events.types import Heartbeat, Prediction
from streamclf.hub import lease_guard
from streamclf.hub.lease_guard import LeaseGuard
from streamclf.producer.link import EventProducer
from streamclf.runtime import lease_file
from streamclf.runtime.lease_file import MAX_LEASE_FILE_BYTES, Lease, lease_clock_ns, write_leases
from streamclf.units import NS


def lease(token: int = 1, left_s: float = 60.0, age_s: float = 60.0) -> Lease:
    now_ns = lease_clock_ns()
    return Lease(token, now_ns + int(left_s * NS), max(0, now_ns - int(age_s * NS)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases.json"


@pytest.fixture
def hub(path: Path) -> Iterator[HubProcess]:
    with HubProcess(leases=path) as hub:
        yield hub


@pytest.fixture
def events(hub: HubProcess) -> Iterator[Subscription]:
    with subscribe(hub.events) as events:
        heartbeat(events)
        yield events


@pytest.fixture
def producer(hub: HubProcess) -> Iterator[EventProducer]:
    producer = EventProducer(hub.link, "classifier")
    yield producer
    producer.close(0.1)


def heartbeat(events: Subscription, refused: int = 0) -> Heartbeat:
    """Return the next heartbeat by which `refused` events of the door were refused."""
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        event = events.receive(1.0)
        if isinstance(event, Heartbeat) and event.refused.get("door", 0) >= refused:
            return event
    raise AssertionError(f"no heartbeat with {refused} refused events")


def received(events: Subscription, count: int) -> list[Prediction]:
    found = []
    end_s = time.monotonic() + 60
    while len(found) < count and time.monotonic() < end_s:
        event = events.receive(0.2)
        if isinstance(event, Prediction):
            found.append(event)
    return found


def test_event_without_lease_is_refused_and_counted_until_the_lease_is_there(
    hub: HubProcess, events: Subscription, producer: EventProducer, path: Path
) -> None:
    producer.post(prediction(number=0))
    assert heartbeat(events, refused=1).leases == {}
    write_leases(path, {"door": lease(7), "yard": lease(8)})
    producer.post(prediction(number=1))
    assert [(event.window.start_s, event.lease) for event in received(events, 1)] == [(1.0, 7)]
    assert heartbeat(events).leases == {"door": 7, "yard": 8}
    write_leases(path, {"yard": lease(8)})
    producer.post(prediction(number=2))
    assert heartbeat(events, refused=2).leases == {"yard": 8}
    assert [event["window"]["start_s"] for event in read_journal(hub.journal)] == [1.0]


def test_hub_that_was_stopped_past_its_lease_publishes_nothing_when_it_returns(
    hub: HubProcess, events: Subscription, producer: EventProducer, path: Path
) -> None:
    write_leases(path, {"door": lease(7, left_s=1.0)})
    producer.post(prediction(number=0))
    assert len(received(events, 1)) == 1
    hub.signal(signal.SIGSTOP)
    for number in range(1, 6):
        producer.post(prediction(number=number))
    ends_s = time.monotonic() + 1.0
    wait_until(lambda: time.monotonic() > ends_s, "the end of the lease")
    hub.signal(signal.SIGCONT)
    assert heartbeat(events, refused=5).leases == {}
    # A new lease does not cover the frames from before it: another node had the stream then.
    late = prediction(number=6)
    write_leases(path, {"door": lease(9, age_s=0.0)})
    producer.post(late)
    producer.post(prediction(number=7))
    assert [(event.window.start_s, event.lease) for event in received(events, 1)] == [(7.0, 9)]
    assert [event["window"]["start_s"] for event in read_journal(hub.journal)] == [0.0, 7.0]


def test_events_of_hub_outside_a_fleet_have_no_new_keys() -> None:
    with HubProcess() as hub, subscribe(hub.events) as events:
        heartbeat(events)
        producer = EventProducer(hub.link, "classifier")
        producer.post(prediction())
        (event,) = received(events, 1)
        producer.close(0.1)
        assert "lease" not in json.loads(event.raw)
        assert heartbeat(events).leases is None


def test_action_that_started_without_lease_starts_with_the_first_event_that_is_published(
    hub: HubProcess, events: Subscription, producer: EventProducer, path: Path
) -> None:
    producer.post(action("start"))
    heartbeat(events, refused=1)
    write_leases(path, {"door": lease()})
    for phase in ("update", "update", "end"):
        producer.post(action(phase))
    wait_until(lambda: len(read_journal(hub.journal)) == 3, "three events")
    assert [event["phase"] for event in read_journal(hub.journal)] == ["start", "update", "end"]


def test_token_that_is_older_than_one_seen_is_never_used(path: Path) -> None:
    guard = LeaseGuard(path)
    for token, valid in ((7, 7), (6, None), (8, 8)):
        write_leases(path, {"door": lease(token)})
        guard.refresh()
        assert guard.token_of("door") == valid


def test_suspended_machine_holds_no_lease_when_it_wakes_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = LeaseGuard(path)
    write_leases(path, {"door": lease(left_s=5.0)})
    guard.refresh()
    assert guard.held() == {"door": 1}
    monkeypatch.setattr(lease_guard, "lease_clock_ns", lambda: lease_clock_ns() + 6 * NS)
    assert guard.held() == {}
    assert guard.admit("door", None) is None


def test_renewal_covers_frames_from_before_it_and_new_lease_after_a_gap_does_not(path: Path) -> None:
    guard = LeaseGuard(path)
    write_leases(path, {"door": lease(1, left_s=0.5, age_s=10)})
    guard.refresh()
    frame_ns = time.monotonic_ns() - 5 * NS
    write_leases(path, {"door": lease(2, age_s=0.0)})  # the same node again, before its lease had ended
    guard.refresh()
    assert guard.admit("door", frame_ns) == 2
    write_leases(path, {})
    guard.refresh()
    write_leases(path, {"door": lease(3, age_s=0.0)})
    guard.refresh()
    assert guard.admit("door", frame_ns) is None
    assert guard.admit("door", None) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"{", "Invalid JSON"),
        (b"x" * (MAX_LEASE_FILE_BYTES + 1), "more than"),
        (b'{"v":1,"boot":"another","leases":{}}', "before the machine was started"),
        (b'{"v":2,"boot":"","leases":{}}', "v: "),
        (b'{"v":1,"boot":"","leases":{"door":[0,1,1]}}', "leases.door"),
        (b'{"v":1,"boot":"","leases":{"../x":[1,1,1]}}', "leases"),
    ],
)
def test_file_that_cannot_be_used_grants_nothing_and_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None, reason: str
) -> None:
    write_leases(path, {"door": lease()})
    guard = LeaseGuard(path)
    guard.refresh()
    assert guard.token_of("door") == 1
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    for _ in range(3):
        guard.refresh()
    assert guard.token_of("door") is None
    (record,) = caplog.records
    assert reason in record.message


def test_pipe_in_place_of_the_file_does_not_block_the_hub(path: Path) -> None:
    os.mkfifo(path)
    guard = LeaseGuard(path)
    guard.refresh()
    assert guard.held() == {}


def test_lease_that_ends_hours_ahead_is_refused(path: Path) -> None:
    write_leases(path, {"door": lease(left_s=7200)})
    guard = LeaseGuard(path)
    guard.refresh()
    assert guard.token_of("door") is None


def test_each_change_is_logged_in_one_line(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    guard = LeaseGuard(path)
    write_leases(path, {f"cam{number}": lease() for number in range(50)})
    for _ in range(3):
        guard.refresh()
        guard.admit("gate", None)
        guard.report()
    write_leases(path, {})
    for _ in range(3):
        guard.refresh()
        guard.report()
    lines = [record.message for record in caplog.records]
    assert len(lines) == 3, lines
    assert "may publish cam0" in lines[0]
    assert "no lease for gate; events refused: 1" in lines[1]
    assert "no longer a valid lease for cam0" in lines[2]


def test_file_of_another_machine_run_is_recognised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_leases(path, {"door": lease()})
    monkeypatch.setattr(lease_file, "boot_id", lambda: "other")
    guard = LeaseGuard(path)
    guard.refresh()
    assert guard.token_of("door") is None


def test_a_link_in_place_of_the_new_file_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("kept")
    (tmp_path / "leases.json.new").symlink_to(tmp_path / "other")
    write_leases(tmp_path / "leases.json", {})
    assert (tmp_path / "other").read_text() == "kept"
    assert (tmp_path / "leases.json").stat().st_mode & 0o777 == 0o600
