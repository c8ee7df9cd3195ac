"""The delivery loop delivers batches in order and never stores a position behind an event that was not delivered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from streamclf.client.stream_views import SERVICE_SILENT_S
from streamclf.errors import BusError
from streamclf.events.positions import START, Position
from streamclf.events.types import Action, Heartbeat, Lost, Received
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers import delivery
from streamclf.subscribers.checkpoint import PositionFile
from streamclf.subscribers.delivery import DeliveryLoop, Item
from streamclf.subscribers.outlet_run import EventFilter

EPOCH = "9f" * 16
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)


def action(offset: int) -> Action:
    return Action(
        stream="door", epoch=EPOCH, offset=offset, previous=0, time=NOW, label="wave", phase="start",
        started_s=1.0, at_s=2.0, probability=0.9, peak=0.95,
    )  # fmt: skip


def heartbeat(head: int) -> Heartbeat:
    return Heartbeat(epoch=EPOCH, time=NOW, head=head, oldest=1, last={}, replay="tcp://127.0.0.1:1")


class Clock:
    """A clock that the fake subscription moves, in the place of module `time`."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(delivery, "time", clock)
    return clock


class FakeSubscription:
    """Return `items` one by one, None for a pause of the whole time-out, and request the stop at the end."""

    endpoint = "tcp://test"
    streams = ("dor",)

    def __init__(self, items: Sequence[Received | None], stop: StopRequest, clock: Clock) -> None:
        self._items, self._stop, self._clock = list(items), stop, clock
        self.position: Position | None = None

    def receive(self, timeout_s: float) -> Received | None:
        if not self._items:
            self._stop.request()
        item = self._items.pop(0) if self._items else None
        if item is None:
            self._clock.now_s += timeout_s + 1e-6
        elif isinstance(item, Heartbeat):
            self.position = self.position or Position(EPOCH, item.head)
        else:
            offset = item.last if isinstance(item, Lost) else item.offset
            self.position = Position(EPOCH, offset or 0)
        return item


class RecordingOutlet:
    """Record batches; confirm the first `confirmed` of them and no more."""

    name = "test"
    outcome = "delivered"

    def __init__(self, confirmed: int = 1000) -> None:
        self.batches: list[list[int]] = []
        self.positions: list[Position | None] = []
        self.updates: list[tuple[int | None, bool]] = []
        self._confirmed = confirmed

    def deliver(self, batch: Sequence[Item], position: Position | None) -> bool:
        self.batches.append([item.first if isinstance(item, Lost) else item.offset or 0 for item in batch])
        self.positions.append(position)
        return len(self.batches) <= self._confirmed

    def update(self, heartbeat: Heartbeat | None, is_silent: bool) -> None:
        self.updates.append((heartbeat and heartbeat.head, is_silent))

    def memory(self) -> dict[str, Any]:
        return {"batches": len(self.batches)}


def run_loop(
    folder: Path, clock: Clock, outlet: RecordingOutlet, items: Sequence[Received | None]
) -> tuple[Position | None, Any]:
    """Deliver `items` in batches of two, and return what the position file then holds."""
    stop = StopRequest()
    with PositionFile(folder / "p", "test") as file:
        events: Any = FakeSubscription(items, stop, clock)
        DeliveryLoop(events, outlet, file, max_batch=2, linger_s=1.0).run(stop)
    with PositionFile(folder / "p", "test") as file:
        return file.position, file.memory


