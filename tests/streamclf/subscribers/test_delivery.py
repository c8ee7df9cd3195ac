"""What all outlets share: a position that survives anything, and a pump that never stores what was not delivered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from streamclf.errors import BusError
from streamclf.events.positions import START, Position
from streamclf.events.types import Action, Heartbeat, Lost, Received
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.checkpoint import PositionFile
from streamclf.subscribers.delivery import DeliveryLoop, Item

EPOCH = "9f" * 16
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)


def acted(offset: int) -> Action:
    return Action(
        stream="door", epoch=EPOCH, offset=offset, previous=0, time=NOW, label="wave", phase="start",
        started_s=1.0, at_s=2.0, probability=0.9, peak=0.95,
    )  # fmt: skip


def beat(head: int) -> Heartbeat:
    return Heartbeat(epoch=EPOCH, time=NOW, head=head, oldest=1, last={}, replay="tcp://127.0.0.1:1")


class Events:
    """A subscription that has these, and whose position is behind the last that was taken."""

    endpoint = "tcp://test"

    def __init__(self, items: Sequence[Received], stop: StopRequest) -> None:
        self._items, self._stop = list(items), stop
        self.position: Position | None = None

    def receive(self, timeout_s: float) -> Received | None:
        if not self._items:
            self._stop.request()
            return None
        item = self._items.pop(0)
        if isinstance(item, Heartbeat):
            self.position = self.position or Position(EPOCH, item.head)
        else:
            offset = item.last if isinstance(item, Lost) else item.offset
            self.position = Position(EPOCH, offset or 0)
        return item


class Basket:
    """Takes batches until it is told to refuse."""

    name = "test"
    outcome = "delivered"

    def __init__(self, takes: int = 1000) -> None:
        self.batches: list[list[int]] = []
        self._takes = takes

    def deliver(self, batch: Sequence[Item], position: Position | None) -> bool:
        self.batches.append([item.first if isinstance(item, Lost) else item.offset or 0 for item in batch])
        return len(self.batches) <= self._takes

    def update(self, heartbeat: Heartbeat | None, is_silent: bool) -> None:
        pass

    def memory(self) -> dict[str, Any]:
        return {"batches": len(self.batches)}


def pump(folder: Path, basket: Basket, items: Sequence[Received], *, max_batch: int = 2) -> tuple[Position | None, Any]:
    stop = StopRequest()
    with PositionFile(folder / "p", "test") as file:
        events: Any = Events(items, stop)
        DeliveryLoop(events, basket, file, max_batch=max_batch, linger_s=1.0).run(stop)
    with PositionFile(folder / "p", "test") as file:
        return file.position, file.memory


def test_batches_in_order_and_the_position_behind_the_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    basket = Basket()
    items = [beat(0), acted(1), beat(1), acted(2), acted(3), Lost(epoch=EPOCH, first=4, last=6), acted(7)]
    assert pump(tmp_path, basket, items) == (Position(EPOCH, 7), {"batches": 3})
    assert basket.batches == [[1, 2], [3, 4], [7]]
    err = capsys.readouterr().err
    assert "lost: offsets 4 to 6 of journal 9f9f9f9f, no longer there" in err
    assert "4 events delivered, 1 ranges lost" in err


def test_what_was_not_delivered_is_neither_in_the_position_nor_in_the_memory(tmp_path: Path) -> None:
    basket = Basket(takes=1)
    assert pump(tmp_path, basket, [acted(n) for n in range(1, 7)]) == (Position(EPOCH, 2), {"batches": 1})
    assert basket.batches == [[1, 2], [3, 4]]


def test_an_outlet_that_fails_keeps_what_was_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    basket = Basket()
    monkeypatch.setattr(basket, "update", lambda heartbeat, is_silent: (_ for _ in ()).throw(BusError("gone")))
    with pytest.raises(BusError, match="gone"):
        pump(tmp_path, basket, [acted(1), acted(2), acted(3)])
    with PositionFile(tmp_path / "p", "test") as file:
        assert file.position == Position(EPOCH, 2)


def test_the_first_position_is_stored_before_anything_happens(tmp_path: Path) -> None:
    assert pump(tmp_path, Basket(), [beat(41)]) == (Position(EPOCH, 41), {})


def test_the_beginning_of_the_journal_is_no_position_to_store(tmp_path: Path) -> None:
    stop = StopRequest()
    events: Any = Events([], stop)
    events.position = START
    with PositionFile(tmp_path / "p", "test") as file:
        DeliveryLoop(events, Basket(), file, max_batch=1, linger_s=0.0).run(stop)
    assert not (tmp_path / "p").exists()
