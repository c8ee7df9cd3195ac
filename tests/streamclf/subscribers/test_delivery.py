"""What all outlets share: a position that survives anything, and a pump that never stores what was not delivered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from streamclf.errors import BusError, JournalError, UsageError
from streamclf.events.types import START, Action, Heartbeat, Lost, Position, Received
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers import checkpoint as room
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


def test_a_position_is_there_again_after_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "p"
    with PositionFile(path, "mqtt") as file:
        assert (file.position, file.memory) == (None, {})
        file.save(Position(EPOCH, 7), {"streams": {"door": [1, None, True]}})
    path.with_name("p.new").write_bytes(b'{"v":1,"outl')  # as a crash in the middle of the next save leaves it
    with PositionFile(path, "mqtt") as file:
        assert (file.position, file.memory) == (Position(EPOCH, 7), {"streams": {"door": [1, None, True]}})
        file.save(Position(EPOCH, 8), {})
    assert path.stat().st_mode & 0o077 == 0
    with PositionFile(path, "mqtt") as file:
        assert (file.position, file.memory) == (Position(EPOCH, 8), {})


def test_a_position_is_for_one_process_of_one_outlet(tmp_path: Path) -> None:
    path = tmp_path / "p"
    with PositionFile(path, "mqtt") as file:
        file.save(Position(EPOCH, 7), {})
        with pytest.raises(JournalError, match="another process works with it"):
            PositionFile(path, "mqtt")
    with pytest.raises(
        UsageError, match=r"the position of `streamclf mqtt`; give `streamclf webhook` a file of its own"
    ):
        PositionFile(path, "webhook")
    with PositionFile(path, "mqtt"):
        pass  # the refused ones let it go


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b'{"v":1}', b'{"v":1,"outlet":"mqtt","epoch":"x","offset":7}', b"\xff" * 100,
     b'{"v":2,"outlet":"mqtt","epoch":"%s","offset":7}' % EPOCH.encode()],
)  # fmt: skip
def test_a_file_that_is_no_position_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(UsageError, match=r"not a position of ours .* give another path, or remove it"):
        PositionFile(tmp_path / "p", "mqtt")
    assert (tmp_path / "p").read_bytes() == content


def test_where_none_can_be_had_the_error_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="create it first"):
        PositionFile(tmp_path / "none" / "p", "mqtt")
    (tmp_path / "directory").mkdir()
    with pytest.raises(JournalError, match="cannot be read"):
        PositionFile(tmp_path / "directory", "mqtt")
    with PositionFile(tmp_path / "p", "mqtt") as file:
        file.save(Position(EPOCH, 7), {})

        def full(fd: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(room.os, "fsync", full)
        with pytest.raises(JournalError, match="No space left on device; nothing is lost"):
            file.save(Position(EPOCH, 8), {})
        assert file.position == Position(EPOCH, 7)
    assert not (tmp_path / "p.new").exists()


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

    def __init__(self, takes: int = 1000) -> None:
        self.batches: list[list[int]] = []
        self.tended = 0
        self._takes = takes

    def deliver(self, batch: Sequence[Item]) -> bool:
        self.batches.append([item.first if isinstance(item, Lost) else item.offset or 0 for item in batch])
        return len(self.batches) <= self._takes

    def tend(self, beat: Heartbeat | None, silent: bool) -> None:
        self.tended += 1

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
    monkeypatch.setattr(basket, "tend", lambda beat, silent: (_ for _ in ()).throw(BusError("gone")))
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
