"""Each file of `streamclf log` knows how far it has come, whatever a crash left of it, and old ones go in order."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.errors import JournalError, UsageError
from streamclf.events.positions import Position
from streamclf.events.types import Action, Lost, Prediction, Status, StreamEvent, Window
from streamclf.subscribers.log import parquet
from streamclf.subscribers.log.line_formats import COLUMNS, Csv, Jsonl
from streamclf.subscribers.log.parquet import ParquetSink
from streamclf.subscribers.log.rotation import Rotation, completed, parse_rotation
from streamclf.subscribers.log.sinks import Sink, open_sink
from streamclf.subscribers.log.text import TextSink

EPOCH = "cd" * 16
NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
TEXT_FORMS = [(".jsonl", Jsonl()), (".csv", Csv())]


def status(offset: int | None, reason: str | None = None, time: datetime = NOON) -> Status:
    return Status(stream="door", epoch=EPOCH, offset=offset, previous=0, time=time, state="live", reason=reason)


def write(sink: Sink, items: Sequence[StreamEvent | Lost]) -> None:
    last = items[-1]
    offset = last.last if isinstance(last, Lost) else last.offset
    sink.write(items, None if offset is None else Position(EPOCH, offset))


def reopened(sink: Sink, path: Path, rotation: Rotation | None = None) -> Sink:
    sink.close()
    return open_sink(path, rotation)


def line(offset: int | None) -> str:
    return json.dumps({"type": "status", "epoch": EPOCH, "offset": offset})


@pytest.mark.parametrize(
    ("content", "position", "kept"),
    [
        ("", None, ""),
        (f"{line(7)}\n", 7, f"{line(7)}\n"),
        (f"{line(7)}\n{line(8)[:20]}", 7, f"{line(7)}\n"),
        (line(7)[:20], None, ""),
        (f"{line(7)}\n{line(None)}\n", 7, f"{line(7)}\n{line(None)}\n"),
        (f"{line(7)}\n" + f"{line(None)}\n" * 40_000, 7, f"{line(7)}\n" + f"{line(None)}\n" * 40_000),
    ],
    ids=["empty", "whole", "half a line", "only half a line", "not durable", "very many not durable"],
)
def test_a_half_written_line_is_cut_off(tmp_path: Path, content: str, position: int | None, kept: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(content)
    sink = open_sink(path)
    try:
        assert sink.position() == (None if position is None else Position(EPOCH, position))
        assert path.read_text() == kept
        with pytest.raises(JournalError, match="another process writes it"):
            open_sink(path)
    finally:
        sink.close()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_wherever_a_write_is_cut_the_rest_is_written_once(tmp_path: Path, suffix: str) -> None:
    """`kill -9` or a power failure can leave any beginning of what was written."""
    path = tmp_path / f"events{suffix}"
    sink = open_sink(path)
    items: list[StreamEvent | Lost] = [status(1), Lost(epoch=EPOCH, first=2, last=4), status(5, 'a "b", c'), status(6)]
    write(sink, items)
    sink.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        sink = open_sink(path)
        position = sink.position()
        after = 0 if position is None else position.offset
        again = [each for each in items if (each.last if isinstance(each, Lost) else each.offset or 0) > after]
        write(sink, again)
        sink.close()
        assert path.read_bytes() == whole, f"cut at {cut}"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_the_end_of_lost_events_is_a_position_too(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"events{suffix}"
    sink = open_sink(path)
    write(sink, [Lost(epoch=EPOCH, first=3, last=9)])
    sink = reopened(sink, path)
    assert sink.position() == Position(EPOCH, 9)
    sink.write([status(9), status(10)], Position(EPOCH, 10))  # the one comes twice, as replay does at times
    sink = reopened(sink, path)
    assert sink.position() == Position(EPOCH, 10)
    assert sink.write([status(10)], Position(EPOCH, 10)) == 0
    sink.close()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_files_change_by_size_and_only_the_newest_stay(tmp_path: Path, suffix: str) -> None:
    path, rotation = tmp_path / f"events{suffix}", Rotation(max_bytes=2000, keep=3)
    sink = open_sink(path, rotation)
    for offset in range(1, 301):
        write(sink, [status(offset)])
        if offset % 50 == 0:
            sink = reopened(sink, path, rotation)
            assert sink.position() == Position(EPOCH, offset)
    sink.close()
    files = completed(path)
    assert len(files) == 3
    assert int(files[0].suffixes[0][1:]) > 1
    assert all(0 < each.stat().st_size <= 2000 for each in [*files, path])
    text = "".join(each.read_text().removeprefix(",".join(COLUMNS) + "\n") for each in [*files, path])
    offsets = [Csv()._row(row.encode())["offset"] if suffix == ".csv" else json.loads(row)["offset"]
               for row in text.splitlines()]  # fmt: skip
    assert [int(offset) for offset in offsets] == list(range(301 - len(offsets), 301))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_files_change_by_age_which_a_restart_does_not_reset(tmp_path: Path, suffix: str) -> None:
    path, rotation = tmp_path / f"events{suffix}", Rotation(max_age_s=3600)
    now = datetime.now(timezone.utc)
    sink = open_sink(path, rotation)
    write(sink, [status(1, time=now - timedelta(hours=2))])
    write(sink, [status(2, time=now)])
    assert completed(path) == []
    sink = reopened(sink, path, rotation)
    write(sink, [status(3, time=now)])
    sink.close()
    assert [each.name for each in completed(path)] == [f"events.000001{suffix}"]


@pytest.mark.parametrize(("suffix", "form"), TEXT_FORMS)
def test_a_crash_between_two_files_forgets_nothing(tmp_path: Path, suffix: str, form: Jsonl | Csv) -> None:
    """After the rename there is no file of the log's name; after that, an empty one."""
    path = tmp_path / f"events{suffix}"
    sink = TextSink(path, form)
    write(sink, [status(1), status(2), status(None)])
    sink.write([status(None)], None)
    sink.close()
    path.rename(tmp_path / f"events.000007{suffix}")
    sink = TextSink(path, form, Rotation(max_bytes=1000))
    assert sink.position() == Position(EPOCH, 2)
    for offset in range(3, 30):
        write(sink, [status(offset)])
    sink.close()
    assert [each.name for each in completed(path)][:2] == [f"events.000007{suffix}", f"events.000008{suffix}"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_full_disk_leaves_no_half_and_loses_nothing(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"events{suffix}"
    sink = open_sink(path)
    write(sink, [status(1)])
    before, os_write = path.read_bytes(), os.write

    def full(fd: int, data: memoryview) -> int:
        if os.fstat(fd).st_size < len(before) + 20:
            return os_write(fd, data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("streamclf.subscribers.log.text.os.write", full)
        with pytest.raises(JournalError, match="nothing is lost: free space"):
            write(sink, [status(2)])
    assert path.read_bytes() == before
    sink = reopened(sink, path)
    assert sink.position() == Position(EPOCH, 1)
    sink.close()


@given(st.text(max_size=200), st.text(min_size=1, max_size=128))
def test_any_text_is_one_row_of_csv_and_comes_back(reason: str, label: str) -> None:
    form = Csv()
    window = Window(start_s=1.5, end_s=4, frames=8)
    events: list[StreamEvent] = [
        status(7, reason),
        Prediction(stream="door", epoch=EPOCH, offset=8, previous=7, time=NOON, window=window,
                   top=((label, 0.25),), model="m"),
        Action(stream="door", epoch=EPOCH, offset=9, previous=8, time=NOON, label=label, phase="end",
               started_s=1.0, at_s=2.0, probability=0.5, peak=0.75, reason=reason),
    ]  # fmt: skip
    for event in events:
        text = form.line(event)
        assert text.count(b"\n") == 1
        (row,) = csv.DictReader(io.StringIO(text.decode()), COLUMNS)
        assert (row["offset"], row["time"]) == (str(event.offset), "2026-01-31T12:00:00.000000Z")
        assert form.position(text[:-1]) == Position(EPOCH, event.offset or 0)
        assert form.time_s(text[:-1]) == NOON.timestamp()
        if reason.isprintable() and "reason" in dir(event):
            assert row["reason"] == getattr(event, "reason", None)
        if label.isprintable() and not isinstance(event, Status):
            assert row["label"] == label


@given(st.binary(max_size=300))
def test_any_line_is_a_position_or_refused(data: bytes) -> None:
    for _, form in TEXT_FORMS:
        try:
            position = form.position(data.replace(b"\n", b""))
        except ValueError:
            continue
        assert position is None or isinstance(position, Position)


@pytest.mark.parametrize(
    ("limits", "keep", "expected"),
    [
        ([], None, Rotation()),
        (["100MB"], None, Rotation(max_bytes=100_000_000)),
        (["1d", "1.5KiB"], 4, Rotation(max_bytes=1536, max_age_s=86400, keep=4)),
    ],
)
def test_rotation_is_a_size_an_age_or_both(limits: list[str], keep: int | None, expected: Rotation) -> None:
    assert parse_rotation(limits, keep) == expected


@pytest.mark.parametrize(
    ("limits", "keep", "message"),
    [
        (["100"], None, "rotate=100: one size like 100MB"),
        (["1KB", "2KB"], None, "rotate=2KB: one size"),
        (["1d", "2d"], None, "rotate=2d: one size"),
        (["1.0001KiBs"], None, "one size"),
        (["0KB"], None, "rotate=0KB: at least 1KB"),
        (["0s"], None, "rotate=0s: at least 1s"),
        (["99999999999GB"], None, "at most 10000GB"),
        ([], 3, "keep=3: only together with --rotate"),
        (["1d"], 0, "keep=0: at least 1"),
    ],
)
def test_a_rotation_that_cannot_be_is_refused(limits: list[str], keep: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_rotation(limits, keep)


def test_a_table_stays_one_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="SQLite stays one file"):
        open_sink(tmp_path / "events.db", Rotation(max_bytes=10_000))


class TestParquet:
    """Files are complete or not there."""

    @pytest.fixture(autouse=True)
    def needs_pyarrow(self) -> None:
        pytest.importorskip("pyarrow")

    @staticmethod
    def rows(path: Path) -> list[dict[str, object]]:
        from pyarrow import dataset

        rows: list[dict[str, object]] = dataset.dataset(path, partitioning="hive").to_table().to_pylist()
        return sorted(rows, key=lambda row: (row["offset"] is None, row["offset"]))

    def test_all_is_there_typed_and_by_date(self, tmp_path: Path) -> None:
        path = tmp_path / "events.parquet"
        sink = open_sink(path)
        window = Window(start_s=0, end_s=1, frames=8)
        write(sink, [
            Prediction(stream="door", epoch=EPOCH, offset=1, previous=0, time=NOON, window=window,
                       top=(("wave", 0.75),), model="m"),
            status(2, time=NOON + timedelta(days=1)), status(3, time=NOON), status(None), status(5),
        ])  # fmt: skip
        assert list(path.glob("date=*")) == []  # nothing is complete yet
        sink.close()
        found = sorted(str(each.relative_to(path)) for each in path.glob("date=*/*"))
        assert found == [
            "date=2026-01-31/part-000000001.parquet",
            "date=2026-01-31/part-000000003.parquet",
            "date=2026-02-01/part-000000002.parquet",
        ]
        rows = self.rows(path)
        assert [row["offset"] for row in rows] == [1, 2, 3, 5, None]
        first = rows[0]
        assert (first["time"], first["stream"], first["label"], first["probability"]) == (NOON, "door", "wave", 0.75)
        assert json.loads(str(first["body"]))["window"]["frames"] == 8

    def test_what_waits_at_a_kill_is_asked_for_again(self, tmp_path: Path) -> None:
        path = tmp_path / "events.parquet"
        sink = ParquetSink(path, Rotation(max_bytes=2000))
        for offset in range(1, 15):
            write(sink, [status(offset)])
        stored = sink.position()
        assert stored is not None
        assert 0 < stored.offset < 14
        os.close(sink._lock_fd)  # all that is left of a killed process
        again = ParquetSink(path)
        assert again.position() == stored
        write(again, [status(offset) for offset in range(stored.offset + 1, 15)])
        again.close()
        assert [row["offset"] for row in self.rows(path)] == list(range(1, 15))

    def test_a_file_that_a_crash_left_unfinished_is_removed(self, tmp_path: Path) -> None:
        path = tmp_path / "events.parquet"
        sink = open_sink(path)
        write(sink, [status(1)])
        sink.close()
        (left,) = [each.with_name("part-000000002.parquet.new") for each in path.glob("date=*/*.parquet")]
        left.write_bytes(b"PAR1 half")
        sink = open_sink(path)
        assert sink.position() == Position(EPOCH, 1)
        assert not left.exists()
        with pytest.raises(JournalError, match="another process writes it"):
            open_sink(path)
        sink.close()

    def test_old_enough_is_complete_also_while_nothing_comes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sink = open_sink(tmp_path / "events.parquet", Rotation(max_age_s=60, keep=2))
        for offset in range(1, 5):
            write(sink, [status(offset)])
            sink.tend()
            assert sink.position() == (None if offset == 1 else Position(EPOCH, offset - 1))
            later = parquet.time.monotonic() + 61
            with monkeypatch.context() as patch:
                patch.setattr(parquet.time, "monotonic", lambda later=later: later)
                sink.tend()
            assert sink.position() == Position(EPOCH, offset)
        sink.close()
        assert [row["offset"] for row in self.rows(tmp_path / "events.parquet")] == [3, 4]

    def test_a_full_disk_is_said_and_what_waits_is_written_in_order_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "events.parquet"
        sink = ParquetSink(path, Rotation(max_bytes=2000))

        def full(fd: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(parquet.os, "fsync", full)
            with pytest.raises(JournalError, match=r"No space left.*nothing is lost"):
                write(sink, [status(offset) for offset in range(1, 11)])
        assert list(path.glob("date=*/*")) == []
        assert sink.position() is None
        sink.close()
        assert [row["offset"] for row in self.rows(path)] == list(range(1, 11))

    def test_memory_has_a_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parquet, "MAX_WAITING", 10)
        sink = ParquetSink(tmp_path / "events.parquet")
        write(sink, [status(offset) for offset in range(1, 11)])
        assert sink._waiting == []
        assert sink.position() == Position(EPOCH, 10)
        sink.close()
        with pytest.raises(UsageError, match="at most 64MiB"):
            ParquetSink(tmp_path / "other.parquet", Rotation(max_bytes=10**9))

    def test_somebody_elses_directory_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "sales.parquet"
        path.mkdir()
        (path / "0.parquet").write_bytes(b"PAR1")
        with pytest.raises(JournalError, match=r"holds 0\.parquet, which is not ours"):
            open_sink(path)
        assert [each.name for each in path.iterdir()] == ["0.parquet"]
        import pyarrow as pa
        import pyarrow.parquet as pq

        other = tmp_path / "other.parquet" / "date=2026-01-01"
        other.mkdir(parents=True)
        pq.write_table(pa.table({"a": [1]}), other / "part-000000001.parquet")
        with pytest.raises(JournalError, match="not a file of ours"):
            open_sink(other.parent)


def test_without_pyarrow_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"pip install 'streamclf\[parquet\]'"):
        open_sink(tmp_path / "events.parquet")
    assert list(tmp_path.iterdir()) == []
