"""The service from end to end, with real processes, sockets and video."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from support.bundles import make_brightness_bundle, make_change_bundle
from support.clips import film, write_clip
from support.covers import cover_frames
from support.labelled import write_film
from support.rtsp_server import RtspServer
from support.service import DEADLINE_S, Service, wait_gone

PLAIN_SUBSCRIBER = """
import json, sys, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.connect(sys.argv[1])
socket.subscribe(b"prediction/door/")
socket.rcvtimeo = 20_000
for _ in range(3):
    topic, body = socket.recv_multipart()
    print(topic.decode(), json.dumps(json.loads(body)))
"""


class Events:
    """A plain ZeroMQ subscriber with a deadline."""

    def __init__(self, endpoint: str) -> None:
        self.socket = zmq.Context.instance().socket(zmq.SUB)
        self.socket.linger = 0
        self.socket.subscribe(b"")
        self.socket.connect(endpoint)
        self.offsets: set[int] = set()
        """Offsets of all events that were received."""

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def wait_for(self, kind: str, stream: str, **fields: Any) -> dict[str, Any]:
        """Wait for the next event of that kind and stream with those values."""
        deadline = time.monotonic() + DEADLINE_S
        while self.socket.poll(max(0, int(1000 * (deadline - time.monotonic())))):
            event = self._receive()
            wanted = {"type": kind, "stream": stream, **fields}
            if all(event.get(key) == value for key, value in wanted.items()):
                return event
        raise AssertionError(f"no {kind} of {stream} with {fields} in {DEADLINE_S} s")

    def drain(self, pause_ms: int) -> None:
        """Receive events until none arrives for `pause_ms`."""
        while self.socket.poll(pause_ms):
            self._receive()

    def _receive(self) -> dict[str, Any]:
        _, body = self.socket.recv_multipart()
        event: dict[str, Any] = json.loads(body)
        if "offset" in event:
            self.offsets.add(event["offset"])
        return event


def configure(folder: Path, **streams: dict[str, Any]) -> Path:
    """Write a configuration with free ports and the brightness model."""
    if not (folder / "brightness").exists():
        make_brightness_bundle(folder / "brightness")
    path = folder / "service.yaml"
    publish = {"events": "tcp://127.0.0.1:*", "replay": "tcp://127.0.0.1:*"}
    path.write_text(json.dumps({"model": "brightness", "streams": streams, "publish": publish}))
    return path


@pytest.fixture
def looped(tmp_path: Path) -> Path:
    """A configuration with two looping films, so that the service runs until it is interrupted."""
    write_clip(tmp_path / "a.mp4", frames=60)
    stream = {"url": "a.mp4", "loop": True}
    return configure(tmp_path, one=stream, two=stream)


def test_a_real_rtsp_stream_reaches_a_subscriber_that_knows_only_zeromq(tmp_path: Path) -> None:
    with RtspServer({"door": film()}, auth=("ann", "p@ss/word")) as server:
        path = configure(tmp_path, door={"url": server.url("door")})
        with Service("run", str(path), cwd=tmp_path) as service:
            command = [sys.executable, "-I", "-c", PLAIN_SUBSCRIBER, service.endpoint]
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
            service.interrupt()
            assert service.wait() == 0
    events = [json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines()]
    assert len(events) == 3
    for event in events:
        assert event["v"] == 1
        assert event["type"] == "prediction"
        assert event["stream"] == "door"
        assert event["model"] == "brightness@1"
        assert event["offset"] > event["previous"] >= 0
        assert len(event["epoch"]) == 32
        assert event["window"]["frames"] == 8
        assert event["window"]["end_s"] - event["window"]["start_s"] == pytest.approx(0.8)
        assert [label for label, _ in event["top"]] in (["dark", "bright"], ["bright", "dark"])
        assert sum(p for _, p in event["top"]) == pytest.approx(1, abs=1e-4)
        assert event["latency_ms"]["capture_to_publish"] > 0
    assert "p@ss" not in "\n".join(service.lines)
    assert "p%40ss" not in "\n".join(service.lines)


def test_a_service_ends_when_its_film_has_been_played(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", frames=50)
    path = configure(tmp_path, film={"url": "a.mp4", "pace": "realtime"})
    with Service("run", str(path), cwd=tmp_path) as service:
        assert service.wait() == 0
    with sqlite3.connect(tmp_path / "streamclf.db") as journal:
        rows = journal.execute("select body from events order by offset").fetchall()
    journal.close()
    predictions = [event for (body,) in rows if (event := json.loads(body))["type"] == "prediction"]
    # 2 s of film are 10 chunks of 0.2 s, the last not quite full: windows of 4 end at chunks 4 to 9 at least.
    ends = sorted(round(event["window"]["end_s"], 1) for event in predictions)
    assert ends in ([0.8, 1.0, 1.2, 1.4, 1.6, 1.8], [0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0])


def test_a_file_at_full_speed_loses_no_window(tmp_path: Path) -> None:
    """Decoding is much faster than the classifier: capture has to wait for it, and the service for both."""
    write_clip(tmp_path / "a.mp4", frames=600)
    path = configure(tmp_path, film={"url": "a.mp4", "pace": "fast"})
    with Service("run", str(path), cwd=tmp_path) as service:
        assert service.wait() == 0
    with sqlite3.connect(tmp_path / "streamclf.db") as journal:
        bodies = [json.loads(body) for (body,) in journal.execute("select body from events order by offset")]
    journal.close()
    starts = [round(body["window"]["start_s"], 1) for body in bodies if body["type"] == "prediction"]
    # 24 s are 120 chunks of 0.2 s; the last may lack its last frame.
    assert starts == [round(0.2 * i, 1) for i in range(len(starts))]
    assert len(starts) in (116, 117)


def test_an_action_lasts_while_a_patterned_cloth_hides_the_scene(tmp_path: Path) -> None:
    """The model recognises only that the cloth comes and goes: see `make_change_bundle`."""
    make_change_bundle(tmp_path / "change", hides_scene=("covered",))
    scene = np.random.default_rng(1).integers(20, 80, (160, 48, 64, 3)).astype(np.uint8)
    film = cover_frames(scene, "checks", 40, 120, np.random.default_rng(2))
    assert film[60:100].mean() > film[:30].mean() + 60, "the cloth is much brighter than the scene"
    write_film(tmp_path / "film.mp4", film)
    stream = {"url": "film.mp4", "pace": "fast"}
    path = configure(tmp_path, held=stream, plain={**stream, "actions": {"covered": {"hold_s": 0}}})
    actions = {"covered": {"min_s": 0.2, "smooth_s": 0, "cooldown_s": 0}}
    raw = json.loads(path.read_text())
    raw |= {"model": "change", "actions": actions}
    path.write_text(json.dumps(raw))
    with Service("run", str(path), cwd=tmp_path) as service:
        assert service.wait() == 0
    with sqlite3.connect(tmp_path / "streamclf.db") as journal:
        bodies = [json.loads(body) for (body,) in journal.execute("select body from events order by offset")]
    journal.close()
    found = [body for body in bodies if body["type"] == "action" and body["phase"] != "update"]
    start, end = (body for body in found if body["stream"] == "held")
    assert (start["phase"], end["phase"], end["reason"]) == ("start", "end", "scene")
    assert 4 <= start["at_s"] <= 5
    assert 12 <= end["at_s"] <= 14
    assert next(body for body in found if body["stream"] == "plain" and body["phase"] == "end")["at_s"] < 6
    lost = [body["scene_lost"] for body in bodies if body["stream"] == "held" and "scene_lost" in body]
    assert max(lost) > 0.9


def test_independent_labels_are_actions_at_the_same_time(tmp_path: Path) -> None:
    """The bundle's thresholds start and end both actions. `unknown` is the time in which neither label is likely."""
    make_brightness_bundle(tmp_path / "brightness", activation="sigmoid", thresholds={"dark": 0.3, "bright": 0.4})
    greys = np.repeat([20, 135, 240], 40)  # p(dark) 1, 0.41, 0; p(bright) 0, 0.59, 1
    write_film(tmp_path / "film.mp4", np.broadcast_to(greys[:, None, None, None], (120, 32, 32, 3)).astype(np.uint8))
    stream = {"url": "film.mp4", "pace": "fast"}
    path = configure(tmp_path, plain=stream, strict={**stream, "unknown_below": 0.75})
    path.write_text(json.dumps({**json.loads(path.read_text()), "actions": {"dark": {}, "bright": {}}}))
    with Service("run", str(path), cwd=tmp_path) as service:
        assert service.wait() == 0
    with sqlite3.connect(tmp_path / "streamclf.db") as journal:
        bodies = [json.loads(body) for (body,) in journal.execute("select body from events order by offset")]
    journal.close()
    found = {frozenset(body["labels"]) for body in bodies if body["type"] == "prediction"}
    assert found == {frozenset({"dark"}), frozenset({"dark", "bright"}), frozenset({"bright"})}
    at_s = {(b["stream"], b["label"], b["phase"]): b["at_s"] for b in bodies if b["type"] == "action"}
    order = [at_s["plain", label, phase] for phase in ("start", "end") for label in ("dark", "bright")]
    assert order == sorted(order), "the second action starts before the first one ends"
    assert 3.9 < at_s["plain", "bright", "start"] < 6, "it starts at 0.4, below the default of 0.8"
    assert at_s["strict", "dark", "end"] < at_s["strict", "unknown", "end"] <= at_s["strict", "bright", "start"]


