"""The history pairs starts with ends and clips with actions, in whatever order the events arrive."""

from __future__ import annotations

import itertools
import random
import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from streamclf.errors import JournalError, UsageError
from streamclf.events.types import Action, Clip, Status, StreamEvent
from streamclf.subscribers.web.history import store as store_module
from streamclf.subscribers.web.history.records import ActionFilter
from streamclf.subscribers.web.history.store import History

EPOCH = "0" * 32
NOON = datetime(2026, 11, 29, 12, 0, tzinfo=timezone.utc)


def action(offset: int | None, phase: str, **keys: object) -> Action:
    """An event of an action that started at 10 s, at wall-clock second `offset` unless `at` says otherwise."""
    at = keys.pop("at", offset)
    fields: dict[str, object] = {
        "stream": "door",
        "epoch": EPOCH,
        "label": "waving",
        "started_s": 10.0,
        "at_s": 10.0 if phase == "start" else 14.0,
        "probability": 0.8,
        "peak": 0.9,
        "reason": "below" if phase == "end" else None,
        **keys,
    }
    return Action(offset=offset, previous=0, phase=phase, time=NOON + timedelta(seconds=at), **fields)  # type: ignore[arg-type]


def clip(offset: int, action_offset: int | None, name: str = "120000-000-waving", **keys: object) -> Clip:
    fields: dict[str, object] = {
        "stream": "door",
        "epoch": EPOCH,
        "label": "waving",
        "began": NOON,
        "start_s": 5.0,
        "end_s": 15.0,
        "file": f"door/2026-11-29/{name}.mp4",
        "still": f"door/2026-11-29/{name}.jpg",
        "bytes": 1000,
        "probability": 0.9,
        **keys,
    }
    return Clip(offset=offset, previous=0, action=action_offset, time=NOON, **fields)  # type: ignore[arg-type]


def everything(history: History, **chosen: object) -> list[tuple[int, str]]:
    page = history.find(ActionFilter(**chosen), limit=200)  # type: ignore[arg-type]
    return [(each.offset, each.state) for each in page.actions]


@pytest.fixture
def history() -> History:
    history = History()
    history.set_epoch(EPOCH)
    return history


def test_an_action_runs_until_its_end(history: History) -> None:
    history.add([action(1, "start"), action(2, "update", at_s=11.0, peak=0.95)])
    running = history.get(1)
    assert running is not None
    assert (running.state, running.ended, running.duration_s, running.probability) == ("running", None, 1.0, 0.95)
    history.add([action(5, "end")])
    ended = history.get(1)
    assert ended is not None
    assert (ended.state, ended.duration_s, ended.reason) == ("ended", 4.0, "below")
    assert ended.ended == NOON + timedelta(seconds=5)
    assert len(everything(history)) == 1


def test_a_film_that_repeats_makes_one_action_each_time_in_any_order_of_pages() -> None:
    """A played film has the same media times in each round. A page that starts again may know any part."""
    events: list[StreamEvent] = []
    for round_ in range(3):
        first = 10 * round_ + 1
        events += [action(first, "start"), action(first + 1, "update"), action(first + 3, "end")]
        events += [clip(first + 4, first, name=f"1200{round_:02}-000-waving")]
    events += [action(41, "start")]
    pages = [events[:2], events[2:5], events[5:6], events[6:8], events[8:]]
    for order in itertools.permutations(range(len(pages))):
        history = History()
        history.set_epoch(EPOCH)
        for number in order:
            history.add(pages[number])
        assert everything(history) == [(41, "running"), (21, "ended"), (11, "ended"), (1, "ended")], order
        assert [len(each.clips) for each in history.find(ActionFilter(), limit=9).actions] == [0, 1, 1, 1]
        history.close()


def test_events_that_arrive_twice_change_nothing(history: History) -> None:
    events = [action(1, "start"), action(4, "end"), clip(5, 1)]
    history.add(events)
    before, version = history.find(ActionFilter(), limit=9).actions, history.version
    for event in random.Random(1).sample(events * 3, 9):
        history.add([event])
    assert history.find(ActionFilter(), limit=9).actions == before
    assert history.version == version


def test_an_end_without_its_start_is_listed_with_the_time_it_began(history: History) -> None:
    """Retention may have removed the start from the journal."""
    history.add([action(7, "end")])
    found = history.get(7)
    assert found is not None
    assert (found.state, found.began) == ("ended", NOON + timedelta(seconds=3))


def test_an_action_of_an_older_journal_does_not_run(history: History) -> None:
    history.add([action(1, "start")])
    assert everything(history) == [(1, "running")]
    history.set_epoch("1" * 32)
    assert everything(history) == [(1, "unknown")]


def test_an_action_whose_end_was_never_published_does_not_run_for_ever(history: History) -> None:
    history.add([action(1, "start"), action(9, "start", started_s=20.0)])
    assert everything(history) == [(9, "running"), (1, "unknown")]


