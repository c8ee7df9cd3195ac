"""The supervisor's small rooms: crashes counted, limits compared, files looked at, systemd told, strangers buried."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamclf.config.service import PublishConfig, ServiceConfig
from streamclf.errors import ConfigError
from streamclf.supervisor import child as child_module
from streamclf.supervisor import machine_limits
from streamclf.supervisor.child import BACKOFF_S, MAX_CRASHES, PARKED_S, STABLE_S, Child, reap_orphans
from streamclf.supervisor.config_watch import ConfigFile, check_reload
from streamclf.supervisor.machine_limits import check_memory, needed_descriptors, secure_descriptors
from streamclf.supervisor.stream_plan import Geometry
from streamclf.supervisor.systemd import Notifier
from streamclf.supervisor.timers import Timers

GEOMETRY = Geometry(fps=10, frames_per_chunk=2, height=224, width=224, resize="stretch", slots=24)


class Clock:
    """In place of a module's `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(child_module, "time", clock)
    return clock


def child() -> Child:
    return Child("capture[door]", "streamclf.capture", lambda _: None)


def test_five_crashes_a_minute_park_a_child_and_fewer_never_do(clock: Clock) -> None:
    often, seldom = child(), child()
    for i in range(MAX_CRASHES - 1):
        assert often.record_crash() == BACKOFF_S[i]
        clock.now += 5
    assert often.record_crash() is None
    for _ in range(50):
        clock.now += 60 / (MAX_CRASHES - 1) + 1
        assert seldom.record_crash() is not None


def test_a_parked_child_is_tried_again_ever_more_seldom_until_it_runs_for_long(clock: Clock) -> None:
    parked = child()
    waits = []
    for _ in range(len(PARKED_S) + 2):
        parked.started_s = clock.now
        for _ in range(MAX_CRASHES):
            delay = parked.record_crash()
        assert delay is None
        waits.append(parked.park())
        clock.now += waits[-1]
    assert waits == [*PARKED_S, PARKED_S[-1], PARKED_S[-1]]
    parked.started_s = clock.now
    clock.now += STABLE_S + 1
    parked.record_crash()
    assert parked.park() == PARKED_S[0]


def test_timers_fire_in_their_order_and_only_when_due() -> None:
    timers = Timers()
    timers.add(60, "end")
    timers.add(0, "kill", "b", 2)
    timers.add(-1, "start", "a", 1)
    first, second = timers.due(), timers.due()
    assert first is not None
    assert second is not None
    assert (first.what, first.child, first.run) == ("start", "a", 1)
    assert (second.what, second.child, second.run) == ("kill", "b", 2)
    assert timers.due() is None
    assert 50 < timers.wait_s() <= 60


def test_descriptors_are_counted_for_the_process_that_needs_most() -> None:
    assert needed_descriptors(1) == 260
    assert needed_descriptors(400) == 64 + 6 * 400


