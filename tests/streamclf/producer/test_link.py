"""What a producer posted is held until it is confirmed, bounded, and never waits."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from support.hub_process import action, prediction, status, wait_until
from support.processes import wakes

from streamclf.errors import BusError, EventError
from streamclf.events.drafts import Draft
from streamclf.events.types import MAX_PREVIEW_BYTES
from streamclf.hub.link_server import LinkServer, ReceivedBatch
from streamclf.producer.link import EventProducer
from streamclf.producer.link_protocol import MAX_DRAFT_BYTES, U64


class FakeHub:
    """A hub whose journal is a dictionary: `commit` is ours to call, or not."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.sequences: dict[bytes, int] = {}
        self.drafts: list[Draft] = []
        self.previews: list[tuple[str, bytes]] = []
        self.context = zmq.Context()
        self.start()

    def start(self) -> None:
        self.server = LinkServer(self.context, self.endpoint, lambda instance: self.sequences.get(instance, 0))

    def turn(self, *, commit: bool = True) -> ReceivedBatch:
        self.server.socket.poll(20)
        turn = self.server.receive()
        self.previews += turn.previews
        if commit:
            self.drafts += turn.drafts
            self.sequences.update(turn.sequences)
            self.server.acknowledge()
        return turn

    def until(self, count: int) -> None:
        end = time.monotonic() + 10
        while len(self.drafts) < count:
            self.turn()
            assert time.monotonic() < end, f"{len(self.drafts)} of {count} drafts"

    def crash(self) -> None:
        """All that was not committed is gone."""
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


def test_drafts_arrive_once_in_order_and_are_let_go(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "test") as link:
        for number in range(3000):
            link.post(prediction(number=number))
        hub.until(3000)
        assert numbers(hub.drafts) == list(range(3000))
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
        assert link.close(1.0) == 0


def test_a_hub_that_dies_before_the_commit_gets_everything_again_once(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "test") as link:
        for number in range(500):
            link.post(prediction(number=number))
        hub.until(100)
        hub.turn(commit=False)
        hub.crash()
        for number in range(500, 700):
            link.post(prediction(number=number))
        hub.until(700)
        assert numbers(hub.drafts) == list(range(700))


def test_a_lost_acknowledgement_leads_to_no_repetition(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "test") as link:
        for number in range(50):
            link.post(prediction(number=number))
        while len(hub.drafts) < 50:
            turn = hub.turn(commit=False)
            hub.drafts += turn.drafts
            hub.sequences.update(turn.sequences)  # committed, and then it dies
        hub.crash()
        end = time.monotonic() + 10
        while link.unacknowledged and time.monotonic() < end:
            hub.turn()
        assert link.unacknowledged == 0
        assert numbers(hub.drafts) == list(range(50))


def test_a_new_journal_that_knows_less_is_sent_what_is_still_held(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "test") as link:
        link.post(prediction(number=0))
        hub.until(1)
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
        hub.sequences.clear()
        hub.crash()
        link.post(prediction(number=1))
        hub.until(2)
        assert numbers(hub.drafts) == [0, 1]


def test_nothing_may_be_stepped_over(hub: FakeHub) -> None:
    """A message that an old connection carried arrives at a new hub before what came before it."""
    sender = hub.context.socket(zmq.DEALER)
    sender.connect(hub.endpoint)
    later = b'[[6,"status","door",null,{"state":"live"}]]'
    sender.send_multipart([b"drafts", b"i" * 16, b"test", U64.pack(5), later])
    wait_until(lambda: bool(hub.turn() or True) and bool(sender.poll(1)), "an answer")
    assert sender.recv_multipart() == [b"again", U64.pack(0)]
    assert hub.drafts == []
    sender.close(0)


def test_without_a_hub_the_oldest_predictions_go_and_are_counted(endpoint: str) -> None:
    link = EventProducer(endpoint, "test", max_drafts=100)
    link.post(status())
    for number in range(150):
        link.post(prediction(number=number))
    link.post(action("start"))
    assert link.unacknowledged == 100
    assert link.dropped == {"door": 52}
    hub = FakeHub(endpoint)
    hub.until(100)
    assert [draft.type for draft in hub.drafts] == ["status", *["prediction"] * 98, "action"]
    assert numbers(hub.drafts[1:-1]) == list(range(52, 150))
    wait_until(lambda: bool(hub.turn() or True) and hub.server.dropped() == {"door": 52}, "the count at the hub")
    assert link.close(5.0) == 0
    hub.close()


def test_bytes_are_bounded_too(endpoint: str) -> None:
    with EventProducer(endpoint, "test", max_bytes=100_000) as link:
        for number in range(100):
            link.post(prediction(number=number, model="m" * 5000))
        assert link.unacknowledged < 20
        assert link.dropped["door"] > 80
        link.close(0.0)


