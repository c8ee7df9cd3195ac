"""Clips of a real service: a camera becomes bright, and a film shows it with the seconds around."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle
from support.clips import film
from support.film_check import check_whole, read_film
from support.rtsp_server import RtspServer
from support.service import DEADLINE_S, Service, wait_gone

import streamclf
from streamclf.events.positions import START
from streamclf.events.types import Action, Clip, Status

FPS = 25
BRIGHT = (75, 125)
"""Pictures 75 to 124 are bright: a second and a half into the film of eight seconds, which the camera repeats."""


def configure(folder: Path, url: str, *more: str) -> Path:
    """Write a configuration of the stream `door`, and `more`, that saves films of `bright` in the folder `clips`."""
    if not (folder / "brightness").exists():
        make_brightness_bundle(folder / "brightness")
    path = folder / "service.yaml"
    path.write_text(
        json.dumps(
            {
                "model": "brightness",
                "streams": {name: {"url": url} for name in ("door", *more)},
                "actions": {"bright": {"on": 0.8, "off": 0.5, "min_s": 0.2}},
                "publish": {"events": "tcp://127.0.0.1:*", "replay": "tcp://127.0.0.1:*"},
                "clips": {"before_s": 1, "after_s": 1},
            }
        )
    )
    return path


@pytest.fixture
def camera() -> Iterator[str]:
    with RtspServer({"door": film(frames=200, gop=20, bright=BRIGHT)}) as server:
        yield server.url("door")


def next_clip(events: streamclf.Subscription) -> tuple[list[Action], Clip]:
    """Wait for the next event of a clip; return it with the actions of `door` before it."""
    actions: list[Action] = []
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        match events.receive(1.0):
            case Action(stream="door") as event:
                actions.append(event)
            case Clip() as event:
                return actions, event
    raise AssertionError(f"no clip within {DEADLINE_S} s; actions: {actions}")


def test_a_clip_is_announced_and_shows_the_action_and_a_lost_one_affects_nothing_else(
    tmp_path: Path, camera: str
) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "gate").write_text("a file in the place of the folder")
    config = configure(tmp_path, camera, "gate")
    with (
        Service("run", str(config), cwd=tmp_path) as service,
        streamclf.subscribe(service.endpoint, replay=True, after=START) as events,
    ):
        actions, clip = next_clip(events)
        start, end = actions[0], actions[-1]
        counters: dict[str, Mapping[str, float]] = {"door": {}, "gate": {}}
        while not (counters["door"].get("clips") and counters["gate"].get("clips_lost")):
            event = events.receive(DEADLINE_S)
            assert event is not None
            if isinstance(event, Status):
                counters[event.stream] = event.counters
                assert event.state == "live", "a lost clip affects nothing else"
        service.wait_for_line("WARNING.*gate.*a clip is lost: .*/gate: File exists")
        door, gate = dict(counters["door"]), counters["gate"]
        captures = service.children("streamclf.capture")
        changed = json.loads(config.read_text())
        del changed["clips"]
        config.write_text(json.dumps(changed))
        service.wait_for_line("new configuration applied: clips")
        wait_gone(captures)
        while "clips" in counters["door"]:
            event = events.receive(DEADLINE_S)
            assert event is not None
            if isinstance(event, Status) and event.state == "live":
                counters[event.stream] = event.counters
        service.interrupt()
        assert service.wait() == 0
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
    assert (door["clips"], door["clips_lost"], door["clip_bytes"]) == (1, 0, clip.bytes)
    assert (gate["clips"], gate["clips_lost"]) == (0, 1)
    assert [each.name for each in path.parent.iterdir() if each.suffix == ".part"] == []


def test_a_film_that_a_killed_service_left_is_recovered(tmp_path: Path) -> None:
    with RtspServer({"door": film(frames=500, gop=20, bright=(25, 500))}) as server:
        path = configure(tmp_path, server.url("door"))
        with Service("run", str(path), cwd=tmp_path) as service:
            service.wait_for_line("publishing on")
            deadline = time.monotonic() + DEADLINE_S
            while not any(part.stat().st_size > 3_000 for part in (tmp_path / "clips").glob("door/*/.*.mp4.part")):
                assert time.monotonic() < deadline, "no film is written"
                time.sleep(0.05)
            for pid in [service.process.pid, *service.descendants()]:
                os.kill(pid, signal.SIGKILL)
        server.fault("door", status=404)  # the camera is away: the film is recovered without it
        with (
            Service("run", str(path), cwd=tmp_path) as service,
            streamclf.subscribe(service.endpoint, replay=True, after=START) as events,
        ):
            actions, clip = next_clip(events)
            service.interrupt()
            assert service.wait() == 0
    start = next(event for event in actions if event.phase == "start")
    assert clip.action == start.offset
    assert (clip.last, clip.note) == (True, "the service ended while it was written")
    saved = read_film(tmp_path / "clips" / clip.file)
    check_whole(saved, fps=FPS, first_s=clip.start_s - saved.numbers[0] / FPS)
    assert saved.numbers[0] <= 25
    assert list((tmp_path / "clips").glob("door/*/.*")) == []
