"""Check the writer's thread: what it posts and counts, a disk that hangs or is full, leftovers of a killed process."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from support.clips import draw
from support.film_check import event_json, read_film
from support.hub_process import wait_until

from streamclf.clips import film_file
from streamclf.clips.film_end import part_path
from streamclf.clips.film_info import FilmInfo, Pictures
from streamclf.clips.ring import PacketRing
from streamclf.clips.writer import ClipWriter
from streamclf.config.clips import ClipsConfig
from streamclf.errors import ClipError
from streamclf.events.drafts import Draft
from streamclf.events.types import check_event
from streamclf.units import NS

cv2 = pytest.importorskip("cv2")


class Setup:
    """A writer, and pictures that a source without packets would give it."""

    def __init__(self, folder: Path, **writer: Any) -> None:
        self.config = ClipsConfig(folder=folder, before_s=1, after_s=1)
        self.ring = PacketRing(keep_ns=20 * NS, max_bytes=10**8)
        self.posted: list[Draft] = []
        self.writer = ClipWriter("door", self.config, self.ring, self.posted.append, **writer)

    def play(self, begin_s: float, end_s: float) -> None:
        """Add ten pictures for each second of media time."""
        for tenth in range(round(10 * begin_s), round(10 * end_s)):
            ok, jpeg = cv2.imencode(".jpg", draw(tenth, 320, 180)[..., ::-1])
            assert ok
            self.ring.push_picture(jpeg.tobytes(), tenth * NS // 10, time.time_ns())

    def act(self, start_s: float, end_s: float, start: int = 7) -> None:
        """Send the events of one action."""
        self.writer.add_action(start, event_json("start", start_s, started_s=start_s))
        self.writer.add_action(start, event_json("end", end_s, started_s=start_s))


def test_a_source_without_packets_gives_a_film_that_browsers_play(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.play(0, 10)
    setup.writer.start()
    setup.act(4.0, 6.0)
    wait_until(lambda: bool(setup.posted), "a clip")
    setup.writer.close(60)
    (draft,) = setup.posted
    film = read_film(tmp_path / draft.body["file"])
    assert film.numbers == list(range(30, 71))
    assert film.times_s == pytest.approx([each / 10 for each in range(41)], abs=1e-3)
    assert (film.tag, draft.body["codec"], film.info.label) == ("avc1", "h264", "wave")
    assert setup.writer.counters == {
        "clips": 1, "clip_bytes": draft.body["bytes"], "clips_lost": 0, "clips_late": 0, "clips_evicted": 0,
    }  # fmt: skip
    body = {key: value for key, value in draft.body.items() if key != "action_epoch"}
    check_event({"v": 1, "type": "clip", "stream": "door", "epoch": "e" * 32, "offset": 2, "previous": 1,
                 "time": "2026-01-02T03:04:05Z", **body})  # fmt: skip


def test_a_process_that_ends_completes_its_film(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.play(0, 6)
    setup.writer.start()
    setup.writer.add_action(7, event_json("start", 4.0, started_s=4.0))
    wait_until(lambda: any(tmp_path.rglob(".*.part")), "a film that is written")
    setup.play(6, 7)
    setup.writer.close(60)
    (draft,) = setup.posted
    assert read_film(tmp_path / draft.body["file"]).numbers == list(range(30, 70))
    assert draft.body["last"]
    assert "before the end of the action" in draft.body["note"]


@pytest.mark.parametrize("error", [ClipError("no frame"), ValueError("a fault")])
def test_a_film_is_announced_even_if_its_pictures_fail(tmp_path: Path, error: Exception) -> None:
    def fail(path: Path, info: FilmInfo) -> Pictures:
        raise error

    setup = Setup(tmp_path, after_film=fail)
    setup.play(0, 10)
    setup.writer.start()
    setup.act(4.0, 5.0)
    wait_until(lambda: bool(setup.posted), "a clip")
    assert (setup.posted[0].body["still"], setup.posted[0].body["drawn"]) == (None, None)
    setup.writer.close(60)


def test_pictures_are_made_of_the_complete_film_before_its_event(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def make(path: Path, info: FilmInfo) -> Pictures:
        seen.append((len(read_film(path).numbers), len(setup.posted)))
        return Pictures(info.name.still, info.name.drawn)

    setup = Setup(tmp_path, after_film=make)
    setup.play(0, 10)
    setup.writer.start()
    setup.act(4.0, 5.0)
    wait_until(lambda: bool(setup.posted), "a clip")
    setup.writer.close(60)
    assert seen == [(31, 0)]
    assert setup.posted[0].body["still"].endswith("-wave.jpg")


class FullDisk:
    """Stand for `WholeFile` on a disk that takes only some bytes."""

    def __init__(self, real: Callable[..., Any], limit: int) -> None:
        self._real, self._limit = real, limit

    def __call__(self, fd: int, mode: str) -> Any:
        file, limit = self._real(fd, mode), self._limit

        class Limited:
            fileno, seek, tell, seekable = file.fileno, file.seek, file.tell, file.seekable
            readable, writable, close, flush = file.readable, file.writable, file.close, file.flush
            name = ""

            def write(self, data: bytes) -> int:
                if file.tell() + len(data) > limit:
                    raise OSError(28, "No space left on device")
                written: int = file.write(data)
                return written

        return Limited()


@pytest.mark.parametrize("limit", [0, 3000])
def test_a_full_disk_loses_the_film_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: int
) -> None:
    caplog.set_level(logging.WARNING)
    setup = Setup(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(film_file, "WholeFile", FullDisk(film_file.WholeFile, limit))
        setup.play(0, 20)
        setup.writer.start()
        for number in range(3):
            setup.act(2.0 + 4 * number, 3.0 + 4 * number)
            wait_until(lambda n=number: setup.writer.counters["clips_lost"] == n + 1, "a lost clip")  # type: ignore[misc]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert [record.getMessage() for record in caplog.records if "lost" in record.getMessage()] == [
        caplog.records[0].getMessage()
    ], "one line a minute"
    assert "No space left on device" in caplog.text
    setup.act(14.0, 15.0)  # the disk has space again
    wait_until(lambda: bool(setup.posted), "a clip")
    setup.writer.close(60)


def test_a_disk_that_hangs_blocks_neither_the_source_nor_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, blocked = threading.Event(), threading.Event()
    real = os.open

    def hang(path: Any, *args: Any, **more: Any) -> int:
        if str(path).endswith(".part"):
            blocked.set()
            assert free.wait(30)
        return real(path, *args, **more)

    setup = Setup(tmp_path)
    setup.play(0, 10)
    monkeypatch.setattr(film_file.os, "open", hang)
    setup.writer.start()
    setup.writer.add_action(7, event_json("start", 4.0, started_s=4.0))
    assert blocked.wait(60)
    setup.play(10, 14)  # neither waits
    for number in range(300):
        setup.act(20.0 + number, 20.5 + number)
    assert setup.writer.counters["clips_lost"] >= 150, "what does not fit into the queue is counted"
    assert not setup.writer.close(0.1)
    free.set()
    setup.writer.close(10)


def test_leftovers_are_completed_and_what_cannot_be_played_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Setup(tmp_path)
    first.play(0, 6)
    first.writer.start()
    first.writer.add_action(7, event_json("start", 4.0, started_s=4.0))
    wait_until(lambda: any(path.stat().st_size > 3000 for path in tmp_path.rglob(".*.part")), "a film that is written")
    (part,) = tmp_path.rglob(".*.part")
    cut = part.read_bytes()
    first.writer.close(60)
    for path in tmp_path.rglob("*.mp4"):
        path.unlink()
    # As after kill -9: a film that ends in the middle of a fragment, one without a picture, a copy, another stream's.
    part.write_bytes(cut[:-100])
    part_path(part.with_name("000000-000-empty.mp4")).write_bytes(cut[:500])
    part.with_name(".000000-000-wave.copy.part").write_bytes(b"x")
    part.with_name("000000-000-wave.jpg").write_bytes(b"not touched")
    second = Setup(tmp_path)
    second.writer.start()
    wait_until(lambda: bool(second.posted), "the recovered clip")
    second.writer.close(60)
    (draft,) = second.posted
    film = read_film(tmp_path / draft.body["file"])
    assert film.numbers == list(range(30, 30 + len(film.numbers)))
    assert len(film.numbers) >= 5
    assert (draft.body["label"], draft.body["action"], draft.body["note"]) == (
        "wave", 7, "the service ended while it was written",
    )  # fmt: skip
    assert sorted(path.name for path in part.parent.iterdir()) == sorted(
        ["000000-000-wave.jpg", draft.body["file"].rpartition("/")[2]]
    )
    assert "cannot be played" in caplog.text


def test_a_film_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    first = Setup(tmp_path)
    first.play(0, 6)
    first.writer.start()
    first.writer.add_action(7, event_json("start", 4.0, started_s=4.0))
    wait_until(lambda: any(tmp_path.rglob(".*.part")), "a film that is written")
    second = Setup(tmp_path)
    second.writer.start()
    second.writer.close(60)
    assert second.posted == []
    first.writer.close(60)
    assert len(first.posted) == 1


def test_a_film_without_its_event_is_announced_by_the_next_process(tmp_path: Path) -> None:
    killed = tmp_path / "killed"

    def make(path: Path, info: FilmInfo) -> Pictures:
        shutil.copytree(tmp_path / "clips", killed)  # the files as they are after kill -9 at this moment
        return Pictures()

    first = Setup(tmp_path / "clips", after_film=make)
    first.play(0, 10)
    first.writer.start()
    first.act(4.0, 5.0)
    wait_until(lambda: bool(first.posted), "a clip")
    first.writer.close(60)
    for expected in ([first.posted[0].body], []):  # the third process has nothing to announce
        later = Setup(killed)
        later.writer.start()
        wait_until(lambda s=later, bodies=expected: len(s.posted) == len(bodies), "the event")  # type: ignore[misc]
        later.writer.close(60)
        assert [draft.body for draft in later.posted] == expected
    for folder in (tmp_path / "clips", killed):
        assert [path.suffix for path in folder.rglob("*") if path.is_file()] == [".mp4"], "no unfinished file is left"


def test_pipes_and_links_in_the_folder_of_a_day_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "other.mp4").write_bytes(b"not touched")
    setup = Setup(tmp_path / "clips")
    day = setup.config.folder / "door" / f"{datetime.now(timezone.utc):%Y-%m-%d}"
    day.mkdir(parents=True)
    os.mkfifo(part_path(day / "000000-000-pipe.mp4"))
    os.mkfifo(day / ".000000-000-pipe.copy.part")
    part_path(day / "000000-000-link.mp4").symlink_to(tmp_path / "other.mp4")
    setup.play(0, 10)
    setup.writer.start()
    setup.act(4.0, 5.0)
    wait_until(lambda: bool(setup.posted), "a clip")
    setup.writer.close(60)
    assert (tmp_path / "other.mp4").read_bytes() == b"not touched"


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b'{"label": 5}', b"\xff" * 100, event_json("start", 1)[:-5]])
def test_a_message_that_is_no_action_is_ignored(tmp_path: Path, payload: bytes) -> None:
    setup = Setup(tmp_path)
    setup.writer.start()
    setup.writer.add_action(1, payload)
    setup.writer.close(60)
    assert setup.posted == []
