"""The history follows a real hub: new events at once, older ones backwards, and none twice after a restart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import av
import pytest
from support.hub_process import HubProcess, action, clip, prediction, read_journal, status, wait_until

from streamclf.client.replay import ReplayClient
from streamclf.client.subscription import subscribe
from streamclf.clips.film_info import FilmAction, FilmInfo
from streamclf.clips.folder import ClipFolder
from streamclf.clips.names import ClipName
from streamclf.events.positions import Position
from streamclf.net.curve_client import ServiceAddress
from streamclf.producer.link import EventProducer
from streamclf.subscribers.web.history import follower as follower_module
from streamclf.subscribers.web.history.follower import HistoryFollower
from streamclf.subscribers.web.history.records import ActionFilter
from streamclf.subscribers.web.history.store import History


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


@contextmanager
def following(hub: HubProcess, history: History, folder: ClipFolder | None = None) -> Iterator[HistoryFollower]:
    """Run a follower with a live subscription, as the page does."""
    done = threading.Event()

    def receive() -> None:
        with subscribe(hub.events) as events:
            while not done.is_set():
                if (event := events.receive(0.1)) is not None:
                    follower.notice(event)

    with HistoryFollower(ServiceAddress(endpoint=hub.events), history, folder) as follower:
        thread = threading.Thread(target=receive)
        thread.start()
        try:
            yield follower
        finally:
            done.set()
            thread.join(60)


def found(history: History) -> list[tuple[str, str, int]]:
    """Return (stream, state, number of clips) of all actions, newest first."""
    actions = history.find(ActionFilter(), limit=100).actions
    return [(each.stream, each.state, len(each.clips)) for each in actions]


def test_a_page_that_starts_later_finds_what_happened_and_follows(
    hub: HubProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "STRETCH", 10)
    with EventProducer(hub.link, "test") as producer, History() as history:
        producer.post(action("start"))
        wait_until(lambda: bool(read_journal(hub.journal)), "journalled")
        epoch = read_journal(hub.journal)[0]["epoch"]
        for number in range(45):
            producer.post(prediction(number=number))
        producer.post(action("end", at_s=4.0))
        producer.post(status(state="stalled"))
        producer.post(clip(start=1, epoch=epoch))
        wait_until(lambda: not producer.unacknowledged, "journalled")
        with following(hub, history) as follower:
            wait_until(lambda: not follower.is_loading, "the journal is read")
            assert found(history) == [("door", "ended", 1)]
            assert [each.state for each in history.state_changes(9)] == ["stalled"]
            producer.post(action("start", stream="yard"))
            wait_until(lambda: found(history)[0] == ("yard", "running", 0), "a new action")
            producer.post(action("end", stream="yard", at_s=9.0))
            wait_until(lambda: found(history)[0] == ("yard", "ended", 0), "its end")


def test_predictions_are_not_transferred(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal holds hundreds of predictions for each action."""
    received = []
    fetch = ReplayClient.fetch_page

    def counted(client: ReplayClient, after: Position | None, timeout_s: float) -> object:
        page = fetch(client, after, timeout_s)
        received.extend(page.events if page else ())
        return page

    monkeypatch.setattr(ReplayClient, "fetch_page", counted)
    with EventProducer(hub.link, "test") as producer, History() as history:
        for number in range(100):
            producer.post(prediction(number=number))
        producer.post(action("start"))
        wait_until(lambda: not producer.unacknowledged, "journalled")
        with following(hub, history) as follower:
            wait_until(lambda: not follower.is_loading, "the journal is read")
    assert [event.type for event in received] == ["action"]


def test_after_a_restart_only_the_unread_part_is_read(
    hub: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "STRETCH", 10)
    asked: list[int] = []
    fetch = ReplayClient.fetch_page

    def noted(client: ReplayClient, after: Position | None, timeout_s: float) -> object:
        assert after is not None
        asked.append(after.offset)
        return fetch(client, after, timeout_s)

    monkeypatch.setattr(ReplayClient, "fetch_page", noted)
    with EventProducer(hub.link, "test") as producer:
        for _ in range(2):
            producer.post(action("start"))
            for number in range(30):
                producer.post(prediction(number=number))
            producer.post(action("end", at_s=4.0))
            wait_until(lambda: not producer.unacknowledged, "journalled")
            asked.clear()
            with History(tmp_path / "web") as history, following(hub, history) as follower:
                wait_until(lambda: not follower.is_loading, "the journal is read")
                states = found(history)
    assert states == [("door", "ended", 0)] * 2
    assert min(asked) >= 32, "the first 32 events were read before the restart"


