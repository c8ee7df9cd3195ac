"""Every fault that a camera can have, on a real service; the assertions are about events that a subscriber received.

One service with a few streams runs through all tests. The stream `witness` has no fault, and every test ends with
the proof that it lost nothing. Times are the subscriber's monotonic clock. Deadlines are the documented ones plus
`SLACK_S`, for a machine that is busy with other things.

The tests control the service's wall clock: a `sitecustomize` shifts `time.time` of each process by a file's offset.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.bundles import make_brightness_bundle
from support.clips import film
from support.processes import cpu_s, rss_bytes
from support.rtsp_server import RtspServer
from support.service import Service
from support.watcher import Seen, Watcher

SLACK_S = 15.0
START_S = 120.0
OPEN_S, READ_S = 2.0, 3.0
STEP_S = 0.2
"""Media time between two predictions: one chunk of two frames at 10 per second."""
WINDOW_CHUNKS = 4
PASSWORD = "g@:/%?heim 7#"
WRONG = "wr0ng@:/%?word"

SIZE = {"width": 160, "height": 90, "gop": 25, "frames": 250}
BRIGHT, DARK = film(light=200, **SIZE), film(light=40, **SIZE)
OTHER = film(light=40, width=320, height=180, gop=15, frames=150, fps=15, first=500)
STILL = film(light=200, still=True, first=7, **SIZE)

CLOCK_SHIM = """
import time
_time, _time_ns, _file = time.time, time.time_ns, {path!r}

def _offset():
    with open(_file) as text:
        return int(text.read() or 0)