def test_batches_are_delivered_in_order_and_the_position_is_behind_the_last(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    outlet = RecordingOutlet()
    items = [heartbeat(0), action(1), heartbeat(1), action(2), action(3), Lost(epoch=EPOCH, first=4, last=6), action(7)]
    assert run_loop(tmp_path, clock, outlet, items) == (Position(EPOCH, 7), {"batches": 3})
    assert outlet.batches == [[1, 2], [3, 4], [7]]
    assert outlet.positions == [Position(EPOCH, 2), Position(EPOCH, 6), Position(EPOCH, 7)]
    assert outlet.updates[:2] == [(0, False), (1, False)]
    err = capsys.readouterr().err
    assert "lost: offsets 4 to 6 of journal 9f9f9f9f, no longer there" in err
    assert "4 events delivered, 1 ranges lost" in err


def test_a_batch_is_delivered_when_the_linger_time_has_passed(tmp_path: Path, clock: Clock) -> None:
    outlet = RecordingOutlet()
    run_loop(tmp_path, clock, outlet, [action(1), None, action(2), action(3)])
    assert outlet.batches == [[1], [2, 3]]


def test_an_unconfirmed_batch_changes_neither_position_nor_memory(tmp_path: Path, clock: Clock) -> None:
    outlet = RecordingOutlet(confirmed=1)
    items = [action(number) for number in range(1, 7)]
    assert run_loop(tmp_path, clock, outlet, items) == (Position(EPOCH, 2), {"batches": 1})
    assert outlet.batches == [[1, 2], [3, 4]]


def test_an_outlet_that_fails_keeps_the_position_of_confirmed_events(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlet = RecordingOutlet()

    def fail(heartbeat: Heartbeat | None, is_silent: bool) -> None:
        raise BusError("gone")

    monkeypatch.setattr(outlet, "update", fail)
    with pytest.raises(BusError, match="gone"):
        run_loop(tmp_path, clock, outlet, [action(1), action(2), action(3)])
    with PositionFile(tmp_path / "p", "test") as file:
        assert file.position == Position(EPOCH, 2)


def test_the_first_position_is_stored_before_the_first_event(tmp_path: Path, clock: Clock) -> None:
    assert run_loop(tmp_path, clock, RecordingOutlet(), [heartbeat(41)]) == (Position(EPOCH, 41), {})


def test_the_beginning_of_the_journal_is_not_stored(tmp_path: Path, clock: Clock) -> None:
    stop = StopRequest()
    events: Any = FakeSubscription([], stop, clock)
    events.position = START
    with PositionFile(tmp_path / "p", "test") as file:
        DeliveryLoop(events, RecordingOutlet(), file, max_batch=1, linger_s=0.0).run(stop)
    assert not (tmp_path / "p").exists()


def test_without_a_file_the_outlet_stores_the_position_itself(clock: Clock) -> None:
    stop, outlet = StopRequest(), RecordingOutlet()
    events: Any = FakeSubscription([action(1), action(2)], stop, clock)
    DeliveryLoop(events, outlet, None, max_batch=2, linger_s=1.0).run(stop)
    assert outlet.positions == [Position(EPOCH, 2)]


def test_a_silent_service_is_reported_once_and_so_is_its_return(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    outlet = RecordingOutlet()
    pauses = [None] * (4 * round(SERVICE_SILENT_S) + 4)
    run_loop(tmp_path, clock, outlet, [heartbeat(1), *pauses, heartbeat(1)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[:-1] == [
        "streamclf test: waiting for a service at tcp://test",
        "streamclf test: connected to tcp://test",
    ]
    assert [is_silent for _, is_silent in outlet.updates][-6:] == [True] * 4 + [False] * 2


def test_a_chosen_stream_that_the_service_does_not_have_is_reported_once(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    beat = replace(heartbeat(1), streams=("yard", "door"))
    run_loop(tmp_path, clock, RecordingOutlet(), [heartbeat(1), beat, None, beat])
    lines = capsys.readouterr().err.splitlines()
    assert lines[:-1] == ["streamclf test: no stream dor; the service has yard, door; did you mean door?"]


def test_events_that_the_filter_leaves_out_move_the_position(tmp_path: Path, clock: Clock) -> None:
    stop, outlet = StopRequest(), RecordingOutlet()
    with PositionFile(tmp_path / "p", "test") as file:
        events: Any = FakeSubscription([action(1), action(2)], stop, clock)
        chosen = EventFilter(min_probability=0.96)
        DeliveryLoop(events, outlet, file, max_batch=2, linger_s=1.0, chosen=chosen).run(stop)
        assert file.position == Position(EPOCH, 2)
    assert outlet.batches == []


def test_an_outlet_with_its_own_position_stores_one_behind_events_that_were_left_out(clock: Clock) -> None:
    stop, outlet = StopRequest(), RecordingOutlet()
    events: Any = FakeSubscription([action(1)], stop, clock)
    DeliveryLoop(events, outlet, None, max_batch=2, linger_s=1.0, chosen=EventFilter(min_probability=0.96)).run(stop)
    assert outlet.batches == [[]]
    assert outlet.positions == [Position(EPOCH, 1)]


def test_after_the_request_to_stop_events_that_arrive_are_still_delivered(clock: Clock) -> None:
    stop, outlet = StopRequest(drain_s=3600.0), RecordingOutlet()
    stop.request()
    events: Any = FakeSubscription([action(1), heartbeat(3), action(2), action(3), None, action(4)], stop, clock)
    DeliveryLoop(events, outlet, None, max_batch=1, linger_s=0.0).run(stop)
    assert outlet.batches == [[1], [2], [3]]