def test_an_action_runs_also_after_the_clock_was_set_back(history: History) -> None:
    history.add([action(1, "start", at=3600), action(2, "end", at=3605), action(3, "start", at=0, started_s=30.0)])
    assert sorted(everything(history)) == [(1, "ended"), (3, "running")]


def test_events_that_were_not_journalled_are_listed_once(history: History) -> None:
    """A full disk: the service publishes them without offsets."""
    history.add([action(None, "start", at=1)])
    history.add([action(None, "end", at=3)])
    ((offset, state),) = everything(history)
    assert offset < 0
    assert state == "ended"
    assert abs(offset) < 2**53, "a browser would round it"


def test_overlapping_actions_share_a_clip_that_is_kept_until_the_last_is_deleted(history: History) -> None:
    history.add([action(1, "start"), action(2, "start", label="walking"), clip(9, 1, actions=(1, 2))])
    first, second = history.get(1), history.get(2)
    assert first is not None
    assert second is not None
    assert first.clips == second.clips
    assert history.clip_users(first.clips[0].file) == [(EPOCH, 1), (EPOCH, 2)]
    history.delete(first)
    assert history.clip_users(first.clips[0].file) == [(EPOCH, 2)]
    assert [offset for offset, _ in everything(history)] == [2]
    history.add([action(1, "start"), action(4, "end")])
    assert [offset for offset, _ in everything(history)] == [2], "a deleted action does not come back with its end"


def test_filters_by_stream_label_time_and_text(history: History) -> None:
    history.add([action(1, "start"), action(4, "end")])
    history.add([action(11, "start", stream="yard", label="Füße heben")])
    history.add([action(21, "start", stream="gate", label="<b>x</b>", started_s=12.0)])

    def offsets(names: dict[str, str] | None = None, **chosen: object) -> list[int]:
        page = history.find(ActionFilter(**chosen), limit=9, names=names)  # type: ignore[arg-type]
        return [each.offset for each in page.actions]

    assert offsets(streams=("yard", "gate")) == [21, 11]
    assert offsets(labels=("waving", "<b>x</b>")) == [21, 1]
    assert offsets(since=NOON + timedelta(seconds=3)) == [21, 11, 1], "an action that went on at that time"
    assert offsets(until=NOON + timedelta(seconds=12)) == [11, 1]
    assert offsets(text="fu\u0308SSE") == [11], "case and the form of accents do not matter"
    assert offsets(text="waving door") == [1]
    assert offsets(text="100%") == offsets(text="'; DROP TABLE actions; --") == []
    assert offsets({"gate": "Back garden"}, text="GARDEN") == [21]


