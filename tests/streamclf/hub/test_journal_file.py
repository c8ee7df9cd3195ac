"""Test that one service writes a journal, and that the hub notices when somebody else changes its files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import zmq
from support.hub_process import HubProcess, ask, prediction, wait_until

from streamclf.client.subscription import subscribe
from streamclf.errors import JournalError
from streamclf.events.types import Heartbeat, Prediction
from streamclf.hub.journal import Entry, Journal, Record
from streamclf.hub.journal_reader import JournalReader
from streamclf.producer.link import EventProducer

pytestmark = pytest.mark.flaky(reruns=0)  # a failure here, even one in a hundred runs, is a lost event


def record(size: int = 100) -> Record:
    def body(offset: int | None, previous: int) -> bytes:
        return orjson.dumps({"offset": offset, "previous": previous, "pad": "x" * size})

    return Record("door", "prediction", body)


def stored(path: Path) -> list[int]:
    reader = JournalReader(path)
    try:
        with reader.consistent_view():
            return [offset for offset, body in reader.page(0, 2**60, 100_000) if body is not None]
    finally:
        reader.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def remove_all(path: Path) -> None:
    for part in path.parent.glob(f"{path.name}*"):
        part.unlink()


def put_another_in_place(path: Path) -> None:
    other = path.with_name("other.db")
    with Journal(other, keep_s=3600) as journal:
        journal.append([record(), record()], {})
    other.replace(path)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(60_000))


CHANGES: dict[str, Callable[[Path], object]] = {
    "all removed": remove_all,
    "removed": lambda path: path.unlink(),
    "renamed": lambda path: path.rename(path.with_name("old.db")),
    "replaced by garbage": lambda path: (path.unlink(), path.write_bytes(b"garbage" * 1000)),
    "replaced by another journal": put_another_in_place,
    "truncated": lambda path: os.truncate(path, 0),
    "truncated to half": lambda path: os.truncate(path, path.stat().st_size // 8192 * 4096),
    "overwritten in place": overwrite,
    "write-ahead log removed": lambda path: Path(f"{path}-wal").unlink(),
    "write-ahead log truncated": lambda path: os.truncate(f"{path}-wal", 0),
    "index truncated": lambda path: os.truncate(f"{path}-shm", 0),
    "index removed": lambda path: Path(f"{path}-shm").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_journal_is_noticed_and_no_published_offset_is_used_again(path: Path, change: str) -> None:
    with Journal(path, keep_s=3600) as journal:
        published: list[tuple[str, int | None]] = []

        def publish(entries: list[Entry]) -> None:
            published.extend((journal.epoch, entry.offset) for entry in entries)

        for _ in range(20):  # more than one automatic checkpoint
            publish(journal.append([record(size=60_000) for _ in range(5)], {b"p" * 16: 7}))
        CHANGES[change](path)
        journal.check()
        for _ in range(3):
            publish(journal.append([record()], {}))
        assert None not in [offset for _, offset in published]
        assert len(set(published)) == len(published)
        now = [offset for epoch, offset in published if epoch == journal.epoch]
        assert set(now[-3:]) <= set(stored(path)), "the last events cannot be replayed"
        head = journal.head
    with Journal(path, keep_s=3600) as again:
        assert again.head == head
        assert again.append([record()], {})[0].offset == head + 1


def test_events_are_not_durable_while_no_journal_can_be_opened(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Journal(path, keep_s=3600) as journal:
        journal.append([record()], {b"p" * 16: 7})
        path.unlink()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE events(mine)")
        other.close()
        before = path.read_bytes()
        (entry,) = journal.append([record()], {})
        assert (entry.offset, orjson.loads(entry.body)["offset"]) == (None, None)
        assert (journal.durable, journal.not_durable) == (False, 1)
        assert (journal.sequence_of(b"p" * 16), journal.retain()) == (0, 0)
        assert "journal.db was replaced" in caplog.text
        assert "another program's database" in caplog.text
        assert path.read_bytes() == before
        path.unlink()
        journal._retry_at = 0.0
        assert journal.append([record()], {})[0].offset == 1
        assert (journal.durable, stored(path)) == (True, [1])


def test_events_committed_to_a_file_that_is_removed_meanwhile_are_not_durable(path: Path) -> None:
    with Journal(path, keep_s=3600) as journal:
        journal.append([record()], {})

        def remove(offset: int | None, previous: int) -> bytes:
            path.unlink(missing_ok=True)
            return orjson.dumps({"offset": offset})

        (entry,) = journal.append([Record("door", "prediction", remove)], {})
        assert (entry.offset, orjson.loads(entry.body)) == (None, {"offset": None})
        assert journal.not_durable == 1


def test_changes_of_the_journal_itself_are_no_change(path: Path) -> None:
    with Journal(path, keep_s=0.0) as journal:
        epoch, reader = journal.epoch, JournalReader(path)
        for _ in range(30):
            journal.append([record(size=60_000) for _ in range(5)], {})
            assert journal._files.changed() is None
            with reader.consistent_view():
                reader.bounds()
            journal.retain()
            assert journal._files.changed() is None
        reader.close()
        assert (journal.epoch, journal._files.changed()) == (epoch, None)


@pytest.mark.parametrize("link", ["symbolic", "hard", "directory"])
@pytest.mark.skipif(sys.platform != "linux", reason="the file itself is locked on Linux")
def test_second_service_is_refused_under_another_name_of_the_file(tmp_path: Path, path: Path, link: str) -> None:
    with Journal(path, keep_s=3600) as first:
        first.append([record()], {})
        other = tmp_path / "other" / "journal.db"
        if link == "directory":
            other.parent.symlink_to(tmp_path)
        else:
            other.parent.mkdir()
        if link == "symbolic":
            other.symlink_to(path)
        elif link == "hard":
            other.hardlink_to(path)
        with pytest.raises(JournalError, match="another service writes it; stop that service, or give this one"):
            Journal(other, keep_s=1)
        assert first.append([record()], {})[0].offset == 2
        assert not list(tmp_path.rglob("*.damaged-*"))


def test_journal_behind_a_symbolic_link_stays_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "journal.db"
    link.symlink_to(tmp_path / "disk" / "journal.db")
    with Journal(link, keep_s=3600) as journal:
        journal.append([record()], {})
        assert stored(link) == [1]
    assert link.is_symlink()
    (tmp_path / "disk" / "journal.db").write_bytes(b"garbage" * 1000)
    with Journal(link, keep_s=3600) as journal:
        assert journal.append([record()], {})[0].offset == 1
    assert link.is_symlink()
    assert list((tmp_path / "disk").glob("journal.db.damaged-*"))


@pytest.mark.parametrize("kind", ["fifo", "loop"])
def test_path_that_is_no_file_is_refused_in_one_line(path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    with pytest.raises(JournalError) as caught:
        Journal(path, keep_s=1)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_of_another_program_are_no_damage(path: Path) -> None:
    with Journal(path, keep_s=3600) as journal:
        journal.append([record()], {})
        with sqlite3.connect(path) as other:
            other.execute("INSERT INTO events VALUES(2, 'x', 'status', 1, 0, x'00')")
        other.close()
        entries = journal.append([record()], {}) + journal.append([record()], {})
        assert [entry.offset for entry in entries] == [3, 4]
        assert not list(path.parent.glob("*.damaged-*"))


@pytest.mark.parametrize("change", ["all removed", "replaced by garbage", "renamed"])
def test_hub_begins_a_new_journal_and_says_so(change: str) -> None:
    with (
        zmq.Context() as context,
        HubProcess() as hub,
        EventProducer(hub.link, "test") as link,
        subscribe(hub.events) as events,
    ):

        def wait_for_prediction() -> Prediction:
            for _ in range(100):
                if isinstance(event := events.receive(5.0), Prediction):
                    return event
            raise AssertionError("no prediction")

        assert isinstance(events.receive(60.0), Heartbeat), "the subscription has begun"
        link.post(prediction())
        first = wait_for_prediction()
        CHANGES[change](hub.journal)
        beat = events.receive(5.0)  # without an event
        while not (isinstance(beat, Heartbeat) and beat.epoch != first.epoch):
            beat = events.receive(5.0)
            assert beat is not None, "no heartbeat reports another journal"
        link.post(prediction(number=1))
        second = wait_for_prediction()
        assert (second.durable, second.offset, second.epoch) == (True, 1, beat.epoch)
        header, body = ask(context, hub.replay, b'{"v":1,"request":"replay"}')
        assert (orjson.loads(header)["epoch"], orjson.loads(body)["offset"]) == (second.epoch, 1)
        wait_until(lambda: link.unacknowledged == 0, "confirmation")


def test_directory_that_is_removed_and_comes_back() -> None:
    with HubProcess() as hub, EventProducer(hub.link, "test") as link, subscribe(hub.events) as events:
        folder = hub.directory / "disk"
        folder.mkdir()
        hub.stop()
        hub.job = hub.job.model_copy(update={"journal": folder / "journal.db"})
        hub.start()
        shutil.rmtree(folder)
        number, is_back, durable = 0, False, [True]
        end = time.monotonic() + 30
        while not (is_back and durable[-1]):
            assert time.monotonic() < end, durable
            link.post(prediction(number=number))
            number += 1
            event = events.receive(5.0)
            if not isinstance(event, Prediction):
                continue  # the first prediction is lost if the hub publishes it before the subscription arrives
            durable.append(event.durable)
            if not event.durable and not is_back:
                folder.mkdir()
                is_back = True
        assert durable.count(False) >= 1


FIRST_TABLES = """
PRAGMA application_id=1935895654;
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE events(
    offset INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, type TEXT NOT NULL,
    time_ns INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE last(
    stream TEXT NOT NULL, type TEXT NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY(stream, type)) WITHOUT ROWID;
CREATE TABLE producers(
    instance BLOB PRIMARY KEY, seq INTEGER NOT NULL, seen_ns INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES('epoch', 'abababababababababababababababab'), ('format', 1);
INSERT INTO last VALUES('door', 'status', 7);
"""
"""The tables of the first version, before `notes` and `gone`, and without `auto_vacuum`."""


def test_a_journal_of_the_first_version_is_opened_and_continued(path: Path) -> None:
    body = b'{"offset": 7}'
    db = sqlite3.connect(path)
    db.executescript(FIRST_TABLES)
    db.execute("INSERT INTO events VALUES(7, 'door', 'status', ?, ?, ?)", (time.time_ns(), zlib.crc32(body), body))
    db.commit()
    db.close()
    with Journal(path, keep_s=3600) as journal:
        assert (journal.epoch, journal.head) == ("ab" * 16, 7)
        assert [entry.offset for entry in journal.append([record()], {}, {"door": b"note"})] == [8]
    assert stored(path) == [7, 8]


def test_a_journal_of_a_newer_version_is_refused_and_left_as_it_was(path: Path) -> None:
    Journal(path, keep_s=3600).close()
    db = sqlite3.connect(path)
    db.executescript("UPDATE meta SET value=2 WHERE key='format'; DROP TABLE gone; ALTER TABLE notes RENAME TO memos;")
    db.close()
    before = path.read_bytes()
    with pytest.raises(JournalError) as caught:
        Journal(path, keep_s=3600)
    assert str(caught.value) == (
        f"journal {path}: format 2, and this version of streamclf reads formats up to 1; "
        "install the version that wrote it, or give another path"
    )
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*damaged*"))
