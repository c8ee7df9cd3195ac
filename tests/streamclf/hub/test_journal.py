"""Test the journal: it assigns each offset once and in order, whatever the disk does."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamclf.errors import JournalError
from streamclf.events.views import UNNAMED, ViewKey
from streamclf.hub.journal import Entry, Journal, Record
from streamclf.hub.journal_file import set_aside
from streamclf.hub.journal_reader import JournalReader
from streamclf.hub.retention import RETENTION_STEP

pytestmark = pytest.mark.flaky(reruns=0)  # a failure here, even one in a hundred runs, is a lost event

PRODUCER = b"p" * 16


def record(
    stream: str = "door", kind: str = "prediction", size: int = 10, view: ViewKey = UNNAMED, name: str = ""
) -> Record:
    def body(offset: int | None, previous: int) -> bytes:
        return orjson.dumps({"offset": offset, "previous": previous, "pad": name or "x" * size})

    return Record(stream, kind, body, view)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path, keep_s=3600) as journal:
        yield journal


def stored(path: Path) -> list[tuple[int, bytes | None]]:
    reader = JournalReader(path)
    try:
        with reader.consistent_view():
            return list(reader.page(0, 2**60, 100_000))
    finally:
        reader.close()


def fill_disk(journal: Journal) -> None:
    """Make SQLite report a full disk: it may not add a page."""
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count={pages}")


def free_disk(journal: Journal) -> None:
    journal._db.execute("PRAGMA max_page_count=1000000")


def test_previous_is_the_last_offset_of_the_same_stream(journal: Journal) -> None:
    entries = journal.append([record("a"), record("b"), record("a"), record("a")], {})
    assert [(e.offset, orjson.loads(e.body)["previous"]) for e in entries] == [(1, 0), (2, 0), (3, 1), (4, 3)]
    (entry,) = journal.append([record("b")], {})
    assert (entry.offset, orjson.loads(entry.body)["previous"]) == (5, 2)


def test_offsets_previous_and_epoch_survive_a_restart_and_retention(path: Path) -> None:
    with Journal(path, keep_s=0.0) as first:
        epoch = first.epoch
        first.append([record("a"), record("b")], {PRODUCER: 7})
        while first.retain():
            pass
        assert (first.oldest, first.head) == (3, 2)
    with Journal(path, keep_s=3600) as second:
        assert (second.epoch, second.head, second.oldest) == (epoch, 2, 3)
        assert second.sequence_of(PRODUCER) == 7
        assert second.last() == {"a": 1, "b": 2}
        (entry,) = second.append([record("a")], {})
        assert (entry.offset, orjson.loads(entry.body)["previous"]) == (3, 1)


def test_returned_entries_are_the_stored_ones(journal: Journal, path: Path) -> None:
    entries = journal.append([record(size=n) for n in range(50)], {})
    assert stored(path) == [(e.offset, e.body) for e in entries]


def test_sequence_numbers_are_committed_with_their_events_or_not_at_all(journal: Journal) -> None:
    journal.append([record()], {PRODUCER: 1})

    def broken(offset: int | None, previous: int) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        journal.append([record(), Record("a", "status", broken)], {PRODUCER: 2})
    assert (journal.head, journal.sequence_of(PRODUCER)) == (1, 1)


def test_second_service_is_refused_with_a_remedy(journal: Journal, path: Path) -> None:
    with pytest.raises(JournalError, match="another service writes it; stop that service, or give this one another"):
        Journal(path, keep_s=1)


def test_killed_service_leaves_no_lock(path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path; from streamclf.hub.journal import Journal\n"
        f"j = Journal(Path({str(path)!r}), keep_s=1); print('locked', flush=True); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30).stdout == b"locked\n"
    Journal(path, keep_s=1).close()


@pytest.mark.parametrize("target", ["journal.db", "log.txt"])
def test_path_that_cannot_be_created_gives_an_error(tmp_path: Path, target: str) -> None:
    with pytest.raises(JournalError, match="cannot be created"):
        Journal(tmp_path / "missing" / target, keep_s=1)


def test_database_of_another_program_is_not_touched(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE events(mine)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match="another program's database"):
        Journal(path, keep_s=1)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["header", "middle", "truncated", "not a database"])
def test_damaged_journal_is_set_aside_and_a_new_epoch_begins(path: Path, damage: str) -> None:
    with Journal(path, keep_s=3600) as old:
        for _ in range(20):
            old.append([record(size=500) for _ in range(50)], {})
        epoch = old.epoch
    data = bytearray(path.read_bytes())
    if damage == "header":
        data[0:16] = os.urandom(16)
    elif damage == "middle":
        for at in range(4096, len(data), 4096):
            data[at : at + 8] = b"\xff" * 8
    elif damage == "truncated":
        data = data[: len(data) // 2]
    else:
        data = bytearray(b"these are not the pages you are looking for\n" * 500)
    path.write_bytes(data)
    with Journal(path, keep_s=3600) as new:
        assert new.epoch != epoch
        assert new.append([record()], {})[0].offset == 1
    assert [p.read_bytes() for p in path.parent.glob("journal.db.damaged-*") if not p.name.endswith(("wal", "shm"))]


def test_damaged_event_is_reported_and_not_returned(path: Path) -> None:
    with Journal(path, keep_s=3600) as journal:
        journal.append([record(size=100), record(size=100), record(size=100)], {})
    data = path.read_bytes()
    at = data.rindex(b'"offset":2')
    path.write_bytes(data[:at] + b'"offset":9' + data[at + 10 :])
    Journal(path, keep_s=3600).close()
    assert [(offset, body is None) for offset, body in stored(path)] == [(1, False), (2, True), (3, False)]


def test_offsets_of_a_truncated_write_ahead_log_are_not_reused(path: Path, tmp_path: Path) -> None:
    journal = Journal(path, keep_s=3600)
    journal.append([record()], {})
    wal = Path(f"{path}-wal")
    size = wal.stat().st_size
    journal.append([record(), record()], {})
    copies = {name: (tmp_path / name).read_bytes() for name in (path.name, wal.name, f"{path.name}.lock")}
    epoch = journal.epoch
    journal.close()
    for name, data in copies.items():
        (tmp_path / name).write_bytes(data[:size] if name == wal.name else data)
    with Journal(path, keep_s=3600) as again:
        assert (again.epoch, again.head) == (epoch, 3)
        assert again.append([record()], {})[0].offset == 4
    reader = JournalReader(path)
    assert reader.gone(0, 10) == [(2, 3)]
    assert reader.gone(2, 10) == [(3, 3)]
    reader.close()


def test_events_are_published_on_a_full_disk_and_kept_again_later(journal: Journal, path: Path) -> None:
    journal.append([record(size=100)], {PRODUCER: 1})
    fill_disk(journal)
    entries: list[Entry] = []
    for _ in range(5):
        entries += journal.append([record(size=30_000)], {PRODUCER: 2})
    assert [entry.offset for entry in entries] == [None] * 5
    assert orjson.loads(entries[0].body)["previous"] == 1
    assert (journal.durable, journal.not_durable, journal.head) == (False, 5, 1)
    free_disk(journal)
    end = time.monotonic() + 60
    while not journal.durable:
        assert time.monotonic() < end
        (entry,) = journal.append([record()], {PRODUCER: 3})
        time.sleep(0.05)
    assert entry.offset == 2
    assert [offset for offset, _ in stored(path)] == [1, 2]


def test_reader_follows_a_file_that_the_writer_replaced(path: Path) -> None:
    with Journal(path, keep_s=3600) as journal:
        journal.append([record()], {})
        reader = JournalReader(path)
        journal._db.close()
        set_aside(path, "test")
        journal._db = journal._open()
        with reader.consistent_view():
            assert reader.bounds() == (journal.epoch, 1, 0)
        reader.close()


def test_path_that_is_a_directory_gives_an_error_with_a_remedy(path: Path) -> None:
    path.mkdir()
    with pytest.raises(JournalError, match="writable local disk"):
        Journal(path, keep_s=1)


def test_retention_by_age_removes_events_in_small_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    with Journal(path, keep_s=130) as journal:
        for _ in range(3):
            journal.append([record() for _ in range(RETENTION_STEP)], {})
            now += 60 * 10**9
        assert journal.retain() == RETENTION_STEP
        assert journal.retain() == 0
        assert journal.oldest == RETENTION_STEP + 1


def test_clock_set_back_neither_stops_nor_empties_the_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    with Journal(path, keep_s=100) as journal:
        journal.append([record()], {})
        now -= 3600 * 10**9
        journal.append([record()], {})
        assert journal.retain() == 0
        now += 110 * 10**9
        assert journal.retain() == 2  # an event before an expired one counts as expired
        assert journal.append([record()], {})[0].offset == 3


def test_events_younger_than_the_retention_stay_after_a_clock_was_set_back_for_a_while(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    with Journal(path, keep_s=100) as journal:
        journal.append([record() for _ in range(10)], {})
        now -= 3600 * 10**9
        journal.append([record() for _ in range(10)], {})
        now += 3605 * 10**9
        assert journal.retain() == 0
        journal.append([record() for _ in range(10)], {})
        now += 97 * 10**9  # the first ten are too old now; the next ten have a wrong time and may be younger
        assert journal.retain() == 10
    with Journal(path, keep_s=100) as journal:
        assert journal.retain() == 0
        now += 10 * 10**9
        assert journal.retain() == 20


def test_events_with_a_time_in_the_future_do_not_stop_retention(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns() + 10**9 * 86400 * 365 * 70
    monkeypatch.setattr(time, "time_ns", lambda: now)
    with Journal(path, keep_s=100) as journal:
        journal.append([record() for _ in range(3 * RETENTION_STEP)], {})
        now -= 10**9 * 86400 * 365 * 70
        journal.append([record() for _ in range(10)], {})
        now += 110 * 10**9
        journal.append([record()], {})
        removed = sum(journal.retain() for _ in range(10))
        assert removed == 3 * RETENTION_STEP + 10


def test_retention_by_size_keeps_the_newest(path: Path) -> None:
    with Journal(path, keep_s=3600, keep_bytes=500_000) as journal:
        for _ in range(30):
            journal.append([record(size=200) for _ in range(200)], {})
        while journal.retain():
            pass
        assert journal._retention._used_bytes() <= 500_000
        assert 1 < journal.oldest < journal.head


operations = st.lists(
    st.one_of(
        st.lists(st.sampled_from("abc"), min_size=1, max_size=5),
        st.sampled_from(["retain", "reopen", "full", "free"]),
    ),
    max_size=25,
)


@settings(max_examples=25)
@given(operations)
def test_no_offset_is_assigned_twice_and_every_previous_is_right(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[str] | str]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j.db"
    journal = Journal(path, keep_s=0.0)
    offset, last = 0, dict[str, int]()
    for step in steps:
        journal._retry_at = 0.0
        if step == "retain":
            journal.retain()
        elif step == "reopen":
            journal.close()
            journal = Journal(path, keep_s=0.0)
        elif step == "full":
            fill_disk(journal)
        elif step == "free":
            free_disk(journal)
        else:
            for entry, stream in zip(journal.append([record(s, size=3000) for s in step], {}), step, strict=True):
                body = orjson.loads(entry.body)
                assert body["previous"] == last.get(stream, 0)
                if entry.offset is not None:
                    assert entry.offset == offset + 1
                    offset = last[stream] = entry.offset
    journal.close()


def snapshot(path: Path, streams: tuple[str, ...] = ()) -> list[str]:
    reader = JournalReader(path)
    try:
        with reader.consistent_view():
            return [orjson.loads(body)["pad"] for body in reader.snapshot(100, streams)]
    finally:
        reader.close()


def test_snapshot_has_the_last_event_of_each_view(path: Path) -> None:
    with Journal(path, keep_s=3600) as journal:
        journal.append([record("yard", name="yard"), record(name="before"), record(kind="status", name="status")], {})
        gate, hands = ViewKey("gate", None), ViewKey("gate", "hands")
        journal.append([record(view=gate, name="old gate"), record(view=hands, name="hands")], {})
        journal.append([record(view=gate, name="gate")], {})
        assert snapshot(path) == ["yard", "before", "status", "hands", "gate"]
    with Journal(path, keep_s=3600) as journal:  # it continues to know which streams have views
        journal.append([record(name="whole")], {})
    assert snapshot(path) == ["yard", "status", "hands", "gate", "whole"]
    assert snapshot(path, ("yard",)) == ["yard"]


def test_journal_of_an_earlier_version_is_continued(path: Path) -> None:
    with Journal(path, keep_s=3600) as journal:
        journal.append([record(name="old")], {})
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE last_in_views")
    with Journal(path, keep_s=3600) as journal:
        journal.append([record(view=ViewKey("gate"), name="gate")], {})
        assert (journal.epoch != "", journal.head) == (True, 2)
    assert snapshot(path) == ["old", "gate"]


def test_retention_forgets_views_without_events(path: Path) -> None:
    with Journal(path, keep_s=3600) as journal:
        journal.append([record(view=ViewKey(f"r{number}")) for number in range(20)], {})
        journal.keep_s = 0
        while journal.retain():
            pass
        assert journal._db.execute("SELECT count(*) FROM last_in_views").fetchone() == (0,)