def test_pages_continue_without_gaps_and_repetitions_while_events_arrive(history: History) -> None:
    history.add([action(n, "start", label=f"l{n}", at=n // 4) for n in range(1, 26)])
    seen: list[int] = []
    cursor = None
    while True:
        page = history.find(ActionFilter(), limit=4, cursor=cursor)
        seen += [each.offset for each in page.actions]
        history.add([action(100 + len(seen), "start", label=f"l{len(seen)}x", at=100)])
        if (cursor := page.next_cursor) is None:
            break
    assert sorted(seen, reverse=True) == list(range(25, 0, -1))
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("cursor", ["", "x", "1", "1.", "1.-1", "9" * 30 + ".1", "1.2 OR 1", "٣.٣"])
def test_a_cursor_that_no_page_gave_is_refused(history: History, cursor: str) -> None:
    with pytest.raises(UsageError, match="cursor"):
        history.find(ActionFilter(), limit=4, cursor=cursor)


def test_the_number_of_actions_is_bounded_and_starred_ones_stay(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_ACTIONS", 10)
    monkeypatch.setattr(store_module, "_PRUNED_AT_ONCE", 2)
    history.add([action(1, "start"), action(2, "end"), clip(3, 1)])
    history.star("door/2026-11-29/120000-000-waving.mp4", starred=True)
    for n in range(10, 60):
        history.add([action(n, "start", label=f"l{n}")])
    kept = [offset for offset, _ in everything(history)]
    assert len(kept) <= 12
    assert kept[0] == 59
    assert kept[-1] == 1
    assert [offset for offset, _ in everything(history, starred=True)] == [1]


def test_ranges_that_were_read_are_known(history: History) -> None:
    assert history.uncovered(EPOCH, 1, 100) == [(1, 100)]
    history.add([], (EPOCH, 81, 100))
    history.add([], (EPOCH, 41, 60))
    assert history.uncovered(EPOCH, 1, 120) == [(101, 120), (61, 80), (1, 40)]
    history.add([], (EPOCH, 61, 80))
    assert history.uncovered(EPOCH, 1, 120) == [(101, 120), (1, 40)]
    assert history.uncovered(EPOCH, 50, 70) == []
    assert history.uncovered("1" * 32, 1, 10) == [(1, 10)]


def test_state_changes_leave_out_repetitions_in_any_order(history: History) -> None:
    def status(second: int, state: str, reason: str | None = None) -> Status:
        return Status(
            stream="door",
            epoch=EPOCH,
            offset=second,
            previous=0,
            time=NOON + timedelta(seconds=second),
            state=state,  # type: ignore[arg-type]
            reason=reason,
        )

    history.add([status(30, "live"), status(35, "live"), status(40, "stalled", "no frames")])
    history.add([status(10, "connecting"), status(20, "live"), status(25, "live")])
    found = [(each.time.second, each.state) for each in history.state_changes(10)]
    assert found == [(40, "stalled"), (20, "live"), (10, "connecting")]


def test_a_starred_clip_whose_events_are_gone_gives_way_to_its_events(history: History) -> None:
    other = History()
    other.add([action(1, "start"), clip(5, 1)])
    (record,) = other.get(1).clips  # type: ignore[union-attr]
    history.adopt(record)
    ((offset, state),) = everything(history)
    assert offset < 0
    assert state == "ended"
    history.adopt(record)
    history.add([action(1, "start"), clip(5, 1)])
    assert everything(history) == [(1, "running")]
    assert len(history.get(1).clips) == 1  # type: ignore[union-attr]


def test_a_file_keeps_the_history_over_a_restart_and_a_damaged_one_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "web"
    with History(path) as first:
        first.add([action(1, "start"), action(4, "end"), clip(5, 1)], (EPOCH, 1, 5))
    with History(path) as second:
        assert everything(second) == [(1, "ended")]
        assert second.uncovered(EPOCH, 1, 5) == []
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(b"no database " * 1000)
    with History(path) as third:
        assert everything(third) == []
    assert (tmp_path / "web.damaged").exists()


def test_another_programs_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine(x)")
    before = path.read_bytes()
    with pytest.raises(JournalError, match="not the history of a page"):
        History(path)
    assert path.read_bytes() == before


def test_a_page_for_some_streams_finds_only_those() -> None:
    history = History(streams=["door"])
    history.add([action(1, "start"), action(2, "start", stream="bedroom")])
    assert [offset for offset, _ in everything(history)] == [1]
    assert everything(history, streams=("bedroom",)) == []
    assert history.get(2) is None
    history.add([action(3, "start", stream="bedroom", label="sleeping")])
    assert (history.known_streams(), history.known_labels()) == (["door"], ["waving"])


VIEWS: list[dict[str, object]] = [
    {}, {"region": "gate"}, {"region": "gate", "model_name": "hands"}, {"model_name": "hands"},
]  # fmt: skip


def test_equal_labels_of_views_at_one_time_are_actions_of_their_own_in_any_order_of_events() -> None:
    """Two regions or models can report the same label at the same media time."""
    events: list[StreamEvent] = []
    for number, view in enumerate(VIEWS):
        events += [action(10 * number + 1, "start", at=1, **view), action(10 * number + 2, "update", at=2, **view)]
        events += [action(10 * number + 5, "end", at=5, **view)]
        events += [clip(10 * number + 6, None, name=f"12000{number}-000-waving", **view)]
    for seed in range(6):
        history = History()
        history.set_epoch(EPOCH)
        order = list(events)
        random.Random(seed).shuffle(order)
        history.add(order)
        found = [each for each in history.find(ActionFilter(), limit=200).actions if each.epoch]
        assert sorted((each.offset, each.state) for each in found) == [
            (1, "ended"), (11, "ended"), (21, "ended"), (31, "ended"),
        ]  # fmt: skip
        for each in found:
            view = VIEWS[each.offset // 10]
            assert (each.region, each.model_name) == (view.get("region"), view.get("model_name"))
            for film in each.clips:
                assert (film.region, film.model_name) == (each.region, each.model_name)


def test_actions_are_filtered_by_region_and_model(history: History) -> None:
    for number, view in enumerate(VIEWS, 1):
        history.add([action(10 * number, "start", **view)])

    def offsets(**chosen: object) -> list[int]:
        return sorted(offset for offset, _ in everything(history, **chosen))

    assert offsets(regions=("gate",)) == [20, 30]
    assert offsets(regions=("",)) == [10, 40]
    assert offsets(models=("hands",)) == [30, 40]
    assert offsets(models=("",), regions=("", "gate")) == [10, 20]
    assert offsets(text="hands gate") == [30]
    assert (history.known_regions(), history.known_models()) == (["", "gate"], ["", "hands"])
    for wrong in ({"regions": ("a/b",)}, {"models": ("x" * 65,)}, {"regions": ("a",) * 65}):
        with pytest.raises(UsageError):
            ActionFilter(**wrong)  # type: ignore[arg-type]


def test_a_history_of_an_earlier_version_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    history = History(path)
    history.set_epoch(EPOCH)
    history.add([action(1, "start"), action(5, "end")])
    history.close()
    with sqlite3.connect(path) as db:
        for table in ("actions", "clips"):
            for column in ("region", "model_name"):
                db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    db.close()
    history = History(path)
    history.set_epoch(EPOCH)
    history.add([action(11, "start", **VIEWS[2])])
    assert sorted(everything(history)) == [(1, "ended"), (11, "running")]
    assert everything(history, regions=("gate",)) == [(11, "running")]
    history.close()