time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + _offset() * 10**9
"""


@dataclass
class Rig:
    """A running service, its cameras, and a watcher of its events."""

    folder: Path
    service: Service
    watcher: Watcher
    cameras: RtspServer
    door: RtspServer
    """The camera `victim`, on a server of its own that can be killed."""

    def __post_init__(self) -> None:
        self.captures = set(self.service.children("streamclf.capture"))

    @contextmanager
    def witness_undisturbed(self) -> Iterator[float]:
        """Yield the time at the beginning; at the end check that `witness` was live and lost no prediction."""
        since = time.monotonic()
        yield since
        assert set(self.service.children("streamclf.capture")) == self.captures, "a process was restarted"
        self.check_witness(since)

    def check_witness(self, since: float) -> None:
        """Check that the windows of `witness` have no gap until now, and that it was always live.

        On a busy machine, its camera may send late, and the classifier may drop windows, which it counts.
        """
        seen = self.watcher.wait("prediction", "witness", since=time.monotonic(), within=STEP_S + SLACK_S)
        seen = self.watcher.wait("prediction", "witness", since=seen.at_s + 1e-6, within=STEP_S + SLACK_S)
        received = self.watcher.events("prediction", "witness", since=since, until=seen.at_s)
        assert len(received) >= 2
        assert all(prediction.probability("bright") > 0.99 for prediction in received)
        if is_late(self.cameras, "witness", since):
            return
        for before, after in itertools.pairwise(received):
            if after.event.get("dropped") != before.event.get("dropped"):
                continue
            assert after.event["window"]["segment"] == before.event["window"]["segment"]
            assert after.window[1] - before.window[1] == pytest.approx(STEP_S, abs=1e-3), "a prediction was lost"
        assert {status.event["state"] for status in self.watcher.events("status", "witness", since=since)} <= {"live"}

    def wait_recovered(self, since: float | None = None, within: float = 60.0) -> Seen:
        """Wait until `victim` predicts bright for windows without damage again."""
        begin = time.monotonic() if since is None else since

        def whole(seen: Seen) -> bool:
            return seen.probability("bright") > 0.99 and seen.event["window"]["corrupt"] == 0

        return self.watcher.wait("prediction", "victim", since=begin, within=within, where=whole)


def is_late(server: RtspServer, stream: str, since: float) -> bool:
    """Return whether the camera of `stream` has sent late after `since`, or shortly before, on a busy machine."""
    return server.mounts[stream].late_at >= since - 2 * READ_S


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("faults")
    make_brightness_bundle(folder / "brightness")
    (folder / "shim").mkdir()
    (folder / "offset").write_text("0")
    (folder / "shim" / "sitecustomize.py").write_text(CLOCK_SHIM.format(path=str(folder / "offset")))
    mounts = dict.fromkeys(("witness", "hung", "busy", "hole"), BRIGHT)
    cameras, door = RtspServer(mounts), RtspServer({"victim": BRIGHT})
    with cameras, door, RtspServer({"locked": BRIGHT}, auth=("us@er", PASSWORD)) as locked:
        cameras.fault("busy", status=503)
        cameras.fault("hole", blackhole=True)
        streams: dict[str, dict[str, Any]] = {
            "witness": {"url": cameras.url("witness")},
            "victim": {"url": door.url("victim")},
            "hung": {"url": cameras.url("hung"), "frozen_s": 2},
            "absent": {"url": cameras.url("absent")},
            "busy": {"url": cameras.url("busy")},
            "hole": {"url": cameras.url("hole")},
            "locked": {"url": f"rtsp://us%40er:${{CAMERA_PASSWORD}}@127.0.0.1:{locked.port}/locked"},
            "refused": {"url": locked.url("locked", WRONG)},
        }
        for stream in streams.values():
            stream |= {"open_timeout_s": OPEN_S, "read_timeout_s": READ_S}
        publish = {"events": "tcp://127.0.0.1:*", "replay": "tcp://127.0.0.1:*"}
        config = {"model": "brightness", "streams": streams, "publish": publish}
        (folder / "service.yaml").write_text(json.dumps(config))
        env = {"PYTHONPATH": str(folder / "shim"), "CAMERA_PASSWORD": PASSWORD, "STREAMCLF_LOG": "debug"}
        with Service("run", "service.yaml", cwd=folder, env=env) as service, Watcher(service.endpoint) as watcher:
            began = time.monotonic()
            for name in ("witness", "victim", "hung", "locked"):
                watcher.wait("prediction", name, since=began, within=START_S)
            rig = Rig(folder, service, watcher, cameras, door)
            yield rig
            service.interrupt()
            assert service.wait() == 0
        rig.door.stop()
        assert not any("Traceback" in line for line in service.lines), service.lines


@pytest.mark.parametrize("reset", [False, True], ids=["EOF", "RST"])
def test_a_closed_connection_is_reported_at_once_and_opened_again(rig: Rig, reset: bool) -> None:
    with rig.witness_undisturbed():
        since = time.monotonic()
        rig.door.disconnect("victim", reset=reset)
        rig.watcher.state("victim", "connecting", since=since, within=1 + SLACK_S)
        rig.watcher.state("victim", "live", since=since, within=2 + SLACK_S)
        rig.wait_recovered(since=since)


def test_a_killed_server_is_reported_at_once_and_found_again(rig: Rig) -> None:
    with rig.witness_undisturbed():
        before = rig.watcher.events("prediction", "victim")[-1]
        since = time.monotonic()
        rig.door.stop()
        seen = rig.watcher.state("victim", "connecting", since=since, within=1 + SLACK_S)
        assert seen.event["reason"]
        rig.watcher.state("victim", "offline", since=since, within=3 + SLACK_S, reason="connection refused")
        rig.door = RtspServer({"victim": BRIGHT}, port=rig.door.port)
        rig.door.__enter__()
        since = time.monotonic()
        live = rig.watcher.state("victim", "live", since=since, within=2 + SLACK_S)
        assert live.event["codec"] == "h264"
        assert live.event["reason"] is None
        after = rig.wait_recovered(since=since)
        assert after.window[0] > before.window[0], "a new segment"


@pytest.mark.parametrize("fault", ["stalled", "frozen"], ids=["stall without reset", "freeze"])
def test_silence_is_reported_in_time_and_no_old_frame_follows_it(rig: Rig, fault: str) -> None:
    with rig.witness_undisturbed():
        since = time.monotonic()
        rig.door.fault("victim", **{fault: True})
        rig.watcher.state("victim", "stalled", since=since, within=2 * READ_S + 1 + SLACK_S, reason="no frame for")
        rig.watcher.state("victim", "connecting", "offline", since=since, within=3 * READ_S + SLACK_S)
        silent_since = time.monotonic()
        # The camera is dark from now on: a bright prediction would come from an old frame.
        rig.door.fault("victim", film=DARK)
        rig.door.heal("victim")
        rig.watcher.state("victim", "live", since=silent_since, within=OPEN_S + 2 + SLACK_S)
        seen = rig.watcher.wait("prediction", "victim", since=silent_since, within=OPEN_S + 4 + SLACK_S)
        assert seen.probability("dark") > 0.99
        rig.door.fault("victim", film=BRIGHT)
        rig.wait_recovered()


def test_a_server_that_never_answers_is_reported(rig: Rig) -> None:
    """There was never a frame, so the stream is connecting, then offline, and not stalled."""
    reason = "no video within 2 s (open_timeout_s)"
    with rig.witness_undisturbed():
        assert not rig.watcher.events("prediction", "hole"), "the server has not answered since the start"
        rig.watcher.state("hole", "offline", since=0.0, within=float("inf"), reason=reason)
        since = time.monotonic()
        rig.cameras.heal("hole")
        rig.watcher.state("hole", "live", since=since, within=OPEN_S + 2 + SLACK_S)
        since = time.monotonic()
        rig.cameras.fault("hole", blackhole=True)
        rig.cameras.disconnect("hole")
        rig.watcher.state("hole", "connecting", since=since, within=1 + SLACK_S)
        rig.watcher.state("hole", "connecting", "offline", since=since, within=2 * OPEN_S + 1 + SLACK_S, reason=reason)
        rig.watcher.state("hole", "offline", since=since, within=3 + SLACK_S)
        rig.cameras.heal("hole")


@pytest.mark.parametrize("fault", ["drop", "corrupt"])
def test_damage_is_counted_in_windows_and_closes_no_connection(rig: Rig, fault: str) -> None:
    with rig.witness_undisturbed():
        since = time.monotonic()
        plays = rig.door.mounts["victim"].plays
        rig.door.fault("victim", **{fault: 0.1})
        rig.watcher.wait(
            "prediction", "victim", since=since, within=60, where=lambda s: s.event["window"]["corrupt"] > 0
        )
        rig.door.heal("victim")
        rig.wait_recovered()
        assert rig.door.mounts["victim"].plays == plays, "in the same connection"


def test_junk_between_packets_is_skipped(rig: Rig) -> None:
    with rig.witness_undisturbed():
        rig.door.fault("victim", junk=3000)
        rig.wait_recovered(since=time.monotonic() + 1)


def test_another_resolution_and_rate_apply_from_the_next_window_on(rig: Rig) -> None:
    with rig.witness_undisturbed():
        since = time.monotonic()
        plays = rig.door.mounts["victim"].plays
        segment = rig.watcher.events("prediction", "victim")[-1].window[0]
        rig.door.fault("victim", film=OTHER)
        first = rig.watcher.wait("prediction", "victim", since=since, within=5 + SLACK_S, where=_dark)
        received = rig.watcher.events("prediction", "victim", since=since, until=first.at_s)
        mixed = [seen for seen in received if 0.01 < seen.probability("dark") < 0.99]
        assert len(mixed) <= WINDOW_CHUNKS, "a window that began after the change has an older frame"
        status = rig.watcher.wait(
            "status", "victim", since=since, within=6 + SLACK_S, where=lambda s: s.event["counters"]["width"] == 320
        )
        assert status.event["state"] == "live"
        rig.door.fault("victim", film=BRIGHT)
        assert rig.wait_recovered().window[0] == segment
        assert rig.door.mounts["victim"].plays == plays, "no restart"


def test_a_jump_of_the_wall_clock_has_no_effect(rig: Rig) -> None:
    # It comes before the jumps of media time: after several of these, frames get the time at which they arrive. Then a
    # busy machine that delays them begins segments.
    with rig.witness_undisturbed():
        segment = rig.watcher.events("prediction", "victim")[-1].window[0]
        begin = time.monotonic()
        for hours in (1, -1, 0):
            since = time.monotonic()
            (rig.folder / "offset").write_text(str(hours * 3600))
            seen = rig.watcher.wait(
                "prediction", "victim", since=since, within=60, where=lambda s, h=hours: _clock_of(s) == h
            )
            assert seen.window[0] == segment or is_late(rig.door, "victim", begin)
            # Longer than READ_S, so that a false stall would show.
            late = seen.window[1] + READ_S + 0.1
            rig.watcher.wait("prediction", "victim", since=since, within=60, where=lambda s, t=late: s.window[1] > t)
        for server, stream in ((rig.door, "victim"), (rig.cameras, "witness")):
            states = {seen.event["state"] for seen in rig.watcher.events("status", stream, since=begin)}
            assert states <= {"live"} or is_late(server, stream, begin), "no false stall"


@pytest.mark.parametrize("jump_s", [-10, 40_000])
def test_a_jump_of_media_time_begins_a_segment_and_mixes_no_frames(rig: Rig, jump_s: float) -> None:
    with rig.witness_undisturbed():
        since = time.monotonic()
        segment = rig.watcher.events("prediction", "victim")[-1].window[0]
        rig.door.fault("victim", film=DARK, jump_s=jump_s)
        rig.watcher.wait("prediction", "victim", since=since, within=3 + SLACK_S, where=_dark)
        rig.door.fault("victim", film=BRIGHT, jump_s=0.0)
        last = rig.wait_recovered()
        received = rig.watcher.events("prediction", "victim", since=since, until=last.at_s)
        assert all(not 0.01 < seen.probability("dark") < 0.99 for seen in received), "a window across the jump"
        assert sorted({seen.window[0] for seen in received if seen.window[0] > segment}) == [segment + 1, segment + 2]
        states = {seen.event["state"] for seen in rig.watcher.events("status", "victim", since=since)}
        assert states <= {"live"}, "no false stall"


def test_identical_frames_are_reported_as_frozen(rig: Rig) -> None:
    with rig.witness_undisturbed():
        since = time.monotonic()
        rig.cameras.fault("hung", film=STILL)
        frozen = rig.watcher.state("hung", "frozen", since=since, within=2 + 2 + SLACK_S, reason="no new image for")
        rig.watcher.wait("prediction", "hung", since=frozen.at_s, within=1 + SLACK_S)
        since = time.monotonic()
        rig.cameras.disconnect("hung")
        rig.watcher.state("hung", "connecting", since=since, within=1 + SLACK_S)
        rig.watcher.state("hung", "frozen", since=since, within=3 + SLACK_S)
        since = time.monotonic()
        rig.cameras.fault("hung", film=BRIGHT)
        rig.watcher.state("hung", "live", since=since, within=1 + SLACK_S)


@pytest.mark.alone  # memory and processor time are measured
def test_a_flood_takes_bounded_memory_and_cpu_and_disturbs_no_other_stream(rig: Rig) -> None:
    with rig.witness_undisturbed():
        pids = [rig.service.process.pid, *rig.service.descendants()]
        victims = [pid for pid in rig.captures if rss_bytes(pid)]
        before, cpu_before, since = sum(map(rss_bytes, pids)), sum(map(cpu_s, victims)), time.monotonic()
        first = rig.watcher.events("prediction", "victim")[-1].window
        rig.door.fault("victim", rate=20.0)
        # 40 s of media time: two seconds of flood, or longer where the machine or the rate limit slows it down.
        rig.watcher.wait("prediction", "victim", since=since, within=60, where=lambda s: s.window[1] > first[1] + 40)
        took = time.monotonic() - since
        assert sum(map(rss_bytes, pids)) - before < 64 << 20
        assert sum(map(cpu_s, victims)) - cpu_before < 2 * took, "one core for the flood, less than one for the others"
        rig.door.heal("victim")
        rig.wait_recovered()
        states = {seen.event["state"] for seen in rig.watcher.events("status", "victim", since=since)}
        assert states <= {"live"}


def test_a_server_error_is_reported_and_the_server_found_again(rig: Rig) -> None:
    reason = "the server reports an error of its own (5xx)"
    with rig.witness_undisturbed():
        rig.watcher.state("busy", "offline", since=0.0, within=float("inf"), reason=reason)
        since = time.monotonic()
        rig.cameras.heal("busy")
        rig.watcher.state("busy", "live", since=since, within=2 + SLACK_S)
        since = time.monotonic()
        rig.cameras.fault("busy", status=503)
        rig.cameras.disconnect("busy")
        rig.watcher.state("busy", "connecting", since=since, within=1 + SLACK_S)
        rig.watcher.state("busy", "connecting", "offline", since=since, within=2 + SLACK_S, reason=reason)


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        ("absent", "not found (404); check the path"),
        ("refused", "authentication refused (401); check user name and password"),
    ],
)
def test_a_refused_stream_is_offline_with_the_reason(rig: Rig, stream: str, reason: str) -> None:
    rig.watcher.state(stream, "offline", since=0.0, within=float("inf"), reason=reason)
    assert {seen.event["state"] for seen in rig.watcher.events("status", stream)} <= {"connecting", "offline"}
    assert not rig.watcher.events("prediction", stream)


def test_credentials_with_special_characters_work_and_are_shown_nowhere(rig: Rig) -> None:
    """This test is the last one: the other tests have filled the log and the journal."""
    rig.watcher.state("locked", "live", since=0.0, within=float("inf"))
    shown = {
        "events": b"\n".join(seen.raw for seen in rig.watcher.seen),
        "log": "\n".join(rig.service.lines).encode(),
        "journal": b"".join(path.read_bytes() for path in rig.folder.glob("streamclf.db*")),
        "ps": subprocess.run(["ps", "-eo", "args", "-ww"], capture_output=True, check=True, timeout=10).stdout,
        "argv": b"".join(
            Path(f"/proc/{pid}/cmdline").read_bytes() for pid in [rig.service.process.pid, *rig.service.descendants()]
        ),
    }
    assert b"rtsp://***@127.0.0.1" in shown["log"]
    for secret in (PASSWORD, WRONG):
        for form in (secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]):
            for where, text in shown.items():
                assert form.encode() not in text, f"a password in {where}"


def _dark(seen: Seen) -> bool:
    return seen.probability("dark") > 0.99


def _clock_of(seen: Seen) -> int:
    """Return the hours by which the service's wall clock is wrong."""
    then = datetime.fromisoformat(seen.event["time"].replace("Z", "+00:00")).timestamp()
    return round((then - time.time()) / 3600)
