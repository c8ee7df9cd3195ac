"""No acknowledged event is lost in a power cut: the journal lies on LazyFS, which forgets what was not synced.

`docs/development/testing.md` says how to build LazyFS. `STREAMCLF_LAZYFS` is the path of its program.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hub_process import HubProcess, check_journal, prediction, wait_until

from streamclf.producer.link import EventProducer

LAZYFS = os.environ.get("STREAMCLF_LAZYFS", "")
CUTS = int(os.environ.get("STREAMCLF_POWER_CUTS", "5"))

pytestmark = [
    pytest.mark.skipif(not LAZYFS, reason="STREAMCLF_LAZYFS is not set to the path of LazyFS"),
    pytest.mark.flaky(reruns=0),  # a failure here, even one in a hundred runs, is a lost event
    pytest.mark.timeout(60 + 10 * CUTS),
]

CONFIG = """
[faults]
fifo_path = "{folder}/faults"
[cache]
apply_eviction = false
[cache.simple]
custom_size = "0.1GB"
blocks_per_page = 1
[filesystem]
log_all_operations = false
logfile = ""
"""


class LazyDisk:
    """A mounted LazyFS. `cut` ends it at once, with everything that was not synced."""

    def __init__(self, folder: Path) -> None:
        self._config, self._root, self.path = folder / "lazyfs.toml", folder / "root", folder / "disk"
        self._config.write_text(CONFIG.format(folder=folder))
        self._root.mkdir()
        self.path.mkdir()
        self.mount()

    def mount(self) -> None:
        (self._config.parent / "faults").unlink(missing_ok=True)
        options = ["-o", "allow_other", "-o", "modules=subdir", "-o", f"subdir={self._root}", "-f"]
        self._process = subprocess.Popen(
            [LAZYFS, str(self.path), "--config-path", str(self._config), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: os.path.ismount(self.path), "the file system is mounted")

    def cut(self) -> None:
        self._process.kill()
        self._process.wait(60)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True, timeout=10)


@pytest.fixture
def disk() -> Iterator[LazyDisk]:
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("only root can mount the file system, and it needs /dev/fuse")
    # LazyFS takes a path with `-o` in it for an option, and pytest's own folder has such a name.
    with tempfile.TemporaryDirectory(prefix="lazyfs") as folder:
        disk = LazyDisk(Path(folder))
        yield disk
        disk.cut()
        disk.unmount()


def test_no_acknowledged_event_is_lost_in_a_power_cut(disk: LazyDisk) -> None:
    """The producer sends again what was not acknowledged; an acknowledged event that is lost would be a hole."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    posted = 0
    with HubProcess() as hub:
        hub.kill()
        hub.job = hub.job.model_copy(update={"journal": disk.path / "journal.db"})
        hub.start()
        link = EventProducer(hub.link, "test")
        for _ in range(CUTS):
            end = time.monotonic() + generator.uniform(0.1, 1.0)
            while time.monotonic() < end:
                link.post(prediction(f"cam{posted % 3}", number=posted))
                posted += 1
                time.sleep(0.0005)
            acknowledged = posted - link.unacknowledged
            hub.signal(signal.SIGSTOP)  # nothing runs after the cut
            disk.cut()
            hub.kill()
            disk.unmount()
            disk.mount()
            assert acknowledged > 0
            hub.start()
        assert link.close(20.0) == 0
        assert link.dropped == {}
        assert hub.stop() == 0
        check_journal(hub.journal, posted)
