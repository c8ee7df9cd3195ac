"""A JSON lines log resumes behind its last event, whatever a crash, a full disk or a rotation left of its files."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.config.log_file import Rotation
from streamclf.errors import JournalError
from streamclf.events.positions import Position
from streamclf.events.types import Lost, Status, StreamEvent
from streamclf.subscribers.log.jsonl import JsonlSink, line_of, position_of
from streamclf.subscribers.log.rotation import complete_files

EPOCH = "cd" * 16
NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


def status(offset: int | None, reason: str | None = None, time: datetime = NOON) -> Status:
    return Status(stream="door", epoch=EPOCH, offset=offset, previous=0, time=time, state="live", reason=reason)


def write(sink: JsonlSink, items: Sequence[StreamEvent | Lost]) -> None:
    last = items[-1]
    offset = last.last if isinstance(last, Lost) else last.offset
    sink.write(items, None if offset is None else Position(EPOCH, offset))


def reopen(sink: JsonlSink, path: Path, rotation: Rotation | None = None) -> JsonlSink:
    sink.close()
    return JsonlSink(path, rotation)


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
def test_opening_cuts_off_a_half_written_line(tmp_path: Path, content: str, position: int | None, kept: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(content)
    sink = JsonlSink(path)
    try:
        assert sink.position() == (None if position is None else Position(EPOCH, position))
        assert path.read_text() == kept
        with pytest.raises(JournalError, match="another process writes it"):
            JsonlSink(path)
    finally:
        sink.close()


def test_wherever_a_write_is_cut_off_each_event_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` or a power failure can leave any beginning of what was written."""
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path)
    items: list[StreamEvent | Lost] = [status(1), Lost(epoch=EPOCH, first=2, last=4), status(5, 'a "b", c'), status(6)]
    write(sink, items)
    sink.close()
    whole = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # the disk would need most of the time for some 600 files
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        sink = JsonlSink(path)
        position = sink.position()
        after = 0 if position is None else position.offset
        again = [each for each in items if (each.last if isinstance(each, Lost) else each.offset or 0) > after]
        write(sink, again)
        sink.close()
        assert path.read_bytes() == whole, f"cut at {cut}"


def test_the_end_of_a_lost_range_is_a_position_and_repeated_events_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path)
    write(sink, [Lost(epoch=EPOCH, first=3, last=9)])
    sink = reopen(sink, path)
    assert sink.position() == Position(EPOCH, 9)
    sink.write([status(9), status(10)], Position(EPOCH, 10))  # a replay may repeat an event
    sink = reopen(sink, path)
    assert sink.position() == Position(EPOCH, 10)
    sink.write([status(10)], Position(EPOCH, 10))
    sink.close()
    assert [json.loads(each).get("offset", "lost") for each in path.read_text().splitlines()] == ["lost", 10]


def test_rotation_by_size_keeps_only_the_newest_files(tmp_path: Path) -> None:
    path, rotation = tmp_path / "events.jsonl", Rotation(max_bytes=2000, keep=3)
    sink = JsonlSink(path, rotation)
    for offset in range(1, 301):
        write(sink, [status(offset)])
        if offset % 50 == 0:
            sink = reopen(sink, path, rotation)
            assert sink.position() == Position(EPOCH, offset)
    sink.close()
    files = complete_files(path)
    assert len(files) == 3
    assert int(files[0].suffixes[0][1:]) > 1
    assert all(0 < each.stat().st_size <= 2000 for each in [*files, path])
    offsets = [json.loads(row)["offset"] for each in [*files, path] for row in each.read_text().splitlines()]
    assert offsets == list(range(301 - len(offsets), 301))


