"""Set up a service for tests that disturb it, and check that its events show no interruption."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    """A folder with a model, a video of 5 minutes and a configuration with free ports.

    A loop begins a new segment, and a busy machine may need more than a minute for a test.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "service.yaml"
        self.temp = folder / "t"  # short, because a socket's path has at most 107 bytes
        self.temp.mkdir()
        (folder / "cache").symlink_to(CACHE.name)
        make_brightness_bundle(folder / "brightness")
        write_clip(folder / "film.mp4", frames=3000, fps=10, width=160, height=96, gop=10)
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
    """Check that `stream` has predictions since then, and that each window follows the one before."""
    predictions = [seen.event for seen in watcher.events("prediction", stream, since=since)]
    assert len(predictions) >= at_least, predictions
    assert_consecutive(predictions, hop=hop)


def assert_consecutive(predictions: Sequence[dict[str, Any]], *, hop: int = 1) -> None:
    """Check that each window follows the one before, without a new segment.

    There may be a gap where the classifier counts one: it drops windows on a busy machine.
    """
    for before, after in pairwise(predictions):
        if after.get("dropped") != before.get("dropped"):
            continue
        assert after["window"]["segment"] == before["window"]["segment"], (before, after)
        assert abs(after["window"]["start_s"] - before["window"]["start_s"] - hop * CHUNK_S) < 1e-3, (before, after)
