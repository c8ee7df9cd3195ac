"""Processes that are stopped, killed, hung or starved: the service recovers soon and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.clips import film
from support.live import Setup, assert_consecutive, assert_unbroken
from support.ports import free_port
from support.rtsp_server import RtspServer
from support.service import DEADLINE_S, Service, wait_gone
from support.watcher import Seen, Watcher

from streamclf.bench.service.process_usage import descendants

STOP_S = 2.0
SLACK_S = 5.0
"""Added to each limit, for a machine that is busy with other things."""

LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux reports stops to a parent and orphanhood to a child"
)

CLASSIFIER_LIMIT_S = 2.0
HANG = f"""
import ctypes, signal, sys
# Like a library that never returns and never releases the interpreter: no thread of the process can run any more.
signal.signal(signal.SIGUSR1, lambda *_: ctypes.PyDLL(None).sleep(3600))
if "streamclf.classifier" in sys.orig_argv:
    import streamclf.classifier.loop
    streamclf.classifier.loop.BATCH_S = {CLASSIFIER_LIMIT_S}  # 10 s otherwise
"""


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


@contextlib.contextmanager
def two_streams(
    setup: Setup, env: dict[str, str] | None = None, program: Sequence[str] = ("-m", "streamclf")
) -> Iterator[tuple[Service, Watcher]]:
    """Start a service with two streams, and wait for a prediction of each."""
    began = time.monotonic()
    path = setup.write(streams={"one": setup.film, "two": setup.film})
    env = {**setup.env, **(env or {})}
    service = Service("run", str(path), cwd=setup.folder, env=env, program=program)
    with service, Watcher(service.endpoint) as watcher:
        for stream in ("one", "two"):
            watcher.wait("prediction", stream, since=began, within=DEADLINE_S)
        yield service, watcher


def leftovers(setup: Setup) -> list[Path]:
    """Return what the service has left in its directory for temporary files."""
    return list(setup.temp.iterdir())


@LINUX
@pytest.mark.parametrize("module", ["capture", "classifier", "hub"])
def test_a_stopped_process_is_replaced(setup: Setup, module: str, record_property: pytest.RecordProperty) -> None:
    with two_streams(setup) as (service, watcher):
        began = time.monotonic()
        pid = service.children(f"streamclf.{module}")[0]
        os.kill(pid, signal.SIGSTOP)
        service.wait_for_line(r"ended \(stopped by a signal for \d+\.\d s\); starting it again in 0\.2 s")
        killed = time.monotonic()
        seen = [
            watcher.wait("prediction", stream, since=killed, within=DEADLINE_S).at_s - began
            for stream in ("one", "two")
        ]
        record_property("recovery_s", round(max(seen), 2))
        wait_gone([pid])
        assert len(service.descendants()) == 4
        if module == "capture":
            broken = {
                stream
                for stream in ("one", "two")
                if len({seen.window[0] for seen in watcher.events("prediction", stream)}) > 1
            }
            assert len(broken) == 1  # its own stream begins a new segment; the other stream continues
            offline = watcher.state(broken.pop(), "offline", since=began, within=DEADLINE_S)
            assert offline.event["reason"].startswith("capture process ended (stopped by a signal")
        service.interrupt()
        assert service.wait() == 0
    if module == "hub":  # no event that was posted while the hub was down is lost
        with contextlib.closing(sqlite3.connect(setup.folder / "streamclf.db")) as journal:
            rows = journal.execute("select body from events order by offset").fetchall()
        events = [event for (body,) in rows if (event := json.loads(body))["type"] == "prediction"]
        for stream in ("one", "two"):
            predictions = [event for event in events if event["stream"] == stream]
            assert len(predictions) >= 2
            assert_consecutive(predictions)


def test_a_process_that_is_stopped_only_briefly_is_not_restarted(setup: Setup) -> None:
    # Longer than the usual 0.4 s: a busy machine may delay the SIGCONT of this test.
    longer = "from streamclf.supervisor import supervisor; supervisor.STOPPED_S = 1.0"
    program = ("-c", f"{longer}; from streamclf.cli import main; main()")
    with two_streams(setup, program=program) as (service, watcher):
        processes = sorted(service.descendants())
        since = time.monotonic()
        pid = service.children("streamclf.classifier")[0]
        for _ in range(3):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.1)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.3)
        watcher.wait("prediction", "one", since=time.monotonic() + 0.5, within=DEADLINE_S)
        assert sorted(service.descendants()) == processes
        assert_unbroken(watcher, "one", since=since, at_least=5)


def test_a_classifier_that_hangs_in_a_library_is_replaced(setup: Setup) -> None:
    (setup.folder / "sitecustomize.py").write_text(HANG)
    path = os.pathsep.join([str(setup.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    with two_streams(setup, env={"PYTHONPATH": path}) as (service, watcher):
        pid = service.children("streamclf.classifier")[0]
        os.kill(pid, signal.SIGUSR1)
        line = service.wait_for_line(r"classifier: hung: no progress for (\d+\.\d) s while classifying: killed")
        assert float(line[1]) >= CLASSIFIER_LIMIT_S
        found = time.monotonic()
        for stream in ("one", "two"):
            watcher.wait("prediction", stream, since=found, within=DEADLINE_S)
        wait_gone([pid])


def test_a_capture_that_hangs_in_a_library_is_replaced(setup: Setup) -> None:
    """The hang is found after twice the read time-out, a second, and the interval between two checks."""
    (setup.folder / "sitecustomize.py").write_text(HANG)
    path = os.pathsep.join([str(setup.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    camera = film(light=200, width=160, height=90, gop=25, frames=250)
    with RtspServer(dict.fromkeys(("one", "two"), camera)) as server:
        streams = {name: {"url": server.url(name), "read_timeout_s": 3} for name in ("one", "two")}
        config = setup.write(streams=streams)
        env = {**setup.env, "PYTHONPATH": path}
        with Service("run", str(config), cwd=setup.folder, env=env) as service, Watcher(service.endpoint) as watcher:
            began = time.monotonic()
            for stream in streams:
                watcher.wait("prediction", stream, since=began, within=DEADLINE_S)
            began = time.monotonic()
            os.kill(service.children("streamclf.capture")[0], signal.SIGUSR1)
            found = service.wait_for_line(r"capture\[(\w+)\]: hung: no progress for (\d+\.\d) s while reading: killed")
            assert float(found[2]) >= 7.0
            watcher.state(found[1], "offline", since=began, within=DEADLINE_S, reason="capture process ended (hung")
            watcher.wait("prediction", found[1], since=time.monotonic(), within=DEADLINE_S)
            other = "two" if found[1] == "one" else "one"
            assert_unbroken(watcher, other, since=began, at_least=10)


@LINUX
def test_a_stopped_supervisor_stops_no_stream_and_kills_no_child(setup: Setup) -> None:
    with two_streams(setup) as (service, watcher):
        processes = sorted(service.descendants())
        began = time.monotonic()
        service.process.send_signal(signal.SIGSTOP)
        watcher.wait("prediction", "one", since=began + 3.5, within=DEADLINE_S)
        service.process.send_signal(signal.SIGCONT)
        # One check of the supervisor takes place in this time.
        watcher.wait("prediction", "one", since=time.monotonic() + 1.5, within=DEADLINE_S)
        for stream in ("one", "two"):
            assert_unbroken(watcher, stream, since=began, at_least=20)
        assert sorted(service.descendants()) == processes


@LINUX
def test_a_killed_supervisor_leaves_nothing_behind_even_with_stopped_children(setup: Setup) -> None:
    with two_streams(setup) as (service, _):
        children = service.descendants()
        for pid in (*service.children("streamclf.classifier"), service.children("streamclf.capture")[0]):
            os.kill(pid, signal.SIGSTOP)
        assert len(leftovers(setup)) == 1  # the directory of its sockets
        service.process.kill()
        wait_gone(children)
        deadline = time.monotonic() + DEADLINE_S
        while leftovers(setup):
            assert time.monotonic() < deadline, leftovers(setup)
            time.sleep(0.02)


def test_a_killed_service_can_restart_at_once_on_the_same_ports_and_journal(setup: Setup) -> None:
    """Restart as systemd does. If the old hub has not quite ended, a later attempt succeeds."""
    setup.config["publish"] = {key: f"tcp://127.0.0.1:{free_port()}" for key in ("events", "replay")}
    with Watcher(setup.config["publish"]["events"]) as watcher:
        began = time.monotonic()
        with two_streams(setup) as (service, _):
            watcher.wait("prediction", "one", since=began, within=DEADLINE_S)  # it may connect after the other watcher
            service.process.kill()
            killed = time.monotonic()
            seen: Seen | None = None
            while seen is None:
                attempt = Service("run", str(setup.path), cwd=setup.folder)
                with attempt as again, contextlib.suppress(AssertionError):
                    again.wait_for_line("publishing on")
                    seen = watcher.wait("prediction", "one", since=time.monotonic(), within=DEADLINE_S)
                assert seen or time.monotonic() < killed + DEADLINE_S, again.lines
        before = watcher.events("prediction", "one", until=killed)[-1].event
    assert seen.event["epoch"] == before["epoch"]
    assert seen.event["offset"] > before["offset"]


def test_a_stream_that_keeps_crashing_is_parked_until_a_reload(setup: Setup) -> None:
    with two_streams(setup) as (service, watcher):
        began = time.monotonic()
        spared = service.children("streamclf.capture")[1]
        for delay in ("0.2", "0.5", "1.0", "2.0"):
            (pid,) = set(service.children("streamclf.capture")) - {spared}
            os.kill(pid, signal.SIGKILL)
            service.wait_for_line(rf"ended \(signal 9\); starting it again in {delay} s")
            wait_gone([pid])
            deadline = time.monotonic() + DEADLINE_S
            while len(service.children("streamclf.capture")) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        (pid,) = set(service.children("streamclf.capture")) - {spared}
        os.kill(pid, signal.SIGKILL)
        name = service.wait_for_line(r"capture\[(\w+)\]: ended 5 times within a minute, .*; parked for 60 s")[1]
        watcher.state(name, "offline", since=began, within=DEADLINE_S, reason="starting it again in 60.0 s")
        reloaded = time.monotonic()
        service.process.send_signal(signal.SIGHUP)
        watcher.wait("prediction", name, since=reloaded, within=DEADLINE_S)
        other = "two" if name == "one" else "one"
        assert_unbroken(watcher, other, since=began, at_least=20)


@pytest.mark.alone  # it must end within 2 s
@pytest.mark.parametrize("state", ["starting", "connecting", "stopped"])
def test_the_service_ends_within_two_seconds_in_any_state(
    setup: Setup, state: str, record_property: pytest.RecordProperty
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        camera = {"url": f"rtsp://127.0.0.1:{silent.getsockname()[1]}/door", "open_timeout_s": 60}
        path = setup.write(streams={"film": setup.film, "camera": camera})
        with Service("run", str(path), cwd=setup.folder, env=setup.env) as service:
            if state != "starting":
                service.wait_for_line("publishing on")
            silent.settimeout(DEADLINE_S)
            connection, _ = silent.accept()  # the capture process is connecting now and gets no answer
            children = service.descendants()
            if state == "stopped":
                for pid in children:
                    os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            service.process.terminate()
            assert service.wait() == 0
            took_s = time.monotonic() - began
            connection.close()
            record_property("stop_s", round(took_s, 2))
            assert took_s < STOP_S + SLACK_S
            wait_gone(children)
    assert leftovers(setup) == []


def run_limited(setup: Setup, limit: str) -> subprocess.CompletedProcess[str]:
    """Run a service under `ulimit LIMIT` until it ends."""
    path = setup.write(streams={"one": setup.film, "two": setup.film})
    command = ["sh", "-c", f'ulimit {limit} && exec "$@"', "sh", sys.executable, "-m", "streamclf", "run", str(path)]
    env = {**os.environ, **setup.env, "STREAMCLF_CACHE": str(setup.folder / "cache")}
    return subprocess.run(
        command, cwd=setup.folder, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def test_too_few_file_descriptors_are_reported_with_need_limit_and_remedy(setup: Setup) -> None:
    done = run_limited(setup, "-n 128")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "streams: 2 streams need 264 file descriptors, and at most 128 are allowed here; raise" in done.stderr
    assert "LimitNOFILE=" in done.stderr


def test_a_low_soft_limit_is_raised(setup: Setup) -> None:
    path = setup.write(streams={"one": {**setup.film, "loop": False, "pace": "fast"}})
    command = ["sh", "-c", 'ulimit -Sn 64 && exec "$@"', "sh", sys.executable, "-m", "streamclf", "run", str(path)]
    env = {**os.environ, "STREAMCLF_CACHE": str(setup.folder / "cache")}
    done = subprocess.run(command, cwd=setup.folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_missing_shared_memory_is_reported_in_one_line_at_the_start(setup: Setup) -> None:
    """Allocation succeeds or is an error at once, also with a full memory; it is never a bus error later."""
    done = run_limited(setup, "-f 1")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "of shared memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert leftovers(setup) == []


@LINUX
def test_a_service_classifies_on_one_core(setup: Setup) -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with two_streams(setup) as (service, watcher):
            since = time.monotonic()
            for stream in ("one", "two"):
                watcher.wait("prediction", stream, since=since + 1, within=DEADLINE_S)
            service.interrupt()
            assert service.wait() == 0
    finally:
        os.sched_setaffinity(0, cores)


@LINUX
def test_systemd_is_notified_of_readiness_health_reload_and_the_end(setup: Setup) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        address = str(setup.folder / "notify")
        systemd.bind(address)
        systemd.settimeout(DEADLINE_S)

        def receive(expected: str) -> str:
            while not (message := systemd.recv(4096).decode()).startswith(expected):
                pass
            return message

        path = setup.write(streams={"one": setup.film})
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"}
        with Service("run", str(path), cwd=setup.folder, env=env) as service:
            assert "STATUS=publishing on tcp://127.0.0.1:" in receive("READY=1")
            receive("WATCHDOG=1")
            service.process.send_signal(signal.SIGHUP)
            assert "MONOTONIC_USEC=" in receive("RELOADING=1")
            receive("READY=1")
            for pid in service.children("streamclf.hub"):
                assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
            service.process.terminate()
            receive("STOPPING=1")
            assert service.wait() == 0


def can_unshare() -> bool:
    try:
        command = ["unshare", "-Ufpr", "--mount-proc", "true"]
        return subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False).returncode == 0
    except OSError:
        return False


def state_of(pid: int) -> str:
    """Return the name of a process and the kernel's letter for its state; empty for a process that has ended."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return ""
    return f"{name} {rest.split()[0]}"