def test_only_statuses_without_a_hub_are_bounded_as_well(endpoint: str) -> None:
    link = EventProducer(endpoint, "test", max_drafts=10)
    for _ in range(30):
        link.post(status())
    assert (link.unacknowledged, link.dropped) == (10, {"door": 20})
    assert link.close(0.05) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="sleeps are counted in /proc")
def test_with_nothing_to_say_it_sleeps_between_hellos(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "idle") as link:
        link.post(prediction())
        hub.until(1)
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
        (thread,) = (each for each in threading.enumerate() if each.name == "link-idle")
        before, began_s = wakes(os.getpid(), thread.native_id), time.monotonic()
        threading.Event().wait(2.0)
        # One hello a second; it looked four times a second once.
        assert 1 <= wakes(os.getpid(), thread.native_id) - before <= 3 * (time.monotonic() - began_s)


def test_after_close_posting_is_harmless(hub: FakeHub) -> None:
    link = EventProducer(hub.endpoint, "test")
    assert link.close(1.0) == 0
    link.post(prediction())
    link.post_preview("door", b"jpeg")
    assert link.unacknowledged == 1


@pytest.mark.parametrize(
    ("kind", "stream", "body", "named"),
    [
        ("rumour", "door", {}, "rumour"),
        ("status", "../door", {}, "letters, digits"),
        ("status", "", {}, "letters, digits"),
        ("status", "door", {"offset": 3}, "offset"),
        ("status", "door", {"epoch": "x", "v": 2}, "epoch, v"),
    ],
)
def test_a_draft_that_could_forge_an_envelope_is_refused(
    kind: str, stream: str, body: dict[str, int], named: str
) -> None:
    with pytest.raises(EventError, match=named):
        Draft(kind, stream, body)  # type: ignore[arg-type]


def test_a_draft_that_is_too_large_or_not_json_is_refused_in_the_callers_face(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "test") as link:
        with pytest.raises(EventError, match=str(MAX_DRAFT_BYTES)):
            link.post(status(**{"x" * MAX_DRAFT_BYTES: 1}))
        with pytest.raises(EventError, match="not JSON"):
            link.post(Draft("status", "door", {"state": object()}))
        link.post(status())
        hub.until(1)


def test_an_endpoint_that_is_none_is_told_at_once() -> None:
    with pytest.raises(BusError, match="give the hub's"):
        EventProducer("nonsense", "test")


def test_previews_flow_only_while_wanted_and_the_newest_wins(hub: FakeHub) -> None:
    with EventProducer(hub.endpoint, "test") as link:
        assert not link.preview_wanted("door")
        hub.server.want_previews(frozenset({"door"}))
        wait_until(lambda: bool(hub.turn() or True) and link.preview_wanted("door"), "wanted")
        assert not link.preview_wanted("yard")
        link.post_preview("door", b"x" * (MAX_PREVIEW_BYTES + 1))
        assert link.previews_dropped == 1
        link.post_preview("door", b"jpeg")
        wait_until(lambda: bool(hub.turn() or True) and hub.previews == [("door", b"jpeg")], "the preview")
        hub.server.want_previews(frozenset({"*"}))
        wait_until(lambda: bool(hub.turn() or True) and link.preview_wanted("yard"), "all wanted")
        hub.server.want_previews(frozenset())
        wait_until(lambda: bool(hub.turn() or True) and not link.preview_wanted("door"), "nothing wanted")


def test_previews_to_a_hub_that_is_away_are_dropped_and_counted(endpoint: str) -> None:
    with EventProducer(endpoint, "test") as link:
        for _ in range(5):
            link.post_preview("door", b"jpeg")
        wait_until(lambda: link.previews_dropped == 5, "all five dropped")


frames = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"hello", b"drafts", b"preview", b"i" * 16, b"test", b"door", b"{}", b"[]", U64.pack(0)]),
    ),
    max_size=7,
)
hostile_drafts = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.sampled_from(["status", "door"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(frames, max_size=10), st.lists(hostile_drafts, max_size=4))
def test_nothing_that_is_sent_breaks_the_hub(messages: list[list[bytes]], items: list[object]) -> None:
    server = LinkServer.__new__(LinkServer)
    server._sequence_of, server._run, server._wanted, server.refused = (lambda _: 0), b"r" * 16, b"[]", 11
    server._connections, server._producers, server._active = {}, {}, set()
    answers: list[tuple[bytes, ...]] = []
    server._send = lambda route, *frames: answers.append(frames)  # type: ignore[method-assign]
    turn = ReceivedBatch()
    try:
        hostile = orjson.dumps(items)
    except orjson.JSONEncodeError:
        hostile = b"[1"
    for message in [*messages, [b"drafts", b"i" * 16, b"test", U64.pack(0), hostile]]:
        server._handle([b"route", *message], turn)
    assert all(isinstance(draft, Draft) for draft in turn.drafts)


def test_the_link_lives_in_a_file_that_only_its_owner_reaches(hub: FakeHub) -> None:
    path = Path(hub.endpoint.removeprefix("ipc://"))
    assert path.stat().st_mode & 0o077 == 0
