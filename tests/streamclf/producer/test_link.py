"""Test the producer: it holds drafts until they are confirmed, within bounds, and never blocks."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from support.hub_process import action, prediction, status, wait_until
from support.processes import wakes

from streamclf.errors import BusError, EventError
from streamclf.events.drafts import Draft
from streamclf.events.kinds import MAX_PREVIEW_BYTES
from streamclf.hub.link_server import LinkServer, ReceivedBatch
from streamclf.producer.link import EventProducer
from streamclf.producer.link_protocol import MAX_DRAFT_BYTES, U64


class FakeHub:
    """A hub whose journal is a list and a dictionary; the test decides what it commits."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.sequences: dict[bytes, int] = {}
        self.drafts: list[Draft] = []
        self.previews: list[tuple[str, bytes]] = []
        self.context = zmq.Context()
        self.start()

    def start(self) -> None:
        self.server = LinkServer(self.context, self.endpoint, lambda instance: self.sequences.get(instance, 0))

    def run_once(self, *, commit: bool = True) -> ReceivedBatch:
        self.server.socket.poll(20)
        batch = self.server.receive()
        self.previews += batch.previews
        if commit:
            self.drafts += batch.drafts
            self.sequences.update(batch.sequences)
            self.server.acknowledge()
        return batch

    def run_until(self, count: int) -> None:
        end = time.monotonic() + 60
        while len(self.drafts) < count:
            self.run_once()
            assert time.monotonic() < end, f"{len(self.drafts)} of {count} drafts"

    def run_until_true(self, condition: Callable[[], bool], what: str) -> None:
        """Serve until `condition` holds; fail and name `what` after the deadline."""

        def holds() -> bool:
            self.run_once()
            return condition()

        wait_until(holds, what)

    def crash(self) -> None:
        """Lose everything that was not committed, and start again."""
        self.close()
        self.context = zmq.Context()
        self.start()

    def close(self) -> None:
        self.server.close()
        self.context.destroy(linger=0)


@pytest.fixture
def endpoint() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="link-") as directory:
        yield f"ipc://{directory}/link"


@pytest.fixture
def hub(endpoint: str) -> Iterator[FakeHub]:
    hub = FakeHub(endpoint)
    yield hub
    hub.close()


def numbers(drafts: list[Draft]) -> list[int]:
    return [int(draft.body["window"]["start_s"]) for draft in drafts]


def test_drafts_arrive_once_in_order_and_are_released(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "test") as link:
        for number in range(3000):
            link.post(prediction(number=number))
        hub.run_until(3000)
        assert numbers(hub.drafts) == list(range(3000))
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
        assert link.close(1.0) == 0


def test_hub_that_crashes_before_the_commit_gets_each_draft_again_once(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "test") as link:
        for number in range(500):
            link.post(prediction(number=number))
        hub.run_until(100)
        hub.run_once(commit=False)
        hub.crash()
        for number in range(500, 700):
            link.post(prediction(number=number))
        hub.run_until(700)
        assert numbers(hub.drafts) == list(range(700))


def test_lost_acknowledgement_causes_no_repetition(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "test") as link:
        for number in range(50):
            link.post(prediction(number=number))
        while len(hub.drafts) < 50:
            batch = hub.run_once(commit=False)
            hub.drafts += batch.drafts
            hub.sequences.update(batch.sequences)  # committed, and then the hub crashes
        hub.crash()
        end = time.monotonic() + 60
        while link.unacknowledged and time.monotonic() < end:
            hub.run_once()
        assert link.unacknowledged == 0
        assert numbers(hub.drafts) == list(range(50))


def test_hub_with_a_new_journal_gets_the_pending_drafts(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "test") as link:
        link.post(prediction(number=0))
        hub.run_until(1)
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
        hub.sequences.clear()
        hub.crash()
        link.post(prediction(number=1))
        hub.run_until(2)
        assert numbers(hub.drafts) == [0, 1]


def test_hub_skips_no_draft(hub: FakeHub) -> None:
    """A message from an old connection arrives at a new hub before the drafts that precede it."""
    sender = hub.context.socket(zmq.DEALER)
    sender.connect(hub.endpoint)
    later = b'[[6,"status","door",null,{"state":"live"}]]'
    sender.send_multipart([b"drafts", b"i" * 16, b"test", U64.pack(5), later])
    hub.run_until_true(lambda: bool(sender.poll(1)), "an answer")
    assert sender.recv_multipart() == [b"again", U64.pack(0)]
    assert hub.drafts == []
    sender.close(0)


def test_oldest_predictions_are_dropped_and_counted_without_a_hub(endpoint: str) -> None:
    link = EventProducer(endpoint, "test", max_drafts=100)
    link.post(status())
    for number in range(150):
        link.post(prediction(number=number))
    link.post(action("start"))
    assert link.unacknowledged == 100
    assert link.dropped == {"door": 52}
    hub = FakeHub(endpoint)
    hub.run_until(100)
    assert [draft.type for draft in hub.drafts] == ["status", *["prediction"] * 98, "action"]
    assert numbers(hub.drafts[1:-1]) == list(range(52, 150))
    hub.run_until_true(lambda: hub.server.dropped() == {"door": 52}, "the count at the hub")
    assert link.close(5.0) == 0
    hub.close()