def test_ctrl_c_ends_all_processes_and_loses_no_published_event(looped: Path, tmp_path: Path) -> None:
    with Service("run", str(looped), cwd=tmp_path) as service, Events(service.endpoint) as events:
        events.wait_for("prediction", "one")
        events.wait_for("prediction", "two")
        children = service.descendants()
        assert len(children) == 4
        service.interrupt()
        assert service.wait() == 0
        wait_gone(children)
        events.drain(300)
    with sqlite3.connect(tmp_path / "streamclf.db") as journal:
        kept = {offset for (offset,) in journal.execute("select offset from events")}
    journal.close()
    assert len(events.offsets) >= 2
    assert events.offsets <= kept


@pytest.mark.parametrize("module", ["streamclf.classifier", "streamclf.hub", "streamclf.capture"])
def test_a_killed_process_is_restarted_and_the_service_continues(looped: Path, tmp_path: Path, module: str) -> None:
    with Service("run", str(looped), cwd=tmp_path) as service, Events(service.endpoint) as events:
        events.wait_for("prediction", "one")
        events.wait_for("prediction", "two")
        os.kill(service.children(module)[0], signal.SIGKILL)
        service.wait_for_line(r"ended \(signal 9\); starting it again")
        if module == "streamclf.capture":
            killed = events.wait_for("status", "one", state="offline")
            assert killed["reason"] == "capture process ended (signal 9); starting it again in 0.2 s"
        events.drain(0)
        for stream in ("one", "two"):
            events.wait_for("prediction", stream)
        service.interrupt()
        assert service.wait() == 0


