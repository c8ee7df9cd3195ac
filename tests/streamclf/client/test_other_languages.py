"""Run the programs in docs/clients against a real hub, where their language is installed."""

from __future__ import annotations

import fcntl
import json
import shutil
import struct
import subprocess
import termios
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.hub_process import HubProcess, prediction, status, wait_until
from support.processes import wakes
from support.repository import ROOT

from streamclf.producer.link import EventProducer

CLIENTS = ROOT / "docs" / "clients"
DEADLINE_S = 60.0


@pytest.fixture
def hub() -> Iterator[HubProcess]:
    with HubProcess() as hub:
        yield hub


@pytest.fixture(scope="module")
def node() -> str:
    """Find Node with the zeromq package: beside the programs, above them, or in NODE_PATH."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node is not installed")
    done = subprocess.run([found, "-e", "require('zeromq')"], cwd=CLIENTS, capture_output=True, timeout=60)
    if done.returncode:
        pytest.skip("npm install zeromq (and NODE_PATH=…/node_modules, if that is elsewhere)")
    return found


@pytest.fixture(scope="module")
def live_c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the C program with warnings as errors."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    includes = subprocess.run(
        [compiler, "-E", "-"], input=b"#include <zmq.h>\n", capture_output=True, timeout=60
    )  # fmt: skip
    if includes.returncode:
        pytest.skip("zmq.h is missing: apt-get install libzmq3-dev")
    program = tmp_path_factory.mktemp("clients") / "live"
    subprocess.run(
        [compiler, "-Wall", "-Wextra", "-Werror", "-O1", str(CLIENTS / "live.c"), "-lzmq", "-o", str(program)],
        check=True, timeout=120,
    )  # fmt: skip
    return program


class Program:
    """A running client, and the lines that it has printed."""

    def __init__(self, *arguments: str | Path) -> None:
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    def kill(self) -> str:
        """Kill the client with SIGKILL; return what it printed on stderr."""
        self._process.kill()
        self._reader.join(DEADLINE_S)
        _, err = self._process.communicate(timeout=DEADLINE_S)
        return str(err)


@contextmanager
def running(*arguments: str | Path) -> Iterator[Program]:
    program = Program(*arguments)
    try:
        yield program
    finally:
        program.kill()


def post_until(link: EventProducer, program: Program) -> None:
    """Post until the client prints something: it receives only what is published after it has connected."""

    def has_printed() -> bool:
        for stream in ("door", "yard"):
            link.post(prediction(stream))
            link.post(status(stream))
        return len(program.lines) > 2

    wait_until(has_printed, "a line of the client", DEADLINE_S)


def test_javascript_prints_predictions(hub: HubProcess, node: str) -> None:
    with EventProducer(hub.link, "test") as link, running(node, CLIENTS / "live.js", hub.events) as program:
        post_until(link, program)
        assert set(program.lines) == {"door wave 0.91", "yard wave 0.91"}


def test_c_prints_the_events_of_its_topic(hub: HubProcess, live_c: Path) -> None:
    with EventProducer(hub.link, "test") as link, running(live_c, hub.events, "prediction/door/") as program:
        post_until(link, program)
        events = [json.loads(line) for line in program.lines]
    assert {(event["type"], event["stream"]) for event in events} == {("prediction", "door")}
    assert all(event["top"][0] == ["wave", 0.91] for event in events)


def test_c_program_reports_a_malformed_endpoint(live_c: Path) -> None:
    done = subprocess.run([live_c, "nonsense"], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert done.stderr == "nonsense: Invalid argument\n"


def test_javascript_misses_nothing_when_it_or_the_hub_is_killed(hub: HubProcess, node: str, tmp_path: Path) -> None:
    position = tmp_path / "position.json"
    printed: list[str] = []
    posted = 0

    def post(count: int) -> None:
        nonlocal posted
        with EventProducer(hub.link, "test") as link:
            for number in range(posted, posted + count):
                link.post(prediction(f"cam{number % 3}", number=number))
            wait_until(lambda: link.unacknowledged == 0, "confirmation")
        posted += count

    def offsets() -> list[int]:
        return [json.loads(line)["offset"] for line in printed]

    post(2500)
    for _ in range(2):
        with running(node, CLIENTS / "replay.js", hub.events, position) as program:
            wait_until(lambda program=program: len(program.lines) > 0, "a page", DEADLINE_S)
        printed += program.lines  # killed while it reads
        post(100)
    with running(node, CLIENTS / "replay.js", hub.events, position) as program:
        wait_until(lambda: any(f'"offset":{posted},' in line for line in program.lines), "the end", DEADLINE_S)
        hub.kill()
        hub.start()
        post(50)
        wait_until(lambda: json.loads(position.read_text())["after"] == posted, "its position", DEADLINE_S)
    printed += program.lines
    assert sorted(set(offsets())) == list(range(1, posted + 1))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_javascript_stores_no_position_before_its_output_has_left(hub: HubProcess, node: str, tmp_path: Path) -> None:
    """Node queues the output for a full pipe, and the queue is lost when the program is killed."""
    position = tmp_path / "position.json"
    with EventProducer(hub.link, "test") as link:
        for number in range(1000):  # one page, and more than a pipe holds
            link.post(prediction(number=number))
        wait_until(lambda: link.unacknowledged == 0, "confirmation")
    with subprocess.Popen([node, CLIENTS / "replay.js", hub.events, position], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        try:
            fcntl.fcntl(program.stdout, fcntl.F_SETPIPE_SZ, 4096)  # type: ignore[attr-defined]  # only Linux has it
            wait_until(lambda: unread_bytes(program.stdout) > 3000, "a full pipe")
            wait_until(idle_check(program.pid), "the end of the page")
        finally:
            program.kill()
        printed = [json.loads(line)["offset"] for line in program.stdout]
    stored = json.loads(position.read_text())["after"] if position.exists() else 0
    assert 0 < len(printed) < 1000
    assert stored <= len(printed)


def unread_bytes(pipe: Any) -> int:
    unread: int = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"1234"))[0]
    return unread


def idle_check(pid: int) -> Callable[[], bool]:
    """Return a condition: the main thread has slept through the last 20 calls, so it waits for an event."""
    seen: deque[tuple[str, int]] = deque(maxlen=20)

    def is_idle() -> bool:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        seen.append((state, wakes(pid, pid)))
        return seen.count(("S", seen[0][1])) == 20

    return is_idle