def test_drafts_that_are_posted_together_travel_in_one_message(hub: FakeHub) -> None:
    def drafts() -> Iterator[Draft]:
        for number in range(4):
            yield prediction(number=number)
            threading.Event().wait(0.05)  # in which the thread could send the first of them

    with EventProducer(hub.endpoint, "test") as link:
        link.post(status())
        hub.run_until(1)
        link.post_all(drafts())
        while not (batch := hub.run_once()).drafts:
            pass
        assert numbers(batch.drafts) == [0, 1, 2, 3]


def test_a_post_beyond_the_limits_drops_and_counts_as_single_posts_do(endpoint: str) -> None:
    link = EventProducer(endpoint, "test", max_drafts=4)
    link.post_all([status(), *(prediction(number=number) for number in range(9))])
    assert (link.unacknowledged, link.dropped) == (4, {"door": 6})
    with pytest.raises(EventError, match="not JSON"):
        link.post_all([prediction(number=9), Draft("status", "door", {"state": object()}), status()])
    assert (link.unacknowledged, link.dropped) == (4, {"door": 7})
    hub = FakeHub(endpoint)
    hub.run_until(4)
    assert [draft.type for draft in hub.drafts] == ["status", *["prediction"] * 3]
    assert numbers(hub.drafts[1:]) == [7, 8, 9]
    assert link.close(5.0) == 0
    hub.close()


def test_pending_bytes_are_bounded(endpoint: str) -> None:
    with EventProducer(endpoint, "test", max_bytes=100_000) as link:
        for number in range(100):
            link.post(prediction(number=number, model="m" * 5000))
        assert link.unacknowledged < 20
        assert link.dropped["door"] > 80
        link.close(0.0)


def test_pending_statuses_are_bounded_without_a_hub(endpoint: str) -> None:
    link = EventProducer(endpoint, "test", max_drafts=10)
    for _ in range(30):
        link.post(status())
    assert (link.unacknowledged, link.dropped) == (10, {"door": 20})
    assert link.close(0.05) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="sleeps are counted in /proc")
def test_idle_producer_sleeps_between_hellos(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "idle") as link:
        link.post(prediction())
        hub.run_until(1)
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
        (thread,) = (each for each in threading.enumerate() if each.name == "link-idle")
        before, began_s = wakes(os.getpid(), thread.native_id), time.monotonic()
        threading.Event().wait(2.0)
        # One hello a second. An earlier version polled four times a second.
        woken = wakes(os.getpid(), thread.native_id) - before
        assert woken <= 3 * (time.monotonic() - began_s)
        wait_until(lambda: wakes(os.getpid(), thread.native_id) > before, "a hello: its sleeps are counted")


def test_posting_after_close_is_harmless(hub: FakeHub) -> None:
    link = EventProducer(hub.endpoint, "test")
    assert link.close(1.0) == 0
    link.post(prediction())
    link.post_preview("door", b"jpeg")
    assert link.unacknowledged == 1


def test_post_refuses_a_draft_that_is_too_large_or_not_json(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "test") as link:
        with pytest.raises(EventError, match=str(MAX_DRAFT_BYTES)):
            link.post(status(**{"x" * MAX_DRAFT_BYTES: 1}))
        with pytest.raises(EventError, match="not JSON"):
            link.post(Draft("status", "door", {"state": object()}))
        link.post(status())
        hub.run_until(1)


def test_malformed_endpoint_is_refused_at_once() -> None:
    with pytest.raises(BusError, match="give the hub's"):
        EventProducer("nonsense", "test")


def test_previews_are_sent_only_while_wanted(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "test") as link:
        assert not link.preview_wanted("door")
        hub.server.want_previews(frozenset({"door"}))
        hub.run_until_true(lambda: link.preview_wanted("door"), "wanted")
        assert not link.preview_wanted("yard")
        link.post_preview("door", b"x" * (MAX_PREVIEW_BYTES + 1))
        assert link.previews_dropped == 1
        link.post_preview("door", b"jpeg")
        hub.run_until_true(lambda: hub.previews == [("door", b"jpeg")], "the preview")
        hub.server.want_previews(frozenset({"*"}))
        hub.run_until_true(lambda: link.preview_wanted("yard"), "all wanted")
        hub.server.want_previews(frozenset())
        hub.run_until_true(lambda: not link.preview_wanted("door"), "nothing wanted")


def test_previews_without_a_hub_are_dropped_and_counted(endpoint: str) -> None:
    with EventProducer(endpoint, "test") as link:
        for _ in range(5):
            link.post_preview("door", b"jpeg")
        wait_until(lambda: link.previews_dropped == 5, "all five dropped")


def test_only_its_owner_can_open_the_link(hub: FakeHub) -> None:
    path = Path(hub.endpoint.removeprefix("ipc://"))
    assert path.stat().st_mode & 0o077 == 0