def test_a_soft_limit_is_raised_and_a_hard_one_named(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(machine_limits.resource, "getrlimit", lambda _: (64, 1000))
    monkeypatch.setattr(machine_limits.resource, "setrlimit", lambda _, to: raised.append(to))
    secure_descriptors(10)
    assert raised == [(needed_descriptors(10), 1000)]

    def refuse(_: int, to: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(machine_limits.resource, "setrlimit", refuse)
    with pytest.raises(ConfigError, match=r"400 of them need 2464 file descriptors, and at most 1000 .* LimitNOFILE="):
        secure_descriptors(400)


def test_a_limit_that_suffices_is_left_alone() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    secure_descriptors(1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_memory_is_compared_with_what_all_rings_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_limits, "available_bytes", lambda: 200 << 20)
    check_memory(10, GEOMETRY)
    with pytest.raises(ConfigError, match=r"100 of them need 689\.\d MiB of shared memory, and 136 MiB are free"):
        check_memory(100, GEOMETRY)
    monkeypatch.setattr(machine_limits, "available_bytes", lambda: None)
    check_memory(100, GEOMETRY)


def test_a_file_is_taken_when_it_has_settled_and_only_once(tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    path.write_text("streams: {a: {camera: 0}}")
    file = ConfigFile(path)
    assert not file.changed()
    path.write_text("streams: {a: {camera: 0}, b: {camera: 1}}")
    assert not file.changed()  # seen for the first time
    path.write_text("streams: {a: {camera: 0}, b: {camera: 1}, c: {camera: 2}}")
    assert not file.changed()  # still being written
    assert file.changed()
    assert set(file.read().config.streams) == {"a", "b", "c"}
    assert not file.changed()
    path.rename(tmp_path / "away")
    assert not file.changed()
    assert not file.changed()
    (tmp_path / "new").write_text("streams: [")
    (tmp_path / "new").rename(path)
    assert not file.changed()
    assert file.changed()
    with pytest.raises(ConfigError, match="while parsing"):
        file.read()
    assert not file.changed()  # a mistake is reported once


@pytest.mark.parametrize(
    ("key", "value"),
    [("events", "tcp://127.0.0.1:7"), ("replay", "tcp://127.0.0.1:7"), ("journal", Path("other.db"))],
)
def test_what_subscribers_rely_on_needs_a_restart(key: str, value: object) -> None:
    running = PublishConfig()
    with pytest.raises(ConfigError, match=rf"publish\.{key}=.*: cannot change .*; restart the service"):
        check_reload(running, running.model_copy(update={key: value}))
    check_reload(running, running.model_copy(update={"keep": "1h", "keep_size": "1GB"}))


def test_actions_and_hop_are_no_business_of_a_capture_process() -> None:
    from streamclf.supervisor.stream_plan import StreamPlan

    def plan(**stream: object) -> StreamPlan:
        config = ServiceConfig.model_validate({"streams": {"a": {"url": "a.mp4", **stream}}})
        return StreamPlan(
            source=config.streams["a"], geometry=GEOMETRY, actions=config.actions_of("a"), engine=config.engine
        )

    assert plan().same_capture(plan(hop=3, actions={"wave": {"on": 0.9}}, unknown_below=0.3))
    assert plan().settings != plan(hop=3).settings
    assert not plan().same_capture(plan(read_timeout_s=9))
    assert plan().same_channels(plan(read_timeout_s=9))
    assert not plan().same_channels(plan(pace="fast"))
    assert plan().same_capture(plan(adaptive=True, max_staleness_ms=200, motion_gate=2))
    assert plan().settings != plan(motion_gate=2).settings


def test_what_streams_are_told_of_the_engine_needs_no_new_classifier() -> None:
    from types import SimpleNamespace
    from typing import Any, cast

    from streamclf.supervisor.shared_children import SharedChildren

    def differs(**engine: object) -> bool:
        old, new = (
            cast(
                Any,
                SimpleNamespace(
                    bundle="same",
                    config=ServiceConfig.model_validate({"engine": each, "streams": {"a": {"camera": 0}}}),
                ),
            )
            for each in ({}, engine)
        )
        return SharedChildren.needs_new_classifier(cast(Any, None), old, new)

    assert not differs(adaptive=True, max_staleness_ms=300, spare_streams=9)
    assert differs(max_batch=3)
    assert differs(max_wait_ms=3)


def test_a_stream_has_of_the_common_settings_what_it_does_not_have_itself() -> None:
    from streamclf.supervisor.stream_plan import StreamPlan

    def settings(engine: dict[str, object], **stream: object) -> tuple[bool, float | None]:
        config = ServiceConfig.model_validate({"engine": engine, "streams": {"a": {"camera": 0, **stream}}})
        plan = StreamPlan(
            source=config.streams["a"], geometry=GEOMETRY, actions=config.actions_of("a"), engine=config.engine
        )
        return plan.settings.adaptive, plan.settings.max_staleness_ms

    assert settings({}) == (False, None)
    assert settings({"adaptive": True, "max_staleness_ms": 300}) == (True, 300)
    assert settings({"adaptive": True, "max_staleness_ms": 300}, adaptive=False, max_staleness_ms=90) == (False, 90)
    assert settings({}, adaptive=True, max_staleness_ms=90) == (True, 90)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_once_asked_for(tmp_path: Path, abstract: bool) -> None:
    if abstract and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's")
    address = f"@streamclf-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + address[1:] if abstract else address)
        systemd.settimeout(10)
        environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
        notifier = Notifier(environ)
        assert environ == {"A": "b"}
        assert notifier.watchdog_s == 5.0
        notifier.ready("serving")
        assert systemd.recv(4096) == b"READY=1\nSTATUS=serving"
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        first, second = systemd.recv(4096).decode().splitlines()
        assert first == "RELOADING=1"
        assert int(second.removeprefix("MONOTONIC_USEC=")) >= before
        notifier.alive()
        notifier.still_starting(30)
        notifier.stopping()
        said = [systemd.recv(4096) for _ in range(3)]
        assert said == [b"WATCHDOG=1", b"EXTEND_TIMEOUT_USEC=30000000", b"STOPPING=1"]


def test_without_systemd_nothing_is_said_and_nothing_fails(tmp_path: Path) -> None:
    Notifier({}).ready("serving")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("serving")
    other = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"})
    assert other.watchdog_s is None


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs waitid")
def test_process_one_buries_strangers_and_leaves_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> subprocess.Popen[bytes]:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        return ended

    stranger = start()
    assert reap_orphans(set()) == 0  # we are not process 1
    monkeypatch.setattr("streamclf.supervisor.child.os.getpid", lambda: 1)
    assert reap_orphans(set()) == 1
    with pytest.raises(ChildProcessError):
        os.waitpid(stranger.pid, os.WNOHANG)
    stranger.returncode = 0
    ours = start()
    assert reap_orphans({ours.pid}) == 0
    assert ours.wait(10) == 0
