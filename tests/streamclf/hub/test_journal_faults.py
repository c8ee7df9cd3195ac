"""Test the journal on real disks that are full, read-only, or that fail while a hub runs."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.hub_process import HubProcess, prediction, wait_until

from streamclf.client.subscription import subscribe
from streamclf.errors import JournalError
from streamclf.events.types import Heartbeat, Prediction
from streamclf.events.views import UNNAMED
from streamclf.hub.journal import Journal, Record
from streamclf.producer.link import EventProducer

pytestmark = pytest.mark.flaky(reruns=0)  # a failure here, even one in a hundred runs, is a lost event

BALLAST_BYTES = 1_500_000
FAST = {"streamclf.hub.process._HEARTBEAT_S": 0.2}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 3 MB, if this user may."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "streamclf-test", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, timeout=10).returncode != 0:
        pytest.skip("only root can mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True, timeout=10)


def fill_and_free(hub: HubProcess, free: Callable[[], None]) -> tuple[int, int]:
    """Post until events are not durable, call `free`, and post until they are durable again.

    Return how many events were received live, and how many of them were not durable.
    """
    live: list[Prediction] = []
    not_durable = 0
    with EventProducer(hub.link, "test") as link, subscribe(hub.events) as events:
        assert isinstance(events.receive(60.0), Heartbeat)
        number, freed, durable_again = 0, False, 0
        end = time.monotonic() + 40
        while durable_again < 20:
            assert time.monotonic() < end, f"{len(live)} live, {not_durable} not durable"
            link.post(prediction(number=number, model="m" * 256))
            number += 1
            event = events.receive(5.0)
            while not isinstance(event, Prediction):
                event = events.receive(5.0)
                assert event is not None, "no live event arrived"
            live.append(event)
            if not event.durable:
                assert event.offset is None
                not_durable += 1
            elif freed:
                durable_again += 1
            if not_durable == 20 and not freed:
                free()
                freed = True
        beat = events.receive(3.0)
        while not isinstance(beat, Heartbeat):
            beat = events.receive(3.0)
        assert beat.not_durable == not_durable
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
    assert [int(event.window.start_s) for event in live] == list(range(len(live)))
    kept = [event.offset for event in live if event.durable]
    assert kept == list(range(1, len(kept) + 1))
    assert hub.stop() == 0
    with sqlite3.connect(hub.journal) as db:
        stored = db.execute("SELECT offset, body FROM events ORDER BY offset").fetchall()
    db.close()
    assert [offset for offset, _ in stored] == kept
    assert [json.loads(body)["offset"] for _, body in stored] == kept
    return len(live), not_durable


def test_events_are_published_on_a_full_disk_and_kept_again_later(small_disk: Path) -> None:
    hub = HubProcess(timings=FAST)
    hub.job = hub.job.model_copy(update={"journal": small_disk / "journal.db"})
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * BALLAST_BYTES)
    with hub:
        live, not_durable = fill_and_free(hub, ballast.unlink)
    assert live - not_durable >= 40
    assert not_durable >= 20


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of a running process are set on Linux")
def test_events_are_published_when_the_file_may_not_grow_and_kept_again_later() -> None:
    """A limit of the file size needs no root; the error of a write beyond it is not `disk full`."""
    with HubProcess(timings=FAST) as hub:
        _, hard = resource.prlimit(hub.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(hub.pid, resource.RLIMIT_FSIZE, (400_000, hard))
        fill_and_free(hub, lambda: resource.prlimit(hub.pid, resource.RLIMIT_FSIZE, (hard, hard)) and None)


def test_disk_that_is_full_at_the_start_gives_one_line(small_disk: Path) -> None:
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(b"x" * 4096)
    with pytest.raises(JournalError, match=r"free space|writable") as caught:
        Journal(small_disk / "journal.db", keep_s=60)
    assert "\n" not in str(caught.value)


def test_a_disk_that_takes_the_event_and_nothing_more_is_no_error(small_disk: Path) -> None:
    """With one more page each time, the disk is full before, in and after the first commit."""
    durable = set()
    for pages in range(10):
        with Journal(small_disk / f"{pages}.db", keep_s=60) as journal:
            with (small_disk / "ballast").open("wb", buffering=0) as ballast:
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(b"x" * 4096)
                ballast.truncate(os.fstat(ballast.fileno()).st_size - 4096 * pages)
            record = Record("door", "status", lambda offset, previous: b"{}", UNNAMED)
            (entry,) = journal.append([record], {b"p" * 16: 1})
            assert (entry.offset == 1) is journal.durable
            durable.add(journal.durable)
            (small_disk / "ballast").unlink()
        for each in small_disk.iterdir():
            each.unlink()
    assert durable == {False, True}


def test_read_only_disk_gives_one_line_with_a_remedy(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    Journal(path, keep_s=60).close()
    before = path.read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=10)
    with pytest.raises(JournalError, match=r"writable") as caught:
        Journal(path, keep_s=60)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the test of the read-only disk covers it")
@pytest.mark.parametrize("what", ["file", "directory"])
def test_file_or_directory_without_permission_gives_a_remedy(tmp_path: Path, what: str) -> None:
    path = tmp_path / "closed" / "journal.db"
    path.parent.mkdir()
    Journal(path, keep_s=60).close()
    target = path if what == "file" else path.parent
    if what == "directory":
        Path(f"{path}.lock").unlink()
    target.chmod(0o400 if what == "file" else 0o500)
    try:
        with pytest.raises(JournalError, match="writable"):
            Journal(path, keep_s=60)
    finally:
        target.chmod(0o700)