def test_a_restart_does_not_reset_the_age_of_a_file(tmp_path: Path) -> None:
    path, rotation = tmp_path / "events.jsonl", Rotation(max_age_s=3600)
    now = datetime.now(timezone.utc)
    sink = JsonlSink(path, rotation)
    write(sink, [status(1, time=now - timedelta(hours=2))])
    write(sink, [status(2, time=now)])
    assert complete_files(path) == []
    sink = reopen(sink, path, rotation)
    write(sink, [status(3, time=now)])
    sink.close()
    assert [each.name for each in complete_files(path)] == ["events.000001.jsonl"]


def test_a_crash_between_two_files_loses_no_position(tmp_path: Path) -> None:
    """After the rename there is no current file; after the next step, the current file is empty."""
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path)
    write(sink, [status(1), status(2), status(None)])
    sink.write([status(None)], None)
    sink.close()
    path.rename(tmp_path / "events.000007.jsonl")
    sink = JsonlSink(path, Rotation(max_bytes=1000))
    assert sink.position() == Position(EPOCH, 2)
    for offset in range(3, 30):
        write(sink, [status(offset)])
    sink.close()
    assert [each.name for each in complete_files(path)][:2] == ["events.000007.jsonl", "events.000008.jsonl"]


def test_a_full_disk_leaves_no_half_line_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path)
    write(sink, [status(1)])
    before, os_write = path.read_bytes(), os.write

    def full(fd: int, data: memoryview) -> int:
        if os.fstat(fd).st_size < len(before) + 20:
            return os_write(fd, data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("streamclf.runtime.durable_files.os.write", full)
        with pytest.raises(JournalError, match="nothing is lost: free space"):
            write(sink, [status(2)])
    assert path.read_bytes() == before
    sink = reopen(sink, path)
    assert sink.position() == Position(EPOCH, 1)
    sink.close()


def test_an_old_file_that_cannot_be_removed_leaves_the_log_readable(tmp_path: Path) -> None:
    path, rotation = tmp_path / "events.jsonl", Rotation(max_bytes=1000, keep=1)
    sink = JsonlSink(path, rotation)
    write(sink, [status(1, "x" * 800)])
    (tmp_path / "events.000000.jsonl").mkdir()  # `unlink` refuses it, also for root
    with pytest.raises(JournalError, match=r"events\.000000\.jsonl: .*correct the permissions"):
        write(sink, [status(2, "x" * 800)])
    assert path.read_bytes() == b""
    with pytest.raises(JournalError, match=r"events\.000000\.jsonl: .*correct the permissions"):
        reopen(sink, path, rotation)
    (tmp_path / "events.000000.jsonl").rmdir()
    sink = JsonlSink(path, rotation)
    assert sink.position() == Position(EPOCH, 1)
    write(sink, [status(2)])
    assert reopen(sink, path, rotation).position() == Position(EPOCH, 2)


def test_a_link_to_a_disk_that_is_away_does_not_stop_the_rotation(tmp_path: Path) -> None:
    path, rotation = tmp_path / "events.jsonl", Rotation(max_bytes=1000, keep=1)
    sink = JsonlSink(path, rotation)
    write(sink, [status(1, "x" * 800)])
    (tmp_path / "events.000000.jsonl").symlink_to(tmp_path / "away" / "events.000000.jsonl")
    sink = reopen(sink, path, rotation)
    for offset in range(2, 5):
        write(sink, [status(offset, "x" * 800)])
    assert [each.name for each in complete_files(path)] == ["events.000000.jsonl", "events.000003.jsonl"]
    sink.close()


@given(st.text(max_size=200))
def test_each_event_is_one_line_that_holds_its_position(reason: str) -> None:
    text = line_of(status(7, reason))
    assert text.count(b"\n") == 1
    assert json.loads(text)["reason"] == reason
    assert position_of(text[:-1]) == Position(EPOCH, 7)


@given(st.binary(max_size=300))
def test_any_line_yields_a_position_or_is_refused(data: bytes) -> None:
    try:
        position = position_of(data.replace(b"\n", b""))
    except ValueError:
        return
    assert position is None or isinstance(position, Position)
