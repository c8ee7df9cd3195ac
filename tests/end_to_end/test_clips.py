"""Clips of a real service: a camera becomes bright, and a film shows it with the seconds around."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundles import make_brightness_bundle
from support.clips import film
from support.film_check import check_whole, read_film
from support.rtsp_server import RtspServer
from support.service import DEADLINE_S, Service

import streamclf
from streamclf.events.positions import START
from streamclf.events.types import Action, Clip, Status

FPS = 25
BRIGHT = (75, 125)
"""Pictures 75 to 124 are bright: a second and a half into the film of eight seconds, which the camera repeats."""


def configure(folder: Path, url: str, **clips: Any) -> Path:
    """Write a configuration that saves films of `bright` in the folder `clips`."""
    if not (folder / "brightness").exists():
        make_brightness_bundle(folder / "brightness")
    path = folder / "service.yaml"
    path.write_text(
        json.dumps(
            {
                "model": "brightness",
                "streams": {"door": {"url": url}},
                "actions": {"bright": {"on": 0.8, "off": 0.5, "min_s": 0.2}},
                "publish": {"events": "tcp://127.0.0.1:*", "replay": "tcp://127.0.0.1:*"},
                "clips": {"before_s": 1, "after_s": 1, **clips},
            }
        )
    )
    return path


@pytest.fixture
def camera() -> Iterator[str]:
    with RtspServer({"door": film(frames=200, gop=20, bright=BRIGHT)}) as server:
        yield server.url("door")


def next_clip(events: streamclf.Subscription) -> tuple[list[Action], Clip, Status | None]:
    """Wait for the next event of a clip; return it with the actions and the last status before it."""
    actions: list[Action] = []
    status: Status | None = None
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        match events.receive(1.0):
            case Action() as event:
                actions.append(event)
            case Status() as event:
                status = event
            case Clip() as event:
                return actions, event, status
    raise AssertionError(f"no clip within {DEADLINE_S} s; actions: {actions}")


def test_a_clip_is_announced_and_shows_the_action(tmp_path: Path, camera: str) -> None:
    with (
        Service("run", str(configure(tmp_path, camera)), cwd=tmp_path) as service,
        streamclf.subscribe(service.endpoint, replay=True, after=START) as events,
    ):
        actions, clip, _ = next_clip(events)
        start, end = actions[0], actions[-1]
        counters: dict[str, float] = {}
        while not counters.get("clips"):
            event = events.receive(DEADLINE_S)
            counters = dict(event.counters) if isinstance(event, Status) else counters
    assert (start.phase, end.phase) == ("start", "end")
    assert (clip.label, clip.action, clip.actions) == ("bright", start.offset, (start.offset,))
    assert (clip.part, clip.last, clip.codec, clip.note) == (1, True, "h264", None)
    assert clip.start_s <= start.started_s - 1 < clip.start_s + 20 / FPS + 0.05, "at most one group of pictures earlier"
    assert clip.end_s == pytest.approx(end.at_s + 1, abs=1.5 / FPS)
    path = tmp_path / "clips" / clip.file
    saved = read_film(path)
    check_whole(saved, fps=FPS, first_s=clip.start_s - saved.numbers[0] / FPS)
    assert saved.numbers[0] % 20 == 0
    assert saved.numbers[0] < BRIGHT[0] < BRIGHT[1] < saved.numbers[-1]
    assert abs(clip.began.timestamp() - time.time()) < 120
    assert clip.bytes == path.stat().st_size
    assert clip.probability == pytest.approx(end.peak)
    assert (counters["clips"], counters["clips_lost"], counters["clip_bytes"]) == (1, 0, clip.bytes)
    assert [each.name for each in path.parent.iterdir() if each.suffix == ".part"] == []


def test_a_film_that_a_killed_service_left_is_recovered(tmp_path: Path) -> None:
    with RtspServer({"door": film(frames=1000, gop=20, bright=(50, 1000))}) as server:
        path = configure(tmp_path, server.url("door"))
        with Service("run", str(path), cwd=tmp_path) as service:
            service.wait_for_line("publishing on")
            deadline = time.monotonic() + DEADLINE_S
            while not any(part.stat().st_size > 6_000 for part in (tmp_path / "clips").glob("door/*/.*.mp4.part")):
                assert time.monotonic() < deadline, "no film is written"
                time.sleep(0.05)
            for pid in [service.process.pid, *service.descendants()]:
                os.kill(pid, signal.SIGKILL)
        server.fault("door", status=404)  # the camera is away: the film is recovered without it
        with (
            Service("run", str(path), cwd=tmp_path) as service,
            streamclf.subscribe(service.endpoint, replay=True, after=START) as events,
        ):
            actions, clip, _ = next_clip(events)
            service.interrupt()
            assert service.wait() == 0
    start = next(event for event in actions if event.phase == "start")
    assert clip.action == start.offset
    assert clip.note == "the service ended while it was written"
    saved = read_film(tmp_path / "clips" / clip.file)
    check_whole(saved, fps=FPS, first_s=clip.start_s - saved.numbers[0] / FPS)
    assert saved.numbers[0] <= 50 < saved.numbers[-1]
    assert list((tmp_path / "clips").glob("door/*/.*")) == []


def test_a_full_disk_loses_clips_and_nothing_else(tmp_path: Path, camera: str) -> None:
    (tmp_path / "clips" / "door").mkdir(parents=True)
    (tmp_path / "clips" / "door").chmod(0o555)
    config = configure(tmp_path, camera)
    if os.access(tmp_path / "clips" / "door", os.W_OK):  # root
        (tmp_path / "clips" / "door").rmdir()
        (tmp_path / "clips" / "door").write_text("a file in the place of the folder")
    with (
        Service("run", str(config), cwd=tmp_path) as service,
        streamclf.subscribe(service.endpoint, types=["status", "action", "prediction"]) as events,
    ):
        counters: dict[str, float] = {}
        while not counters.get("clips_lost"):
            event = events.receive(DEADLINE_S)
            assert event is not None
            if isinstance(event, Status):
                counters = dict(event.counters)
                assert event.state in ("connecting", "live", "offline")
        service.wait_for_line("WARNING.*a clip is lost: .*door")
        assert counters["clips"] == 0
        before = time.monotonic()
        while not isinstance(events.receive(DEADLINE_S), streamclf.Prediction):
            assert time.monotonic() - before < DEADLINE_S
        service.interrupt()
        assert service.wait() == 0
    with sqlite3.connect(tmp_path / "streamclf.db") as db:
        assert db.execute("SELECT count(*) FROM events WHERE type='action'").fetchone()[0] >= 2
    db.close()
