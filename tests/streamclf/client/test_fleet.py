"""Test that a subscription to a fleet returns each event once, in order, whatever happens to the nodes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest
from support.fleet import FleetRig, identities, numbers, quiet, receive

from streamclf.client.subscription import snapshot, subscribe
from streamclf.events.fleet_heartbeat import FleetHeartbeat
from streamclf.events.positions import START


@pytest.fixture
def fleet() -> Iterator[FleetRig]:
    with FleetRig("a", "b") as fleet:
        yield fleet


def heartbeat(events: object, condition: dict[str, str]) -> FleetHeartbeat:
    """Wait for a heartbeat that shows these conditions of nodes."""
    end_s = time.monotonic() + 60
    seen: object = None
    while time.monotonic() < end_s:
        event = events.receive(0.5)  # type: ignore[attr-defined]
        if isinstance(event, FleetHeartbeat):
            seen = {name: node.condition for name, node in event.nodes.items()}
            if seen == condition:
                return event
    raise AssertionError(f"{seen} in place of {condition}")


def test_stream_that_moves_is_returned_once_and_in_order(fleet: FleetRig) -> None:
    with subscribe(fleet.address, types=["prediction"], replay=True, after=START) as events:
        found = []
        for node in ("a", "b", "a", "b"):
            fleet.give("door", node)
            fleet.give(f"other-{node}", node)
            fleet.post("door", 20)
            fleet.post(f"other-{node}", 20)
            fleet.wait_published()
        found = receive(events, 160)
        quiet(events)
    assert numbers(found, "door") == fleet.posted("door")
    assert identities(found) == fleet.journals()
    tokens = [event.lease for event in found if event.stream == "door"]
    assert tokens == sorted(tokens)
    assert events.position is not None


def test_subscriber_that_restarts_continues_where_it_ended(fleet: FleetRig) -> None:
    fleet.give("door", "a")
    fleet.give("yard", "b")
    found = []
    position = START
    for _ in range(4):
        fleet.post("door", 15)
        fleet.post("yard", 15)
        fleet.wait_published()
        with subscribe(fleet.address, types=["prediction"], replay=True, after=position) as events:
            found += receive(events, 25)
            assert events.position is not None
            position = events.position
    with subscribe(fleet.address, types=["prediction"], replay=True, after=position) as events:
        found += receive(events, 20)
        quiet(events)
    assert identities(found) == fleet.journals()
    assert numbers(found, "door") == fleet.posted("door")
    assert numbers(found, "yard") == fleet.posted("yard")


def test_journal_of_a_dead_node_is_read_when_it_returns_at_another_address(
    fleet: FleetRig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fleet.give("door", "a")
    fleet.give("yard", "b")
    with subscribe(fleet.address, types=["prediction", "heartbeat"], replay=True, after=START) as events:
        fleet.post("door", 10)
        fleet.post("yard", 10)
        found = receive(events, 20)
        position = events.position
    fleet.post("door", 10)  # nobody reads these before the node is killed
    fleet.wait_published()
    fleet.kill("a")
    fleet.give("door", "b")
    fleet.post("door", 10)
    with subscribe(fleet.address, types=["prediction", "heartbeat"], replay=True, after=position) as events:
        found += receive(events, 10)
        assert numbers(found, "door") == [*range(10), *range(20, 30)]
        heartbeat(events, {"a": "lost", "b": "live"})
        heartbeat(events, {"a": "lost", "b": "live"})
        fleet.restart("a", other_ports=True)
        found += receive(events, 10)
        quiet(events)
    assert numbers(found[-10:]) == list(range(10, 20))
    assert identities(found) == fleet.journals()
    lost = [record.message for record in caplog.records if "is lost since" in record.message]
    assert len(lost) == 1, lost
    assert "node a" in lost[0]
    assert "UTC" in lost[0]
    assert any("node a is back" in record.message for record in caplog.records)


def test_node_that_joins_and_one_that_is_killed_lose_no_event_of_an_outlet_that_began_with_the_next_event(
    fleet: FleetRig,
) -> None:
    fleet.hidden.add("b")
    fleet.give("door", "a")
    fleet.post("door", 5)
    fleet.wait_published()
    with subscribe(fleet.address, replay=True) as events:
        heartbeat(events, {"a": "live"})
        fleet.post("door", 5)
        found = receive(events, 5)
        fleet.give("door", "b")
        fleet.post("door", 5)
        fleet.wait_published()
        fleet.hidden.clear()
        fleet.changed()
        found += receive(events, 5)
        fleet.give("door", "a")
        fleet.post("door", 5)
        found += receive(events, 5)
        fleet.kill("a")
        fleet.restart("a")
        fleet.give("door", "a")
        fleet.post("door", 5)
        found += receive(events, 5)
        quiet(events)
    assert numbers(found) == fleet.posted("door")[5:]


def test_directory_that_is_down_changes_nothing_for_a_subscriber_that_knows_the_nodes(
    fleet: FleetRig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fleet.give("door", "a")
    with subscribe(fleet.address, types=["prediction", "heartbeat"], replay=True, after=START) as events:
        fleet.post("door", 5)
        found = receive(events, 5)
        fleet.stop_directory()
        end_s = time.monotonic() + 60
        while True:
            event = events.receive(1.0)
            if isinstance(event, FleetHeartbeat) and event.directory_fault:
                break
            assert time.monotonic() < end_s
        fleet.kill("a")
        fleet.restart("a")
        fleet.post("door", 5)
        found += receive(events, 5)
        fleet.give("door", "b")
        fleet.post("door", 5)
        found += receive(events, 5)
        fleet.start_directory()
        heartbeat(events, {"a": "live", "b": "live"})
    assert numbers(found) == fleet.posted("door")
    faults = [record.message for record in caplog.records if "last known list" in record.message]
    assert len(faults) == 1, faults


def test_late_events_of_the_old_owner_are_refused_and_counted(fleet: FleetRig) -> None:
    fleet.give("door", "a")
    with subscribe(fleet.address, types=["prediction", "heartbeat"], replay=True, after=START) as events:
        fleet.post("door", 3)
        found = receive(events, 3)
        lease = fleet.streams["door"]
        fleet.give("door", "b", ago_s=60.0)  # by the directory, node b has had the stream for a minute
        granted, fleet.streams["door"] = fleet.streams["door"], lease
        fleet._write_leases("a")  # node a does not know it: its fencing has failed
        fleet.streams["door"] = granted
        while heartbeat(events, {"a": "live", "b": "live"}).nodes["b"].streams != ("door",):
            pass
        fleet.streams["door"] = lease
        fleet.post("door", 3)
        fleet.streams["door"] = granted
        fleet.post("door", 3)
        found += receive(events, 3)
        quiet(events)
        assert events.refused == 3
    assert numbers(found) == [0, 1, 2, 6, 7, 8]


def test_snapshot_has_the_newest_event_of_each_stream_of_any_node(fleet: FleetRig) -> None:
    fleet.give("door", "a")
    fleet.post("door", 3)
    fleet.wait_published()
    fleet.give("door", "b")
    fleet.give("yard", "a")
    fleet.post("door", 2)
    fleet.post("yard", 1)
    fleet.wait_published()
    found = snapshot(fleet.address)
    assert {(event.stream, event.lease) for event in found.events} == {("door", 2), ("yard", 3)}
    assert numbers(list(found.events), "door") == [4]
    with subscribe(fleet.address, replay=True, after=found.position, types=["prediction"]) as events:
        fleet.post("door", 1)
        assert numbers(receive(events, 1)) == [5]
        quiet(events)


def test_filter_of_streams_returns_each_event_once_across_moves(fleet: FleetRig) -> None:
    fleet.give("noise", "a")
    with subscribe(fleet.address, streams=["door"], types=["prediction"], replay=True, after=START) as events:
        for node in ("a", "b", "a"):
            fleet.give("door", node)
            fleet.post("door", 5)
            fleet.post("noise", 5)
        found = receive(events, 15)
        quiet(events)
    assert numbers(found) == fleet.posted("door")


def test_node_whose_replay_endpoint_cannot_be_reached_does_not_stop_the_others(
    fleet: FleetRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamclf.client.fleet_node.CHECK_S", 0.5)
    fleet.give("door", "a")
    with subscribe(fleet.address, types=["prediction", "heartbeat"], replay=True) as events:
        heartbeat(events, {"a": "live", "b": "live"})
        fleet.post("door", 3)
        assert numbers(receive(events, 3)) == [0, 1, 2]
        job = fleet.hubs["a"].job
        fleet.hubs["a"].job = job.model_copy(update={"replay": "tcp://127.0.0.1:1"})  # a firewall in between
        fleet.changed()
        time.sleep(1.5)
        heartbeat(events, {"a": "live", "b": "live"})
        fleet.give("door", "b")
        fleet.post("door", 3)
        assert numbers(receive(events, 3)) == [3, 4, 5]
        fleet.hubs["a"].job = job