def descendant_states(pid: int) -> list[str]:
    """Return the states of all descendants of `pid`."""
    return [state_of(child) for child in descendants(pid)]


@LINUX
@pytest.mark.alone  # it must end within 2 s
def test_the_service_as_process_1_of_a_container_reaps_orphans_and_ends_on_request(setup: Setup) -> None:
    if not can_unshare():
        pytest.skip("this machine does not allow process namespaces")
    path = setup.write(streams={"one": setup.film})
    orphan = '(sleep 3 &); exec "$@"'  # it ends when the service runs already
    inner = ["sh", "-c", orphan, "sh", sys.executable, "-m", "streamclf", "run", str(path)]
    container = subprocess.Popen(
        ["unshare", "-Ufpr", "--mount-proc", "--kill-child", *inner],
        cwd=setup.folder,
        env={**os.environ, "STREAMCLF_CACHE": str(setup.folder / "cache")},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert container.stderr is not None
        for line in container.stderr:
            if "publishing on" in line:
                break
        assert any(state.startswith("sleep") for state in descendant_states(container.pid))
        deadline = time.monotonic() + DEADLINE_S
        while any(state.startswith("sleep") for state in descendant_states(container.pid)):
            assert time.monotonic() < deadline, descendant_states(container.pid)
            time.sleep(0.05)
        (service,) = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
        assert len(descendant_states(int(service))) == 3
        began = time.monotonic()
        os.kill(int(service), signal.SIGTERM)
        assert container.wait(DEADLINE_S) == 0
        assert time.monotonic() - began < STOP_S + SLACK_S
    finally:
        container.kill()
        container.communicate()
