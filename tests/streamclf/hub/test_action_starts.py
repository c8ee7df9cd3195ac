"""Check the offsets of starts that the hub sends with the events of actions, and that the right process gets them."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import orjson
import pytest
from support.hub_process import HubProcess, action, wait_until

from streamclf.hub.draft_rules import ActionStarts
from streamclf.producer.link import EventProducer


def event(phase: str, started_s: float = 1.0, label: str = "wave", **view: str) -> bytes:
    return orjson.dumps({"label": label, "phase": phase, "started_s": started_s, **view})


def test_each_event_of_an_action_has_the_offset_of_its_start() -> None:
    starts = ActionStarts()
    assert starts.start_of(5, "door", event("update")) == 0, "it started before this process"
    assert starts.start_of(6, "door", event("start", 2.0)) == 6
    assert starts.start_of(7, "door", event("update", 2.0)) == 6
    assert starts.start_of(8, "gate", event("update", 2.0)) == 0
    assert starts.start_of(9, "door", event("end", 2.0)) == 6
    assert starts.start_of(10, "door", event("end", 2.0)) == 0
    assert starts.start_of(None, "door", event("start", 3.0)) == 0, "it was not journalled"
    assert starts.start_of(12, "door", event("end", 3.0)) == 0


def test_equal_labels_of_two_views_have_starts_of_their_own() -> None:
    starts = ActionStarts()
    assert starts.start_of(5, "door", event("start", region="gate")) == 5
    assert starts.start_of(6, "door", event("start", region="gate", model_name="hands")) == 6
    assert starts.start_of(7, "door", event("end", region="gate")) == 5
    assert starts.start_of(8, "door", event("end", region="gate", model_name="hands")) == 6


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


def test_the_process_that_captures_a_stream_gets_the_committed_events_of_its_actions(hub: HubProcess) -> None:
    door: queue.Queue[tuple[int, bytes]] = queue.Queue()
    gate: queue.Queue[tuple[int, bytes]] = queue.Queue()
    with (
        EventProducer(hub.link, "capture-door", on_action=lambda *each: door.put(each)) as first,
        EventProducer(hub.link, "capture-gate", on_action=lambda *each: gate.put(each)) as second,
        EventProducer(hub.link, "classifier") as classifier,
    ):
        for link in (first, second):  # the hub knows a process from its first message on
            wait_until(lambda link=link: link._wanted_until > 0, "the answer to the hello")  # type: ignore[misc]
        for draft in (action("start"), action("end", at_s=2.0), action("start", stream="gate")):
            classifier.post(draft)
        received = [door.get(timeout=10), door.get(timeout=10)]
        assert orjson.loads(gate.get(timeout=10)[1])["stream"] == "gate"
        assert door.empty()
    bodies = [orjson.loads(body) for _, body in received]
    assert [(start, body["offset"], body["phase"]) for (start, _), body in zip(received, bodies, strict=True)] == [
        (1, 1, "start"),
        (1, 2, "end"),
    ]
