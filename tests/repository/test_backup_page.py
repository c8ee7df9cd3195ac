"""The commands of docs/backup.md copy and restore the journal of a running service."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from support.hub_process import HubProcess, status, wait_until
from support.repository import ROOT

from streamclf.producer.link import EventProducer

BACK_UP, RESTORE, NEW_LOCK, _ = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/backup.md").read_text(), re.M | re.S)


def run(block: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", block], cwd=folder, env={**os.environ, "PATH": path}, check=True, timeout=60)


def post(hub: HubProcess, count: int) -> None:
    with EventProducer(hub.link, os.urandom(4).hex()) as link:
        for number in range(count):
            link.post(status(chunks=number))
        wait_until(lambda: link.unacknowledged == 0, "confirmation")


def offsets(path: Path) -> list[int]:
    db = sqlite3.connect(path)
    try:
        return [row[0] for row in db.execute("SELECT offset FROM events ORDER BY offset")]
    finally:
        db.close()


@pytest.mark.parametrize(("has_lock", "next_offset"), [(True, 9), (False, 10_000_006)])
def test_a_restored_journal_never_uses_an_offset_twice(has_lock: bool, next_offset: int) -> None:
    hub = HubProcess()
    journal = hub.directory / "streamclf.db"
    hub.job = hub.job.model_copy(update={"journal": journal})
    with hub:
        post(hub, 5)
        run(BACK_UP, hub.directory)
        assert offsets(hub.directory / "backup.db") == [1, 2, 3, 4, 5]
        post(hub, 3)  # the copy has left the service alone
        assert hub.stop() == 0
        assert offsets(journal) == [1, 2, 3, 4, 5, 6, 7, 8]
        if not has_lock:
            Path(f"{journal}.lock").unlink()
        run(RESTORE, hub.directory)
        if not has_lock:
            run(NEW_LOCK, hub.directory)
        hub.start()
        post(hub, 1)
        assert hub.stop() == 0
        assert offsets(journal) == [1, 2, 3, 4, 5, next_offset]
