"""Set up a service for tests that disturb it, and check that its events show no interruption."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from support.bundles import make_brightness_bundle
from support.clips import write_clip
from support.watcher import Watcher

CHUNK_S = 0.2
"""One chunk of the brightness model: two frames at ten per second."""


CACHE = TemporaryDirectory(prefix="engines-")
"""Folder for compiled models. All services that this process starts share it, which saves 0.2 s for each service."""


class Setup:
    """A folder with a model, a video of 60 s and a configuration with free ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "service.yaml"
        self.temp = folder / "t"  # short, because a socket's path has at most 107 bytes
        self.temp.mkdir()
        (folder / "cache").symlink_to(CACHE.name)
        make_brightness_bundle(folder / "brightness")
        write_clip(folder / "film.mp4", frames=600, fps=10, width=160, height=96, gop=10)
        self.film = {"url": "film.mp4", "loop": True}
        self.config: dict[str, Any] = {
            "model": "brightness",
            "engine": {"threads": 1},
            "streams": {},
            "publish": {"events": "tcp://127.0.0.1:*", "replay": "tcp://127.0.0.1:*"},
        }

    @property
    def env(self) -> dict[str, str]:
        """The environment of the service: a temporary folder of its own, so that its leftovers can be identified."""
        return {"TMPDIR": str(self.temp)}

    def write(self, **changes: Any) -> Path:
        """Write the configuration with changed top-level keys, and replace the file in one step, as editors do."""
        self.config |= changes
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(self.config))
        draft.replace(self.path)
        return self.path


def assert_unbroken(watcher: Watcher, stream: str, *, since: float, at_least: int, hop: int = 1) -> None:
    """Check that each window of `stream` since then follows the one before, without a gap or a new segment."""
    windows = [seen.window for seen in watcher.events("prediction", stream, since=since)]
    assert len(windows) >= at_least, windows
    for (segment, start_s, _), (next_segment, next_start_s, _) in pairwise(windows):
        assert next_segment == segment, windows
        assert abs(next_start_s - start_s - hop * CHUNK_S) < 1e-3, windows