def test_a_new_journal_begins_a_new_history_and_keeps_the_old_one(hub: HubProcess) -> None:
    with ExitStack() as stack:
        history = stack.enter_context(History())
        stack.enter_context(following(hub, history))
        with EventProducer(hub.link, "test") as producer:
            producer.post(action("start"))
            wait_until(lambda: found(history) == [("door", "running", 0)], "the action")
        hub.kill()
        for path in hub.journal.parent.glob("journal.db*"):
            path.unlink()
        hub.start()
        with EventProducer(hub.link, "test2") as producer:
            producer.post(action("start", stream="yard"))
            wait_until(lambda: found(history) == [("yard", "running", 0), ("door", "unknown", 0)], "both actions")


def test_starred_clips_are_listed_without_their_events(hub: HubProcess, tmp_path: Path) -> None:
    """The film's metadata has the label in full; a film without them is listed by its name."""
    day = tmp_path / "door" / "2026-01-02"
    day.mkdir(parents=True)
    name = ClipName("2026-01-02", "020304-567-Fuesse", "door")
    action = FilmAction(label="Füße heben", started_s=7.0, start=5, peak=0.75)
    began = datetime(2026, 1, 2, 2, 3, 4, 567000, tzinfo=timezone.utc)
    info = FilmInfo(name=name, began=began, start_s=5.0, end_s=12.5, actions=(action,), epoch="0" * 32)
    with av.open(str(tmp_path / name.film), "w") as container:
        container.metadata["comment"] = info.to_json()
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    for other in ("030405-678-wave.mp4", "030405-678-wave.star", "040506-789-wave.mp4", "020304-567-Fuesse.star"):
        (day / other).write_bytes(b"x")
    with History() as history, following(hub, history, ClipFolder(tmp_path)):
        wait_until(lambda: len(found(history)) == 2, "the starred clips")
        bare, described = history.find(ActionFilter(starred=True), limit=9).actions
    assert bare.clips[0].file == "door/2026-01-02/030405-678-wave.mp4"
    assert bare.began.isoformat() == "2026-01-02T03:04:05.678000+00:00"
    assert (bare.label, described.label, described.probability) == ("wave", "Füße heben", 0.75)
    assert described.duration_s == 7.5


def test_a_full_disk_is_reported_and_loses_nothing(
    hub: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "_FAULT_S", 0.05)
    with EventProducer(hub.link, "test") as producer, History(tmp_path / "web") as history:
        history._db.execute("PRAGMA max_page_count=1")
        with following(hub, history) as follower:
            for number in range(400):
                producer.post(action("start", label=f"{'long ' * 40}{number}"))
            wait_until(lambda: bool(follower.fault), "the fault")
            assert "full" in follower.fault
            history._db.execute("PRAGMA max_page_count=1000000")
            wait_until(lambda: history.count == 400, "all actions")
            wait_until(lambda: not follower.fault, "the end of the fault")


def test_live_events_are_listed_although_the_journal_cannot_be_read(
    hub: HubProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall may let only the live events through."""
    monkeypatch.setattr(ReplayClient, "fetch_page", lambda *_: None)
    with EventProducer(hub.link, "test") as producer, History() as history, following(hub, history) as follower:
        wait_until(lambda: bool(follower._journals), "a heartbeat")
        producer.post(action("start"))
        wait_until(lambda: found(history) == [("door", "running", 0)], "the action")
        producer.post(action("end", at_s=4.0))
        wait_until(lambda: found(history) == [("door", "ended", 0)], "its end")


def test_an_unexpected_error_does_not_end_the_list(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "_FAULT_S", 0.05)
    add = History.add
    failures = iter([True, True])

    def fail_twice(self: History, *arguments: Any) -> None:
        if next(failures, False):
            raise ValueError("unexpected")
        add(self, *arguments)

    monkeypatch.setattr(History, "add", fail_twice)
    with EventProducer(hub.link, "test") as producer, History() as history, following(hub, history) as follower:
        producer.post(action("start"))
        wait_until(lambda: found(history) == [("door", "running", 0)], "the action")
        wait_until(lambda: not follower.fault, "the fault is over")
