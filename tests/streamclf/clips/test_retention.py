"""Retention of clips: oldest first, by age, size and free space; never starred ones, nor those being written."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from streamclf.clips import retention as retention_module
from streamclf.clips.folder import ClipFolder
from streamclf.clips.names import ClipName, clip_name
from streamclf.clips.retention import ClipRetention

NOW = datetime(2026, 11, 29, 12, 0, 0, tzinfo=timezone.utc)
NOW_S = NOW.timestamp()
DAY_S = 86400.0
MB = 10**6


@pytest.fixture(autouse=True)
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClipFolder, "disk_bytes", lambda self: (10**12, 10**12))


def add(root: Path, hours_ago: float, stream: str = "door", *, size: int = MB, label: str = "fight") -> ClipName:
    began = NOW - timedelta(hours=hours_ago)
    name = clip_name(stream, began, label)
    for suffix, each in ((".mp4", size), (".jpg", 0), (".drawn.jpg", 0)):
        path = root / name.path(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, each)
        os.utime(path, (began.timestamp(), began.timestamp()))
    return name


def left(root: Path) -> set[ClipName]:
    return {clip.name for clip in ClipFolder(root).newest()}


def retention(root: Path, *, keep_s: float = 7 * DAY_S, keep_bytes: int = 10**12) -> ClipRetention:
    return ClipRetention(ClipFolder(root), keep_s=keep_s, keep_bytes=keep_bytes)


def test_old_clips_of_every_stream_expire(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = add(tmp_path, 167)
    old = [add(tmp_path, 169), add(tmp_path, 500, "removed-stream")]
    with caplog.at_level(logging.INFO):
        assert retention(tmp_path).run(NOW_S) == 2
    assert left(tmp_path) == {kept}
    assert not list(tmp_path.rglob(f"{old[0].stem}*"))
    assert [record.getMessage() for record in caplog.records] == ["2 old clips removed, 2.0 MB (age: 2)"]


def test_the_size_of_all_clips_is_limited_oldest_first(tmp_path: Path) -> None:
    names = [add(tmp_path, hours, stream) for hours, stream in ((50, "z"), (40, "a"), (30, "m"), (2, "a"), (1, "z"))]
    worker = retention(tmp_path, keep_bytes=3 * MB)
    assert worker.run(NOW_S) == 2
    assert left(tmp_path) == set(names[2:])
    assert worker.run(NOW_S) == 0
    newest = add(tmp_path, 0.5)
    assert worker.run(NOW_S) == 1
    assert left(tmp_path) == {*names[3:], newest}
    assert worker.removed == 3


def test_a_starred_clip_is_kept_and_does_not_count(tmp_path: Path) -> None:
    starred, plain = add(tmp_path, 999), add(tmp_path, 1)
    ClipFolder(tmp_path).star(starred.film)
    worker = retention(tmp_path, keep_bytes=MB)
    assert worker.run(NOW_S) == 0
    ClipFolder(tmp_path).star(starred.film, is_starred=False)
    os.utime(tmp_path / starred.film, (NOW_S - DAY_S, NOW_S - DAY_S))
    assert worker.run(NOW_S) == 1
    assert left(tmp_path) == {plain}


def test_a_clip_that_is_being_written_is_kept(tmp_path: Path) -> None:
    fresh = add(tmp_path, 0.01)  # its pictures are made now
    hidden = tmp_path / "door" / fresh.day / ".115900-000-fight.mp4.part"
    hidden.touch()
    os.utime(hidden, (NOW_S, NOW_S))
    assert retention(tmp_path, keep_bytes=1).run(NOW_S) == 0
    assert left(tmp_path) == {fresh}
    assert hidden.exists()


def test_unfinished_films_of_removed_streams_and_empty_folders_go(tmp_path: Path) -> None:
    old = add(tmp_path, 500, "gone")
    hidden = tmp_path / "gone" / old.day / ".115900-000-fight.mp4.part"
    foreign = tmp_path / "gone" / old.day / "notes.txt"
    for path in (hidden, foreign):
        path.touch()
        os.utime(path, (NOW_S - 2 * DAY_S, NOW_S - 2 * DAY_S))
    worker = retention(tmp_path)
    assert worker.run(NOW_S) == 1
    assert not hidden.exists()
    assert foreign.exists()
    foreign.unlink()
    worker.run(NOW_S)
    assert not (tmp_path / "gone").exists()
    today = tmp_path / "new" / f"{NOW:%Y-%m-%d}"
    today.mkdir(parents=True)
    worker.run(NOW_S)
    assert today.exists()


def test_pictures_whose_film_was_lost_expire_too(tmp_path: Path) -> None:
    name = add(tmp_path, 200)
    (tmp_path / name.film).unlink()
    assert retention(tmp_path).run(NOW_S) == 1
    assert not list(tmp_path.rglob("*.jpg"))


def test_a_nearly_full_disk_loses_the_oldest_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [add(tmp_path, hours) for hours in (5, 4, 3, 2, 1)]
    total = 100 * MB

    def disk(self: ClipFolder) -> tuple[int, int]:
        return total, 12 * MB + (5 - len(left(tmp_path))) * MB  # the reserve is 10 MB, removing begins below 15 MB

    monkeypatch.setattr(ClipFolder, "disk_bytes", disk)
    assert retention(tmp_path).run(NOW_S) == 3
    assert left(tmp_path) == set(names[3:])


def test_a_run_removes_a_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_module, "MAX_REMOVED", 2)
    for hours in range(5):
        add(tmp_path, 200 + hours)
    worker = retention(tmp_path)
    assert [worker.run(NOW_S) for _ in range(4)] == [2, 2, 1, 0]
    assert not left(tmp_path)


def test_one_process_works_at_a_time(tmp_path: Path) -> None:
    add(tmp_path, 999)
    code = (
        "import sys; from pathlib import Path; from streamclf.clips.folder import ClipFolder;"
        "from streamclf.clips.retention import ClipRetention;"
        "worker = ClipRetention(ClipFolder(Path(sys.argv[1])), keep_s=1e9, keep_bytes=10**12);"
        "worker.run(1.0); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"ready\n"
        worker = retention(tmp_path)
        assert worker.run(NOW_S) == 0
        other.stdin.close()
        assert other.wait(60) == 0
    assert worker.run(NOW_S) == 1
    worker.close()


def test_a_folder_is_read_again_only_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, 30), add(tmp_path, 1)
    for day in (tmp_path / "door").iterdir():
        os.utime(day, (NOW_S - 100, NOW_S - 100))
    reads: list[str] = []
    original = ClipFolder.clips_of_day

    def counted(self: ClipFolder, day: str, stream: str) -> object:
        reads.append(day)
        return original(self, day, stream)

    monkeypatch.setattr(ClipFolder, "clips_of_day", counted)
    worker = retention(tmp_path)
    worker.run(NOW_S)
    assert len(reads) == 2
    worker.run(NOW_S)
    assert len(reads) == 2
    add(tmp_path, 2)
    worker.run(NOW_S)
    assert len(reads) == 3


def test_a_failure_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, 999)
    monkeypatch.setattr(retention_module, "INTERVAL_S", -1.0)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    worker = retention(tmp_path)
    monkeypatch.setattr(os, "unlink", fail)
    worker.run_if_due()
    worker.run_if_due()
    assert [r.getMessage() for r in caplog.records] == [
        f"old clips cannot be removed: {tmp_path}: Read-only file system; check the folder of clips and its permissions"
    ]


def test_hostile_entries_are_never_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "000000-000-a.mp4"
    victim.touch()
    root = tmp_path / "clips"
    day = root / "door" / "2020-01-01"
    day.mkdir(parents=True)
    (root / "linked").symlink_to(outside)
    (root / "door" / "2020-01-02").symlink_to(outside)
    (day / "000000-000-link.mp4").symlink_to(victim)
    (day / "000000-000-directory.mp4").mkdir()
    (day / ".hidden.mp4").symlink_to(victim)
    (day / "999999-999-strange.mp4").touch()
    os.utime(day / "999999-999-strange.mp4", (0, 0))
    assert retention(root).run(time.time()) == 1
    assert victim.exists()
    assert sorted(each.name for each in day.iterdir()) == [
        ".hidden.mp4", "000000-000-directory.mp4", "000000-000-link.mp4",
    ]  # fmt: skip