def test_a_killed_supervisor_leaves_nothing_behind(looped: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "t"  # short: the path of a socket in it has at most 107 bytes
    temporary.mkdir()
    env = {"TMPDIR": str(temporary)}
    with Service("run", str(looped), cwd=tmp_path, env=env) as service, Events(service.endpoint) as events:
        events.wait_for("prediction", "one")
        children = service.descendants()
        service.process.kill()
        wait_gone(children)
    deadline = time.monotonic() + DEADLINE_S
    while left := list(temporary.iterdir()):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_a_failing_stream_does_not_stop_the_others(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", frames=60)
    (tmp_path / "text.mp4").write_text("this is no film\n" * 100)
    path = configure(tmp_path, good={"url": "a.mp4", "loop": True}, bad={"url": "text.mp4"})
    with Service("run", str(path), cwd=tmp_path) as service, Events(service.endpoint) as events:
        service.wait_for_line(r"text\.mp4")
        for _ in range(3):
            events.wait_for("prediction", "good")
        service.interrupt()
        assert service.wait() == 0


def test_a_service_fails_if_all_its_streams_fail(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no film\n" * 100)
    with Service("run", str(configure(tmp_path, bad={"url": "text.mp4"})), cwd=tmp_path) as service:
        assert service.wait() == 1
    assert not any("Traceback" in line for line in service.lines)


def test_an_error_names_a_port_in_use(tmp_path: Path) -> None:
    socket = zmq.Context.instance().socket(zmq.PUB)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    try:
        write_clip(tmp_path / "a.mp4", frames=60)
        path = configure(tmp_path, one={"url": "a.mp4", "loop": True})
        config = json.loads(path.read_text())
        config["publish"]["events"] = f"tcp://127.0.0.1:{port}"
        path.write_text(json.dumps(config))
        with Service("run", str(path), cwd=tmp_path) as service:
            assert service.wait() == 1
        assert any(f"127.0.0.1:{port}" in line and "in use" in line for line in service.lines), service.lines
        assert not any("Traceback" in line for line in service.lines)
    finally:
        socket.close(0)
